"""What port and audit make of the same places: which findings an edit takes care of, and what of them is left.

Audit finds, port edits what is certain; every finding that no edit covers is left by hand. So nothing is listed twice: what
`anychip port` leaves are the audit's findings, with port's own reason where it has one, and what the audit calls edited is what
port edits.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from anychip.audit.finding import AGE, Finding
from anychip.port.edits import HARMLESS, KERNEL, THOUGHT, UNSURE, Edit, Left
from anychip.port.unit import Change
from anychip.source.text import Text

# Severity of a finding that no edit covers -> why it was left.
_KINDS = {"cosmetic": HARMLESS, "automatic": UNSURE, "thought": THOUGHT, "rewrite": KERNEL, "blocks": KERNEL}
IMPORTS = "imports"  # the rule that tidies them, whatever was imported
Span = tuple[int, int]
_OPENED = re.compile(rb"(\s*\()\s*")  # a call, up to its first argument


def span(source: Text, found: Finding) -> Span:
    """Bytes [start, end) of a finding: of its node in Python, else of its place in the text."""
    if found.node is not None:
        return source.start(found.node), source.end(found.node)
    place = found.place
    line = source.line(place.line)
    start, end = (
        len(line[: column - 1].encode("utf-8", "surrogateescape")) for column in (place.column, place.end_column)
    )
    return source.starts[place.line - 1] + start, source.starts[place.line - 1] + max(end, start + 1)


def is_edited(source: Text, found: Finding, at: Span, changes: Iterable[Change]) -> bool:
    """Whether an edit replaces all of a finding, or an edit of its own rule a part of it: also the module that a name is imported
    from, and what is put first into a call of a function."""
    start, end = at
    statement = next((one for one in source.imports.items() if one[0] <= start < one[1]), at)
    call = _OPENED.match(source.data, end)
    for change in changes:
        for piece in change.pieces:
            if _touches(piece, at) and (
                change.rule in (found.rule, IMPORTS) or (piece.start <= start and end <= piece.end)
            ):
                return True
            if change.rule != found.rule:
                continue
            module = change.symbol.removeprefix("from ")
            if _touches(piece, statement) and f"{found.symbol}.".startswith(f"{module}."):
                return True
            is_first = call is not None and call.end(1) <= piece.start == piece.end <= call.end()
            if is_first and change.symbol == found.symbol:
                return True
    return False


def _touches(piece: Edit, at: Span) -> bool:
    start, end = at
    return (piece.start < end and start < piece.end) or (piece.start == piece.end and start <= piece.start <= end)


def left_of(
    source: Text,
    findings: Sequence[Finding],
    changes: Sequence[Change],
    own: Sequence[Left],
    libraries: Mapping[str, str],
) -> tuple[Left, ...]:
    """The findings of a text that no change covers. own: port's reasons, taken for the findings that they stand at; those
    that stand at none are left as well. libraries: what takes the place of which on the chip."""
    told: list[Left] = []
    used: set[Left] = set()
    for found in findings:
        if found.severity in ("flow", AGE):
            continue
        at = span(source, found)
        if is_edited(source, found, at, changes):
            used.update(left for left in own if left.offset == at[0])
            continue
        # An import is left as a statement, and found by its names.
        mine = [
            left
            for left in own
            if at[0] <= left.offset < at[1] or left.offset <= at[0] < source.imports.get(left.offset, 0)
        ]
        used.update(mine)
        best = next((left for left in mine if left.rule == found.rule), mine[0] if mine else None)
        reason = best.reason if best else _reason(found, libraries)
        told.append(Left(at[0], found.symbol, found.rule, reason, _kind(found, best)))
    told += [left for left in own if left not in used]
    return tuple(sorted(dict.fromkeys(told), key=lambda left: left.offset))


def _reason(found: Finding, libraries: Mapping[str, str]) -> str:
    kind, name = found.need
    there = f"; on the chip: {libraries[name]}" if kind == "library" and name in libraries else ""
    return f"{found.message}: {found.fix}{there}" if found.fix else f"{found.message}{there}"


def _kind(found: Finding, own: Left | None) -> str:
    """As the audit says, but where it takes a plain edit for enough, or port is not sure of one."""
    unsure = own is not None and (found.severity == "automatic" or own.kind == UNSURE)
    if own is not None and unsure:
        return own.kind
    # Scripts and settings are right where they are until there is one chip: that is a decision, not a doubt.
    return THOUGHT if found.severity == "automatic" and found.node is None else _KINDS[found.severity]
