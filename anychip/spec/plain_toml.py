"""The plain part of TOML, several times as fast as tomllib: every file of the standard is written in it.

In: text. Out: its tables, or None where a line is not plain; `anychip.spec.toml` then asks tomllib, which is also the
only one that says what is wrong. Plain are comments, `[a.b]`, `[[a]]`, and `key = value` on one line, with strings
without backslashes, numbers, true and false, lists and inline tables. Whatever is accepted here is TOML with the same
meaning: a test compares both on every file of the standard and on thousands of broken ones.
"""

import re
from typing import Any

_KEY = "[A-Za-z0-9_-]+"
_END = r"[ \t]*(?:#[^\x00-\x08\x0a-\x1f\x7f]*)?"
_CHARS = r'[^"\\\x00-\x08\x0a-\x1f\x7f]*'
_NUMBER = r"-?(?:0|[1-9][0-9]{0,14})"
_STOPS = r"(?=[ \t,\]}#]|$)"
_TABLE = re.compile(rf"\[({_KEY}(?:\.{_KEY})*)\]{_END}")
_ITEM = re.compile(rf"\[\[({_KEY})\]\]{_END}")
_EMPTY = re.compile(_END)
_ASSIGN = re.compile(rf"({_KEY})[ \t]*=[ \t]*")
_VALUE = re.compile(
    rf'"(?P<text>{_CHARS})"(?!")'
    rf"|(?P<whole>{_NUMBER}){_STOPS}"
    rf"|(?P<real>{_NUMBER}(?:\.[0-9]{{1,15}})?(?:[eE][+-]?[0-9]{{1,2}})?){_STOPS}"
    rf"|(?P<flag>true|false){_STOPS}"
    r"|(?P<list>\[)[ \t]*"
    r"|(?P<table>\{)[ \t]*"
)
# What nearly every line is, at one go: key = "text", and a figure with its unit and source.
_TEXT_LINE = re.compile(rf'({_KEY})[ \t]*=[ \t]*"({_CHARS})"{_END}')
_FIGURE_LINE = re.compile(
    rf"({_KEY})[ \t]*=[ \t]*\{{[ \t]*value[ \t]*=[ \t]*({_NUMBER})(\.[0-9]{{1,15}})?"
    rf'[ \t]*,[ \t]*unit[ \t]*=[ \t]*"({_CHARS})"'
    rf'[ \t]*,[ \t]*src[ \t]*=[ \t]*"({_CHARS})"[ \t]*\}}{_END}'
)
_COMMA = re.compile(r"[ \t]*,[ \t]*")
_CLOSE = {"list": re.compile(r"[ \t]*\]"), "table": re.compile(r"[ \t]*\}")}


class _NotPlain(Exception):
    """tomllib has to look at it."""


def parse(text: str) -> dict[str, Any] | None:
    """The tables of the text, or None where it is more than plain, or no TOML."""
    root: dict[str, Any] = {}
    opened: dict[str, dict[str, Any]] = {}  # by dotted name, those that a header leads to or through
    written: set[str] = set()  # names that a header has written out: twice is an error
    at = root
    try:
        for line in text.split("\n"):
            if match := _TEXT_LINE.fullmatch(line):
                if match[1] in at:
                    return None
                at[match[1]] = match[2]
            elif match := _FIGURE_LINE.fullmatch(line):
                key, whole, part, unit, src = match.groups()
                if key in at:
                    return None
                at[key] = {"value": float(whole + part) if part else int(whole), "unit": unit, "src": src}
            elif match := _ASSIGN.match(line):
                value, end = _value(line, match.end())
                if match[1] in at or not _EMPTY.fullmatch(line, end):
                    return None
                at[match[1]] = value
            elif match := _TABLE.fullmatch(line):
                if match[1] in written:
                    return None
                written.add(match[1])
                at = _open(match[1], root, opened)
            elif match := _ITEM.fullmatch(line):
                at = _append(match[1], root, opened)
            elif not _EMPTY.fullmatch(line):
                return None
    except _NotPlain:
        return None
    return root


def _open(name: str, root: dict[str, Any], opened: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The table of a header. What a key or [[...]] has made is never opened again."""
    if name in opened:
        return opened[name]
    before, _, last = name.rpartition(".")
    parent = _open(before, root, opened) if before else root
    if last in parent:
        raise _NotPlain
    table: dict[str, Any] = {}
    parent[last] = opened[name] = table
    return table


def _append(name: str, root: dict[str, Any], opened: dict[str, dict[str, Any]]) -> dict[str, Any]:
    items_key = f"[{name}]"  # no header's name has brackets
    if items_key not in opened:
        if name in root:
            raise _NotPlain
        root[name] = []
        opened[items_key] = {}
    table: dict[str, Any] = {}
    root[name].append(table)
    return table


def _value(line: str, start: int) -> tuple[Any, int]:
    """The value that begins there, and where it ends."""
    match = _VALUE.match(line, start)
    if match is None:
        raise _NotPlain
    kind, end = match.lastgroup, match.end()
    if kind == "text":
        return match["text"], end
    if kind == "whole":
        return int(match["whole"]), end
    if kind == "real":
        return float(match["real"]), end
    if kind == "flag":
        return match["flag"] == "true", end
    return _inline_list(line, end) if kind == "list" else _inline_table(line, end)


def _inline_list(line: str, end: int) -> tuple[list[Any], int]:
    values: list[Any] = []
    while True:
        if close := _CLOSE["list"].match(line, end):
            return values, close.end()
        if values:
            comma = _COMMA.match(line, end)
            if comma is None:
                raise _NotPlain
            end = comma.end()
        value, end = _value(line, end)
        values.append(value)


def _inline_table(line: str, end: int) -> tuple[dict[str, Any], int]:
    values: dict[str, Any] = {}
    while True:
        if close := _CLOSE["table"].match(line, end):
            return values, close.end()
        if values:
            comma = _COMMA.match(line, end)
            if comma is None:
                raise _NotPlain
            end = comma.end()
        assign = _ASSIGN.match(line, end)
        if assign is None or assign[1] in values:
            raise _NotPlain
        values[assign[1]], end = _value(line, assign.end())
