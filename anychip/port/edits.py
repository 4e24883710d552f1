"""What a rule says: replace these bytes by that text, or leave this alone, each with its reason.

In: the text of a file and edits by byte span (UTF-8). Out: the text with the edits made. Nothing outside a span changes,
so comments, formatting and everything that no rule named stay as they were, byte by byte.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from anychip.source.text import Text

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


def ported_lines(source: Text, edits: Iterable[Edit], offsets: Sequence[int]) -> list[int]:
    """The lines where what stands at these bytes is once all edits are made. offsets: in order; what is put in at one stands before it."""
    waiting, lines, added = sorted(edits, key=lambda edit: edit.end), [], 0
    at = 0
    for offset in offsets:
        while at < len(waiting) and waiting[at].end <= offset:
            edit = waiting[at]
            added += edit.text.count("\n") - source.data[edit.start : edit.end].count(b"\n")
            at += 1
        lines.append(source.line_of(offset) + added)
    return lines


def apply(source: Text, edits: Iterable[Edit]) -> str:
    """The text with all edits made. AssertionError if two of them overlap: rules must not."""
    parts, at = [], 0
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        assert edit.start >= at, f"overlapping edits at byte {edit.start}: {edit}"
        parts += [source.data[at : edit.start], edit.text.encode("utf-8", "surrogateescape")]
        at = edit.end
    return b"".join([*parts, source.data[at:]]).decode("utf-8", "surrogateescape")
