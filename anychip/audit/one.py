"""One file audited: every rule's findings, less what comments silence, and the file's flow of device names."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from anychip.audit.finding import AGE, Finding
from anychip.audit.reading import Plain, read_text, shell_of
from anychip.audit.rule import rules_for
from anychip.port.engine import port_source
from anychip.port.left import is_edited, span
from anychip.port.survey import NO_PROJECT, Project
from anychip.port.target import PORTABLE_TARGET
from anychip.port.unit import Change
from anychip.source.files import File
from anychip.source.ignores import NONE, Ignores, ignores
from anychip.source.module import Module, module_name
from anychip.source.project import ModuleFlow, module_flow
from anychip.source.text import Unreadable, decode

# Python 2, where a file does not parse: the program is too old to run, whatever the chip.
_PYTHON_2 = re.compile(
    r"^\s*print\s+[\"'\w(%]|^\s*except\s+[\w.]+\s*,\s*\w+\s*:|^\s*exec\s+[\"'\w]|^\s*raise\s+\w+\s*,", re.MULTILINE
)


@dataclass(frozen=True)
class FileResult:
    """skipped: why it was not read, "" if it was. silenced: findings that a comment silences. edits: that
    `anychip port` makes in it."""

    path: str
    kind: str
    num_lines: int = 0
    findings: tuple[Finding, ...] = ()
    flow: ModuleFlow | None = None
    ignores: Ignores = NONE
    silenced: int = 0
    skipped: str = ""
    edits: int = 0


def audit_file(file: File, project: Project) -> FileResult:
    """project: what is known of the files around it. Never raises for what the file is: `skipped` says why it was not read."""
    try:
        with open(file.real, "rb") as stream:
            data = stream.read()
        text = decode(data, python=file.kind == "python")
    except (OSError, Unreadable) as error:
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        return FileResult(file.path, file.kind, skipped=reason)
    return audit_text(text, file.kind, file.path, project)


def audit_text(text: str, kind: str, path: str, project: Project = NO_PROJECT) -> FileResult:
    try:
        source = read_text(text, kind, path, module_name(path))
        shell = shell_of(text, path) if kind == "notebook" else None
    except Unreadable as error:
        old = kind == "python" and _PYTHON_2.search(text)
        return FileResult(path, kind, text.count("\n") + 1, skipped=f"{'Python 2: ' if old else ''}{error}")
    silenced = ignores(text)
    found = [*find_in(source), *(find_in(shell) if shell else ())]
    kept = [f for f in found if not silenced.covers(f.place.line, f.rule, f.place.end_line)]
    ported = port_source(source.text, PORTABLE_TARGET, project) if kept and isinstance(source, Module) else None
    changes = ported.changes if ported else ()
    kept = [_marked(source, f, changes) for f in sorted(kept, key=lambda f: (f.place.line, f.place.column, f.rule))]
    flow = module_flow(source) if isinstance(source, Module) and _says_anything(text) else None
    num_silenced = len(found) - len(kept)
    return FileResult(path, kind, source.num_lines, tuple(kept), flow, silenced, num_silenced, edits=len(changes))


def find_in(source: Module | Plain) -> Iterator[Finding]:
    """What every rule finds in a file, silenced or not, with its nodes."""
    for rule in rules_for(source.kind):
        yield from rule.find(source)


def findings(text: str, kind: str, path: str, own: frozenset[str]) -> list[Finding]:
    """What `anychip port` is told of a file: all that no comment silences, with nodes. own: packages of the project itself.
    Raises Unreadable."""
    silenced = ignores(text)
    found = less_own(find_in(read_text(text, kind, path, module_name(path))), own)
    return [f for f in found if not silenced.covers(f.place.line, f.rule, f.place.end_line)]


def _marked(source: Module | Plain, found: Finding, changes: Sequence[Change]) -> Finding:
    """Without its node, and told whether `anychip port` edits it: which is asked, not known by another list."""
    edited = found.node is not None and is_edited(source, found, span(source, found), changes)
    return replace(found, node=None, automatic=edited, fingerprint=_fingerprint(source, found))


def _fingerprint(source: Module | Plain, found: Finding) -> str:
    """By rule, file, symbol and the text of the line, not its number."""
    line = "" if source.lines else source.line(found.place.line).strip()
    return fingerprint(found.rule, found.path, found.symbol, line)


def fingerprint(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


_FLOWING = re.compile(r"cuda|nccl|device|gpu|backend", re.IGNORECASE)


def _says_anything(text: str) -> bool:
    return _FLOWING.search(text) is not None


# ---------------------------------------------------------------- the project's own modules

# Rules that look for packages of others, and what they make of them.
_OF_OTHERS = frozenset({"attention", "fused", "library", "kernel", "amp", "frameworks", "data-parallel"})


def own_packages(paths: Iterable[str]) -> frozenset[str]:
    """Packages that the project itself is: folders with an __init__.py that stand in no such folder, by their name and, for
    parts of namespace packages, with the folder's that they stand in: "core" and "megatron.core" of megatron/core."""
    folders = {path.rpartition("/")[0] for path in paths if path.endswith("/__init__.py")}
    tops = [folder.split("/") for folder in folders if folder.rpartition("/")[0] not in folders]
    return frozenset([parts[-1] for parts in tops] + [".".join(parts[-2:]) for parts in tops if len(parts) > 1])


def _is_own(symbol: str, own: frozenset[str]) -> bool:
    parts = symbol.split(".")
    return parts[0] in own or ".".join(parts[:2]) in own


def less_own(findings: Iterable[Finding], own: frozenset[str]) -> Iterator[Finding]:
    """An import of the project's own package costs nothing where it stands: what is bound is in the package itself, and in a
    part of it that calls itself cuda."""
    for found in findings:
        if found.rule in _OF_OTHERS and _is_own(found.symbol, own) and "cuda" not in found.symbol.split("."):
            yield replace(
                found, severity="flow", automatic=False, need=("", ""), message="a package of this project: what is bound is in its own files",
                fix="nothing here: it moves with them",
            )  # fmt: skip
        elif found.severity != AGE or not _is_own(found.symbol, own):
            yield found
