"""What a rule says: replace these bytes by that text, or leave this alone, each with its reason.

In: the text of a file and edits by byte span (UTF-8). Out: the text with the edits made. Nothing outside a span changes,
so comments, formatting and everything that no rule named stay as they were, byte by byte.
"""

import ast
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

# Why something was left. "harmless" works on every chip as it stands; the others are work for a person.
HARMLESS = "harmless"
THOUGHT = "thought"
KERNEL = "kernel"
UNSURE = "unsure"
KINDS = {
    HARMLESS: "works everywhere as it stands",
    THOUGHT: "needs a decision",
    KERNEL: "needs another kernel",
    UNSURE: "not certain enough to edit",
}


@dataclass(frozen=True)
class Edit:
    """Replace bytes [start, end) by `text`. start == end inserts; of two insertions at one place the first comes first."""

    start: int
    end: int
    text: str
    rule: str
    reason: str


@dataclass(frozen=True)
class Left:
    """Something bound to CUDA at a byte offset that was left as it is, and why. kind: one of KINDS."""

    offset: int
    symbol: str
    rule: str
    reason: str
    kind: str


class Source:
    """A text as bytes, and where ast's (line, column) lie in it. Columns of ast are UTF-8 bytes already."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.data = text.encode("utf-8", "surrogateescape")
        self.starts = _line_starts(self.data)

    def offset(self, line: int, column: int) -> int:
        return self.starts[line - 1] + column

    def line_of(self, offset: int) -> int:
        """1-based line of a byte offset."""
        return bisect_right(self.starts, offset)

    def start(self, node: ast.AST) -> int:
        line, column = cast(Any, node).lineno, cast(Any, node).col_offset
        return self.offset(line, column)

    def end(self, node: ast.AST) -> int:
        line, column = cast(Any, node).end_lineno, cast(Any, node).end_col_offset
        return self.offset(line, column)

    def end_of_line(self, node: ast.AST) -> int:
        """Where the last line of a node ends, before its line end: behind any comment."""
        number = node.end_lineno  # type: ignore[attr-defined]
        end = self.starts[number] if number < len(self.starts) else len(self.data)
        while end > self.starts[number - 1] and self.data[end - 1 : end] in (b"\r", b"\n"):
            end -= 1
        return end

    def of(self, node: ast.AST) -> str:
        """A node as it is written."""
        return self.slice(self.start(node), self.end(node))

    def slice(self, start: int, end: int) -> str:
        return self.data[start:end].decode("utf-8", "surrogateescape")

    def line(self, number: int) -> str:
        """A 1-based line without its end."""
        end = self.starts[number] if number < len(self.starts) else len(self.data)
        return self.slice(self.starts[number - 1], end).rstrip("\r\n")


def _line_starts(data: bytes) -> list[int]:
    r"""Offsets at which lines begin, as Python's tokenizer counts them: after \n, \r\n and \r, and nothing else."""
    starts, at = [0], 0
    plain = b"\r" not in data
    while True:
        at = data.find(b"\n", at) if plain else _next_end(data, at)
        if at < 0:
            return starts
        at += 1
        starts.append(at)


def _next_end(data: bytes, at: int) -> int:
    """Offset of the last byte of the next line end, or -1."""
    new, back = data.find(b"\n", at), data.find(b"\r", at)
    if back < 0 or 0 <= new < back:
        return new
    return back + 1 if data[back + 1 : back + 2] == b"\n" else back


def apply(source: Source, edits: Iterable[Edit]) -> str:
    """The text with all edits made. AssertionError if two of them overlap: rules must not."""
    parts, at = [], 0
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        assert edit.start >= at, f"overlapping edits at byte {edit.start}: {edit}"
        parts += [source.data[at : edit.start], edit.text.encode("utf-8", "surrogateescape")]
        at = edit.end
    return b"".join([*parts, source.data[at:]]).decode("utf-8", "surrogateescape")
