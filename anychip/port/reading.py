"""Files of a tree to port, one after the other: read as Python reads them, and told why where one cannot be.

A file comes as text with what is needed to write it back unchanged: its encoding, its byte order mark, its line ends.
Symbolic links are not followed, so no loop is; submodules and .git are other projects.
"""

import io
import os
import stat
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anychip.errors import BadUse

SKIPPED_FOLDERS = frozenset(
    [
        ".git",
        ".hg",
        ".svn",
        "__pycache__",
        "node_modules",
        ".tox",
        ".venv",
        "venv",
        ".mypy_cache",
        ".pytest_cache",
        ".eggs",
    ]
)
# Beyond this a Python file is data, or made by a program.
MAX_BYTES = 20_000_000
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class File:
    """path: relative to the root, with /. problem: why it could not be read, "" if it could."""

    path: str
    text: str = ""
    encoding: str = "utf-8"
    bom: bool = False
    problem: str = ""

    def bytes_of(self, text: str) -> bytes:
        """The text as the file's own bytes. UnicodeEncodeError if it has characters that the encoding lacks."""
        return (BOM if self.bom else b"") + text.encode(self.encoding, "surrogateescape")


def find(root: Path, skipped: dict[str, str] | None = None) -> Iterator[str]:
    """Relative paths of all regular files below a folder, in a fixed order; or the one file itself.

    skipped: takes the projects inside this one, with the reason.
    """
    if root.is_file():
        yield root.name
        return
    if not root.is_dir():
        raise BadUse(f"{root}: there is no such file or folder.")
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        nested = [f for f in folders if f not in SKIPPED_FOLDERS and (here / f / ".git").exists()]
        if skipped is not None:
            skipped.update(
                {(here / f).relative_to(root).as_posix(): "a project of its own (submodule)" for f in nested}
            )
        folders[:] = sorted(
            f for f in folders if f not in SKIPPED_FOLDERS and f not in nested and not (here / f).is_symlink()
        )
        for name in sorted(files):
            path = (here / name).relative_to(root).as_posix()
            if (here / name).is_symlink():
                continue
            if stat.S_ISREG((here / name).lstat().st_mode):
                yield path
            elif skipped is not None:
                skipped[path] = "no regular file"


def links(root: Path) -> Iterator[str]:
    """Relative paths of the symbolic links below a folder, of files and of folders, outside the folders that are left out."""
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        folders[:] = sorted(f for f in folders if f not in SKIPPED_FOLDERS)
        for name in sorted([*folders, *files]):
            if (here / name).is_symlink():
                yield (here / name).relative_to(root).as_posix()


def base_of(root: Path) -> Path:
    """The folder that paths of `find` are relative to."""
    return root if root.is_dir() else root.parent


def read(base: Path, path: str) -> File:
    """One file. Its problem is set, and never raised, where it is no text or cannot be read."""
    try:
        if (base / path).stat().st_size > MAX_BYTES:
            return File(path, problem=f"larger than {MAX_BYTES // 10**6} MB: data, or made by a program")
        data = (base / path).read_bytes()
    except OSError as error:
        return File(path, problem=f"cannot be read: {error.strerror}")
    if b"\0" in data[:8192]:
        return File(path, problem="binary")
    encoding = _encoding(data) if path.endswith((".py", ".pyi")) else "utf-8"
    bom = data.startswith(BOM)
    try:
        return File(path, data.removeprefix(BOM).decode(encoding), encoding, bom)
    except (UnicodeDecodeError, LookupError) as error:
        return File(path, problem=f"its encoding cannot be read: {error}"[:200])


def _encoding(data: bytes) -> str:
    """As PEP 263 says."""
    try:
        found, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    except SyntaxError:
        return "utf-8"
    return "utf-8" if found == "utf-8-sig" else found
