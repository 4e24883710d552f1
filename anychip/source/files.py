"""Which files of a tree are read, and which are not and why.

In: a file or a folder. Out: `Tree(files, skipped)`, by path. Links are followed once (a link to a folder that contains it
ends there); folders of other projects (.git, node_modules, environments) are left out; submodules that were not fetched
are told.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anychip.source.text import MAX_BYTES

_SUFFIXES = {
    "python": (".py", ".pyi", ".pyw", ".py.in"),
    "notebook": (".ipynb",),
    "shell": (".sh", ".bash", ".zsh", ".slurm", ".sbatch", ".ksh"),
    "config": (".yaml", ".yml", ".toml", ".json", ".cfg", ".ini", ".gin", ".env", ".j2", ".conf"),
    "cuda": (".cu", ".cuh", ".cu.in", ".hip", ".cuf"),
    "cxx": (".cpp", ".cc", ".cxx", ".c", ".h", ".hpp", ".hh", ".hxx", ".inl", ".tpp", ".cppm", ".ipp"),
    "cmake": (".cmake", ".bazel", ".bzl", ".mk"),
    "docs": (".md", ".rst"),
}
_BY_SUFFIX = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes}
_BY_NAME = {
    "dockerfile": re.compile(r"(?:.*\.)?(?:dockerfile|containerfile)(?:[.-].*)?\Z|.*[._-]dockerfile\Z", re.IGNORECASE),
    "requirements": re.compile(
        r"(?:.*[-_.])?(?:requirements?|reqs?|deps|constraints?)(?:[-_.].*)?\.(?:txt|in)\Z|Pipfile\Z|environment.*\.ya?ml\Z|"
        r"conda.*\.ya?ml\Z|pyproject\.toml\Z|setup\.cfg\Z",
        re.IGNORECASE,
    ),
    "cmake": re.compile(r"CMakeLists\.txt\Z|GNUmakefile\Z|Makefile.*\Z|meson\.build\Z|BUILD(?:\.bazel)?\Z|WORKSPACE\Z"),
    "shell": re.compile(r"Justfile\Z|Procfile\Z|Jenkinsfile\Z", re.IGNORECASE),
}
KINDS = ("python", "notebook", "shell", "config", "requirements", "dockerfile", "cmake", "cuda", "cxx", "docs")
# Folders that hold other projects' code or none: never entered.
_LEFT_OUT = frozenset({".git", ".hg", ".svn", "node_modules", "__pycache__", ".tox", ".nox", ".mypy_cache", ".ruff_cache",
                       ".pytest_cache", ".eggs", "site-packages", ".ipynb_checkpoints"})  # fmt: skip


@dataclass(frozen=True)
class File:
    """path: as reports show it, relative to the root, with slashes. real: where it is. kind: one of KINDS."""

    path: str
    real: str
    kind: str
    num_bytes: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True)
class Skipped:
    path: str
    reason: str


@dataclass(frozen=True)
class Tree:
    root: str
    files: tuple[File, ...]
    skipped: tuple[Skipped, ...]


def kind_of(path: str) -> str | None:
    """What sort of file it is by its name; None for those that are not read."""
    name = path.rpartition("/")[2]
    for kind, pattern in _BY_NAME.items():
        if pattern.match(name):
            return kind
    lower = name.lower()
    for at, letter in enumerate(lower):
        if letter == "." and lower[at:] in _BY_SUFFIX:
            return _BY_SUFFIX[lower[at:]]
    return None


def tree(path: str | Path) -> Tree:
    """Raises FileNotFoundError if there is no such path."""
    root = os.fspath(path)
    if not os.path.lexists(root):
        raise FileNotFoundError(root)
    skipped: list[Skipped] = []
    if os.path.isdir(root):
        files = tuple(sorted(_walk(root, skipped), key=lambda file: file.path))
    else:
        found = _file(root, os.path.basename(root), skipped, kind_of(root) or "python")
        files = (found,) if found else ()
    return Tree(root, files, tuple(sorted(skipped, key=lambda skip: skip.path)))


def _walk(root: str, skipped: list[Skipped]) -> Iterator[File]:
    seen: set[tuple[int, int]] = set()
    stack = [""]
    while stack:
        inside = stack.pop()
        folder = os.path.join(root, inside) if inside else root
        try:
            status = os.stat(folder)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            skipped.append(Skipped(inside or ".", f"cannot be read: {error.strerror or error}"))
            continue
        if (status.st_dev, status.st_ino) in seen:
            skipped.append(Skipped(inside, "a link to a folder that was read already"))
            continue
        seen.add((status.st_dev, status.st_ino))
        if inside and not entries and _is_submodule(root, inside):
            skipped.append(Skipped(inside, "a submodule that was not fetched"))
        for entry in entries:
            name = f"{inside}/{entry.name}" if inside else entry.name
            if _is_folder(entry):
                if not _is_left_out(entry):
                    stack.append(name)
            elif (kind := kind_of(name) or _by_first_line(entry)) and (found := _file(entry.path, name, skipped, kind)):
                yield found


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_left_out(entry: "os.DirEntry[str]") -> bool:
    return entry.name in _LEFT_OUT or os.path.isfile(os.path.join(entry.path, "pyvenv.cfg"))


def _is_submodule(root: str, inside: str) -> bool:
    try:
        with open(os.path.join(root, ".gitmodules"), encoding="utf-8", errors="replace") as file:
            return bool(re.search(rf"^\s*path\s*=\s*{re.escape(inside)}\s*$", file.read(), re.MULTILINE))
    except OSError:
        return False


def _by_first_line(entry: "os.DirEntry[str]") -> str | None:
    """Programs without a suffix say in their first line what runs them."""
    if "." in entry.name:
        return None
    try:
        if not entry.is_file() or not entry.stat().st_mode & 0o111:
            return None
        with open(entry.path, "rb") as file:
            first = file.readline(200)
    except OSError:
        return None
    if not first.startswith(b"#!"):
        return None
    return "python" if b"python" in first else "shell" if re.search(rb"\b(ba|z|da|k)?sh\b", first) else None


def _file(real: str, path: str, skipped: list[Skipped], kind: str) -> File | None:
    try:
        status = os.stat(real)
    except OSError as error:
        skipped.append(Skipped(path, f"cannot be read: {error.strerror or error}"))
        return None
    if not os.path.isfile(real):
        skipped.append(Skipped(path, "no regular file"))
        return None
    if status.st_size > MAX_BYTES:
        skipped.append(Skipped(path, f"{status.st_size / 1e6:.0f} MB: too large to be written by hand"))
        return None
    return File(path, real, kind, status.st_size, status.st_mtime_ns)
