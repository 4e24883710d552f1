"""What is left of a file once all that the schema refuses is taken out, so that the lint rules can look at the rest.

In: a document and its schema problems. Out: a document of what is sound; a figure of which only the origin is wrong keeps
its value, from a source that stands in, and a source of which only the title or the date is wrong keeps its kind and address.
"""

import copy
from collections.abc import Sequence
from typing import Any

from anychip.spec.problem import Problem
from anychip.spec.toml import Document

_STAND_IN = {"title": "unknown", "kind": "estimated", "date": "2026"}
_NAME = "stand-in"


def sound(doc: Document, problems: Sequence[Problem]) -> Document:
    """`doc` without what `problems`, those of the schema, name."""
    if not problems:
        return doc
    table = copy.deepcopy(doc.table)
    for problem in problems:
        _without(table, problem.path.split("."))
    return Document(doc.file, doc.text, table)


def _without(table: dict[str, Any], parts: list[str]) -> None:
    if not isinstance(table.get("sources", {}), dict):
        del table["sources"]
    if parts[0] == "sources" and len(parts) > 1:
        source, name = table["sources"].get(parts[1]), parts[-1]
        if isinstance(source, dict) and name in ("title", "date"):
            source[name] = _STAND_IN[name]  # of what kind it is, and where, can still be looked at
        else:
            table["sources"][parts[1]] = dict(_STAND_IN)
    elif parts[0] == "disputed":
        table.pop("disputed", None)
    elif not _without_origin(table, parts):
        # A value or a unit takes its figure with it; a field that is missing is none to take out.
        _drop(table, parts[:-1] if parts[-1] in ("value", "unit") else parts)


def _without_origin(table: dict[str, Any], parts: list[str]) -> bool:
    """Whether `parts` are something of a figure beside its value and unit; a source that is none is stood in for."""
    figure = _at(table, parts[:-1])
    if not isinstance(figure, dict) or "value" not in figure or parts[-1] in ("value", "unit"):
        return False
    figure.pop(parts[-1], None)
    if parts[-1] == "src":
        figure["src"] = _NAME
        table.setdefault("sources", {})[_NAME] = dict(_STAND_IN)
    return True


def _at(table: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        table = table.get(part) if isinstance(table, dict) else None
    return table


def _drop(table: dict[str, Any], parts: Sequence[str]) -> None:
    parent = _at(table, parts[:-1])
    if isinstance(parent, dict) and parts:
        parent.pop(parts[-1], None)
