"""Is this file what the schema says? All problems at once, each with its line and what to write instead.

In: a parsed table. Out: a list of `Problem`. Pure: reads nothing but its arguments. What needs other files (platforms
that exist, aliases that clash) is left to the lint rules.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from anychip.spec.fields import DTYPES, KINDS, Field, Node, tree
from anychip.spec.problem import Problem
from anychip.spec.toml import Document
from anychip.spec.units import BOUNDS, UNITS, to_si, units_of

_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\Z")
YEARS = 1990, 2035  # of what a file may tell: others are typing errors
_DATE = re.compile(r"(\d{4})(?:-(0[1-9]|1[0-2])(?:-(0[1-9]|[12]\d|3[01]))?)?\Z")
_FIGURE_KEYS = ("value", "unit", "src", "kind", "date", "note")
WORDS = ("unknown", "none")
MAX_TEXT = 4000
MAX_ID = 100


def is_id(name: str) -> bool:
    """Is this a name that a file can have: small letters, digits, single dashes?"""
    return len(name) <= MAX_ID and _ID.match(name) is not None


def validate(doc: Document, schema: str = "chips", *, partial: bool = False) -> list[Problem]:
    """Every problem of `doc` under `schema`. partial: the file `extends` another, so nothing is required of it."""
    if doc.problems:
        return list(doc.problems)
    partial = partial or "extends" in doc.table
    return list(_Walk(doc, partial).table(doc.table, tree(schema), ""))


class _Walk:
    """One pass over one document; holds what every check needs."""

    def __init__(self, doc: Document, partial: bool) -> None:
        self.doc = doc
        self.partial = partial
        sources = doc.table.get("sources")
        self.sources: Mapping[str, Any] = sources if isinstance(sources, dict) else {}

    def table(self, value: Any, node: Node, path: str) -> Iterator[Problem]:
        """Unknown keys, missing required fields, and each child by its own field."""
        if not isinstance(value, dict):
            yield self.doc.problem(path, f"expected a table, got {_typename(value)}", f"write [{path}] and its fields")
            return
        for key, item in value.items():
            here = f"{path}.{key}" if path else key
            child = node.children.get(key) or node.wildcard
            if child is None:
                yield self._unknown_key(key, node, here)
            elif child.field is None:
                yield from self._child_table(item, child, here)
            else:
                yield from self.field(item, child.field, here)
        yield from self._missing(value, node, path)

    def _child_table(self, item: Any, child: Node, here: str) -> Iterator[Problem]:
        if here == "disputed" and isinstance(item, list):
            for index, entry in enumerate(item):
                assert child.wildcard is not None
                yield from self.table(entry, child.wildcard, f"{here}.{index}")
        else:
            yield from self.table(item, child, here)

    def _unknown_key(self, key: str, node: Node, here: str) -> Problem:
        near = difflib.get_close_matches(key, node.children, 1)
        names = ", ".join(sorted(node.children))
        return self.doc.problem(here, "no such field", f"did you mean {near[0]}?" if near else f"fields here: {names}")

    def _missing(self, value: Mapping[str, Any], node: Node, path: str) -> Iterator[Problem]:
        if self.partial and not path.startswith("sources") and not path.startswith("disputed"):
            return
        for key, child in node.children.items():
            if child.field and child.field.required and key not in value:
                here = f"{path}.{key}" if path else key
                told = [word for word in child.field.choices if word not in child.field.about]
                yield self.doc.problem(
                    here, "missing", child.field.about + (f" One of {', '.join(told)}." if told else "")
                )

    def field(self, value: Any, field: Field, here: str) -> Iterator[Problem]:
        yield from _CHECKS[field.type](self, value, field, here)

    def _wrong(self, here: str, expected: str, value: Any, fix: str | None = None) -> Problem:
        return self.doc.problem(here, f"expected {expected}, got {_shown(value)}", fix)

    def text(self, value: Any, field: Field, here: str) -> Iterator[Problem]:
        if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT:
            yield self._wrong(here, "text", value)
        elif not value.isprintable():
            yield self._wrong(here, "printable text", value)
        elif field.choices and value not in field.choices:
            near = difflib.get_close_matches(value, field.choices, 1)
            yield self._wrong(here, "one of " + ", ".join(field.choices), value, f"write {near[0]}" if near else None)
        elif field.path in ("id", "platform", "extends") and not is_id(value):
            yield self._wrong(here, "small letters, digits and single dashes", value)
        elif field.path == "id" and value != self.doc.file.stem:
            yield self._wrong(here, f"the file's name, {self.doc.file.stem}", value, f'id = "{self.doc.file.stem}"')
        elif here.rsplit(".", 1)[-1] in ("src", "library_src", "algorithms_src"):
            yield from self._source(value, here)
        elif field.path == "sources.*.url" and not value.startswith(("https://", "http://")):
            yield self._wrong(here, "a web address", value, "https://...")

    def date(self, value: Any, field: Field, here: str) -> Iterator[Problem]:
        first, last = YEARS
        if not isinstance(value, str) or not (match := _DATE.match(value)):
            yield self._wrong(here, 'a date as text, "2026-11-23", "2026-11" or "2026"', value)
        elif not first <= int(match[1]) <= last:
            yield self._wrong(here, f"a date of {first} to {last}", value)

    def integer(self, value: Any, field: Field, here: str) -> Iterator[Problem]:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1_000_000:
            yield self._wrong(here, "a whole number above 0", value)
        elif field.choices and str(value) not in field.choices:
            yield self._wrong(here, " or ".join(field.choices), value, "this version reads schema_version = 1")

    def flag(self, value: Any, field: Field, here: str) -> Iterator[Problem]:
        if not isinstance(value, bool):
            yield self._wrong(here, "true or false", value)

    def texts(self, value: Any, field: Field, here: str) -> Iterator[Problem]:
        if not isinstance(value, list):
            yield self._wrong(here, "a list of texts", value, '["...", "..."]')
            return
        for item in value:
            if not isinstance(item, str) or not item.strip() or not item.isprintable() or len(item) > MAX_TEXT:
                yield self._wrong(here, "a list of texts", item)
            elif field.choices and item not in field.choices:
                yield self._wrong(here, "each one of " + ", ".join(field.choices), item)
            elif field.path == "aliases" and not re.fullmatch(r"[a-z0-9][a-z0-9.+_-]*", item):
                yield self._wrong(here, "aliases in small letters without spaces", item)

    def integers(self, value: Any, field: Field, here: str) -> Iterator[Problem]:
        if not isinstance(value, list) or not value or not all(type(n) is int and 0 <= n < 1000 for n in value):
            yield self._wrong(here, "a list of small whole numbers", value, "[8, 0]")
        elif field.path.endswith("capability") and len(value) != 2:
            yield self._wrong(here, "major and minor", value, "[8, 0]")

    def figure(self, value: Any, field: Field, here: str) -> Iterator[Problem]:
        yield from self._dtype_name(field, here)
        if value in WORDS if isinstance(value, str) else False:
            return
        if not isinstance(value, dict):
            fix = f'{{ value = ..., unit = "{units_of(field.dimension)[0]}", src = "..." }}, "unknown" or "none"'
            yield self._wrong(here, "a figure", value, fix)
            return
        yield from self._provenance(value, here)
        number, unit = value.get("value"), value.get("unit")
        allowed = units_of(field.dimension)
        if not isinstance(unit, str) or UNITS.get(unit, ("", ""))[1] != field.dimension:
            yield self._wrong(f"{here}.unit", "a unit of " + field.dimension, unit, "one of " + ", ".join(allowed))
        elif isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            yield self._wrong(f"{here}.value", "a number", number)
        else:
            yield from self._plausible(number, unit, field, here)

    def _plausible(self, number: float, unit: str, field: Field, here: str) -> Iterator[Problem]:
        low, high = BOUNDS[field.dimension]
        try:
            value = to_si(number, unit)
        except OverflowError:
            value = math.inf
        if not low <= value <= high:
            shown = f"{value:.4g} {field.dimension}"
            yield self.doc.problem(here, f"{shown} cannot be: outside of {low:g} to {high:g}", "check digits and unit")
        elif field.dimension == "count" and value != int(value):
            yield self._wrong(here, "a whole number", number)

    def _dtype_name(self, field: Field, here: str) -> Iterator[Problem]:
        dtype = here.rsplit(".", 1)[-1]
        if field.path.startswith("peaks.") and dtype not in DTYPES:
            near = difflib.get_close_matches(dtype, DTYPES, 1)
            fix = f"did you mean {near[0]}?" if near else "dtypes: " + ", ".join(DTYPES)
            yield self.doc.problem(here, "no such dtype", fix)

    def shape(self, value: Any, field: Field, here: str) -> Iterator[Problem]:
        if value in WORDS if isinstance(value, str) else False:
            return
        if not isinstance(value, dict):
            yield self._wrong(here, "a shape", value, '{ value = [128, 256, 64], src = "..." }')
            return
        yield from self._provenance(value, here)
        sizes, want = value.get("value"), 3 if field.path.endswith("tile") else 2
        if not isinstance(sizes, list) or len(sizes) != want:
            yield self._wrong(f"{here}.value", f"a list of {want} sizes", sizes)
        elif not all(type(n) is int and 1 <= n <= 4096 for n in sizes):
            yield self._wrong(f"{here}.value", "whole sizes from 1 to 4096", sizes)

    def _provenance(self, value: Mapping[str, Any], here: str) -> Iterator[Problem]:
        for key in value:
            if key not in _FIGURE_KEYS:
                yield self.doc.problem(f"{here}.{key}", "no such key of a figure", ", ".join(_FIGURE_KEYS))
        if "src" not in value:
            yield self.doc.problem(f"{here}.src", "a figure without a source", 'src = "...": a name of [sources]')
        else:
            yield from self._source(value["src"], f"{here}.src")
        if value.get("kind", KINDS[0]) not in KINDS:
            yield self._wrong(f"{here}.kind", "one of " + ", ".join(KINDS), value["kind"])
        if "date" in value:
            yield from self.date(value["date"], _NO_FIELD, f"{here}.date")
        if "note" in value:
            yield from self.text(value["note"], _NO_FIELD, f"{here}.note")

    def _source(self, name: Any, here: str) -> Iterator[Problem]:
        if not isinstance(name, str):
            yield self._wrong(here, "the name of a source", name)
        elif name not in self.sources and not self.partial:
            near = difflib.get_close_matches(name, self.sources, 1)
            declared = ", ".join(sorted(self.sources)) or "none declared"
            fix = f"did you mean {near[0]}?" if near else f"sources: {declared}"
            yield self.doc.problem(here, f"no source {name!r} in [sources]", fix)


_NO_FIELD = Field("", "text", "")
_Check = Callable[[_Walk, Any, Field, str], Iterator[Problem]]
_CHECKS: dict[str, _Check] = {
    "text": _Walk.text,
    "date": _Walk.date,
    "integer": _Walk.integer,
    "flag": _Walk.flag,
    "texts": _Walk.texts,
    "integers": _Walk.integers,
    "figure": _Walk.figure,
    "shape": _Walk.shape,
}


def _typename(value: Any) -> str:
    names = {dict: "a table", list: "a list", str: "text", bool: "true/false", int: "a number", float: "a number"}
    return names.get(type(value), "a " + type(value).__name__)


def _shown(value: Any) -> str:
    """The value as the message quotes it, cut short."""
    if value is None:
        return "nothing"
    try:
        text = repr(value)
    except ValueError:
        # repr refuses integers of more than 4300 digits.
        text = "a very large number"
    return text if len(text) <= 60 else text[:57] + "..."
