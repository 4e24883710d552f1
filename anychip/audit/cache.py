"""What an earlier audit found in files that have not changed since: one JSON file per audited tree.

It lies in the user's cache folder ($XDG_CACHE_HOME or ~/.cache, under anychip/audit) and is good for these very rules and
this Python only. A cache that cannot be read or written is no error: the audit takes longer.
"""

import dataclasses
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache as remember
from pathlib import Path
from typing import Any

from anychip.audit.finding import Finding
from anychip.audit.one import FileResult
from anychip.port.survey import Project
from anychip.source.files import File
from anychip.source.flow import Sink
from anychip.source.ignores import Ignores
from anychip.source.module import Place
from anychip.source.project import ModuleFlow, Source

_FIELDS = tuple(field.name for field in dataclasses.fields(Finding) if field.name != "node")


@remember
def version() -> str:
    """Of the rules: a digest of every file of anychip.audit, anychip.port and anychip.source, and Python's own version."""
    digest = hashlib.blake2b(sys.version.encode(), digest_size=12)
    here = Path(__file__).parent
    for folder in (here, here.parent / "port", here.parent / "source"):
        for file in sorted([*folder.rglob("*.py"), *folder.rglob("*.csv")]):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _version_of(project: Project) -> list[Any]:
    return [version(), project.stars, *([name, place] for name, place in sorted(project.own_cuda.items()))]


def cache_file(root: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    name = hashlib.blake2b(os.path.realpath(root).encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    return Path(base) / "anychip" / "audit" / f"{name}.json"


def load(root: str, project: Project) -> dict[str, tuple[list[int], list[Any]]]:
    """path -> ([bytes, time of change], row); empty where there is nothing good, or was made of another project."""
    try:
        with cache_file(root).open(encoding="utf-8") as file:
            whole = json.load(file)
        return whole["files"] if whole["version"] == _version_of(project) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def save(root: str, project: Project, files: Iterable[File], rows: Mapping[str, list[Any]]) -> None:
    """Written whole or not at all."""
    kept = {file.path: ([file.num_bytes, file.mtime_ns], rows[file.path]) for file in files if file.path in rows}
    target = cache_file(root)
    name = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"version": _version_of(project), "files": kept}, file, separators=(",", ":"))
        os.replace(name, target)
    except (OSError, ValueError):
        if name and os.path.exists(name):
            os.unlink(name)


def to_row(result: FileResult) -> list[Any]:
    """The result as plain lists, for JSON and for passing between processes."""
    flow = result.flow
    return [
        result.path, result.kind, result.num_lines, [_finding_row(f) for f in result.findings],
        None if flow is None else _flow_row(flow),
        [[[line, sorted(names)] for line, names in result.ignores.lines.items()], sorted(result.ignores.whole)],
        result.silenced, result.skipped, result.edits,
    ]  # fmt: skip


def from_row(row: list[Any]) -> FileResult:
    path, kind, num_lines, findings, flow, (lines, whole), silenced, skipped, edits = row
    silence = Ignores({line: frozenset(names) for line, names in lines}, frozenset(whole))
    return FileResult(
        path, kind, num_lines, tuple(_finding(f) for f in findings), _flow(flow), silence, silenced, skipped, edits
    )


def _place_row(place: Place | None) -> list[Any] | None:
    return None if place is None else [place.path, place.line, place.column, place.end_line, place.end_column]


def _finding_row(finding: Finding) -> list[Any]:
    return [_place_row(v) if n in ("place", "source") else v for n in _FIELDS for v in (getattr(finding, n),)]


def _finding(row: list[Any]) -> Finding:
    values = dict(zip(_FIELDS, row, strict=True))
    values["place"] = Place(*values["place"])
    values["source"] = Place(*values["source"]) if values["source"] else None
    values["need"] = tuple(values["need"])
    return Finding(**values)


def _flow_row(flow: ModuleFlow) -> list[Any]:
    sources = [[slot, _place_row(s.place), s.kind, s.text] for slot, s in flow.sources]
    sinks = [[_place_row(s.place), s.what, s.slot, s.symbol] for s in flow.sinks]
    return [flow.module, sources, {k: list(v) for k, v in flow.edges.items()}, sinks]


def _flow(row: list[Any] | None) -> ModuleFlow | None:
    if row is None:
        return None
    module, sources, edges, sinks = row
    return ModuleFlow(
        module,
        tuple((slot, Source(Place(*place), kind, text)) for slot, place, kind, text in sources),
        {slot: tuple(from_) for slot, from_ in edges.items()},
        tuple(Sink(Place(*place), what, slot, symbol) for place, what, slot, symbol in sinks),
    )
