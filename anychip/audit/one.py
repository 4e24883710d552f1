"""One file audited: every rule's findings, less what comments silence, and the file's flow of device names."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from anychip.audit.finding import Finding
from anychip.audit.reading import Plain, read_text, shell_of
from anychip.audit.rule import rules_for
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
    """skipped: why it was not read, "" if it was. silenced: findings that a comment silences."""

    path: str
    kind: str
    num_lines: int = 0
    findings: tuple[Finding, ...] = ()
    flow: ModuleFlow | None = None
    ignores: Ignores = NONE
    silenced: int = 0
    skipped: str = ""


def audit_file(file: File) -> FileResult:
    """Never raises for what the file is: `skipped` says why it was not read."""
    try:
        with open(file.real, "rb") as stream:
            data = stream.read()
        text = decode(data, python=file.kind == "python")
    except (OSError, Unreadable) as error:
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        return FileResult(file.path, file.kind, skipped=reason)
    return audit_text(text, file.kind, file.path)


def audit_text(text: str, kind: str, path: str) -> FileResult:
    try:
        source = read_text(text, kind, path, module_name(path))
        shell = shell_of(text, path) if kind == "notebook" else None
    except Unreadable as error:
        old = kind == "python" and _PYTHON_2.search(text)
        return FileResult(path, kind, text.count("\n") + 1, skipped=f"{'Python 2: ' if old else ''}{error}")
    silenced = ignores(text)
    found = [*_findings(source), *(_findings(shell) if shell else ())]
    kept = [f for f in found if not silenced.covers(f.place.line, f.rule, f.place.end_line)]
    kept.sort(key=lambda f: (f.place.line, f.place.column, f.rule))
    flow = module_flow(source) if isinstance(source, Module) and _says_anything(text) else None
    return FileResult(path, kind, source.num_lines, tuple(kept), flow, silenced, len(found) - len(kept))


def _findings(source: Module | Plain) -> Iterator[Finding]:
    for rule in rules_for(source.kind):
        for found in rule.find(source):
            yield replace(found, node=None, fingerprint=_fingerprint(source, found))


def _fingerprint(source: Module | Plain, found: Finding) -> str:
    """By rule, file, symbol and the text of the line, not its number."""
    line = "" if source.lines else source.line(found.place.line).strip()
    return fingerprint(found.rule, found.path, found.symbol, line)


def fingerprint(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


_FLOWING = re.compile(r"cuda|nccl|device|gpu|backend", re.IGNORECASE)


def _says_anything(text: str) -> bool:
    return _FLOWING.search(text) is not None
