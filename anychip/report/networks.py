"""What is known of clusters and links, as text and JSON, in the form of `report.chips`."""

from collections.abc import Mapping, Sequence
from typing import Any

from anychip.report.chips import SCHEMA, figure_lines, figure_record, list_width, paragraphs, screen_width, table
from anychip.spec import Cluster, Wire
from anychip.spec.units import show

_SKIPPED = ("sources", "notes", "aliases", "chips", "schema_version", "id", "name", "disputed")


def clusters_text(clusters: Sequence[Cluster]) -> str:
    rows = [("id", "aliases", "chips", "node", "scale-up", "network", "largest")]
    rows += [
        (c.id, ", ".join(c.aliases) or "-", ", ".join(c.chips) or "any", _count(c.node_chips),
         f"{_count(c.domain_chips)} {c.topology}", _rate(c.nic_bytes_per_s), _count(c.max_chips))
        for c in clusters
    ]  # fmt: skip
    hint = "One of them: anychip chips clusters ID. On one: anychip forecast --on CHIP:COUNT@ID program.py"
    return f"{table(rows, list_width(), 1, 2)}\n\n{len(clusters)} clusters. {hint}"


def links_text(wires: Sequence[Wire]) -> str:
    rows = [("id", "name", "one link, one way", "efficiency", "latency", "adds up")]
    rows += [
        (w.id, w.name, _rate(w.link_bytes_per_s), _plain(w.efficiency), _time(w.latency_s),
         "yes" if w.in_network_reduction else "no")
        for w in wires
    ]  # fmt: skip
    return f"{table(rows, list_width(), 1)}\n\n{len(wires)} links. One of them: anychip chips links ID"


def sheet_text(sheet: Cluster | Wire, asked: str) -> str:
    """One cluster or link: every figure with its source, and what the file says in words."""
    width = screen_width()
    head = f"{asked} -> {sheet.id}" if asked != sheet.id else sheet.id
    chips = f" of {', '.join(sheet.chips) or 'any chip'}" if isinstance(sheet, Cluster) else ""
    lines = [head, f"{sheet.name}{chips}; {sheet.file}", "", *figure_lines(sheet.figures, width)]
    words = [f"{path}: {_word(value)}" for path, value in _words(sheet.raw, sheet.figures, "")]
    return "\n".join([*lines, *paragraphs(words, width), *paragraphs(sheet.notes, width)])


def _words(table_: Mapping[str, Any], figures: Mapping[str, Any], path: str) -> list[tuple[str, Any]]:
    """What is written beside the figures: topologies, shapes, notes."""
    found: list[tuple[str, Any]] = []
    for key, value in table_.items():
        here = f"{path}.{key}" if path else key
        if here in figures or (not path and key in _SKIPPED):
            continue
        found += _words(value, figures, here) if isinstance(value, dict) else [(here, value)]
    return found


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def sheets_json(kind: str, sheets: Sequence[Cluster | Wire]) -> dict[str, Any]:
    """{"schema", kind: [{id, name, figures, words, notes, and of a cluster aliases and chips}]}."""
    return {"schema": SCHEMA, kind: [_record(sheet) for sheet in sheets]}


def _record(sheet: Cluster | Wire) -> dict[str, Any]:
    more = {"aliases": list(sheet.aliases), "chips": list(sheet.chips)} if isinstance(sheet, Cluster) else {}
    return {
        "id": sheet.id,
        "name": sheet.name,
        **more,
        "figures": {path: figure_record(figure) for path, figure in sheet.figures.items()},
        "words": dict(_words(sheet.raw, sheet.figures, "")),
        "notes": list(sheet.notes),
    }


def _count(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _rate(value: float | None) -> str:
    return "unknown" if value is None else show(value, "byte/s")


def _plain(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"


def _time(value: float | None) -> str:
    return "unknown" if value is None else f"{value * 1e6:g} us"
