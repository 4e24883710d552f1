"""An audit on one screen: the score, what was found by cost, the files that hold it, and what each target chip says."""

import os
from collections import Counter

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from anychip.audit.engine import Audit, Target
from anychip.audit.finding import AGE, SEVERITIES, Finding
from anychip.audit.offers import UNKNOWN, VERDICTS
from anychip.audit.score import WEIGHTS, points
from anychip.screen import Screen
from anychip.source.text import shown
from anychip.units import several

_STYLES = {
    "flow": "dim",
    "cosmetic": "dim",
    "automatic": "green",
    "thought": "yellow",
    "rewrite": "red",
    "blocks": "bold red",
}
_MEANING = {
    "flow": "moves with its source",
    "cosmetic": "works everywhere as it stands",
    "automatic": "a plain edit",
    "thought": "needs a decision",
    "rewrite": "needs a kernel for the chip",
    "blocks": "nothing takes its place",
}
PIPE_WIDTH = 160  # where the output is no terminal
_LONGEST_NAME = 56
_TOP_SYMBOLS, _TOP_FILES, _TOP_HARD, _TOP_SKIPPED = 3, 6, 4, 3


def show(audit: Audit, console: Console | None = None) -> None:
    if console is None:
        console = Screen(soft_wrap=False)
        if console.width < 1 or (not console.is_terminal and "COLUMNS" not in os.environ):  # COLUMNS=0
            console.width = PIPE_WIDTH
    console.print(screen(audit))


def screen(audit: Audit) -> RenderableType:
    """At most about 40 lines, whatever the project's size."""
    parts: list[RenderableType] = [_head(audit), _severities(audit)]
    counted = [f for f in audit.findings if f.severity not in ("flow", AGE)]
    if counted:
        parts.append(_files(counted))
    parts += [_targets(audit)] if audit.targets else []
    if counted:
        parts += ["", Text(effort_text(audit))]
    parts += [Text(line, style="dim") for line in _notes(audit)]
    return Group(*parts)


def _head(audit: Audit) -> Text:
    text = Text()
    text.append(f"lock-in score {audit.score:.0f}", style="bold")
    text.append(f" of 100   {several(round(audit.points), 'point')} in ")
    text.append(f"{several(audit.num_lines, 'line')} of {several(audit.num_files, 'file')}\n")
    text.append(f"{mended_text(audit)}\n" if mended_text(audit) else "")
    return text


def mended_text(audit: Audit) -> str:
    """What of the score costs one command: a small program with nothing but plain edits may have a high one."""
    mended = sum(f.automatic for f in audit.findings)
    places = sum(f.severity not in ("flow", AGE) for f in audit.findings)
    if not mended:
        return "none of these places is a plain edit that anychip port makes" if places else ""
    which = f"{mended:,} of {several(places, 'place')}" if mended < places else f"all {several(places, 'place')}"
    edits = f", in {several(audit.edits, 'edit')}" if audit.edits != mended else ""
    return f"of which anychip port edits {which} by itself{edits}: what is left scores {audit.left_score:.0f}"


def _table(*columns: tuple[str, int]) -> Table:
    """Columns of fixed widths, right-aligned where the name begins with a space; the last one takes what is left."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    for name, width in columns[:-1]:
        table.add_column(name.strip(" "), justify="right" if name.startswith(" ") else "left", no_wrap=True, min_width=width,
                         max_width=width, overflow="ellipsis")  # fmt: skip
    table.add_column(columns[-1][0], no_wrap=True, overflow="ellipsis", ratio=1)
    return table


def _severities(audit: Audit) -> Table:
    table = _table(("", 40), (" places", 7), (" rules", 5), ("most frequent", 0))
    for severity in reversed(SEVERITIES):
        found = [f for f in audit.findings if f.severity == severity]
        if not found:
            continue
        symbols = Counter(f.symbol for f in found).most_common(_TOP_SYMBOLS)
        often = ", ".join(f"{_short(symbol)} {count}" for symbol, count in symbols)
        table.add_row(
            Text(f"{severity}: {_MEANING[severity]}", style=_STYLES[severity]),
            f"{len(found):,}",
            str(len({f.rule for f in found})),
            "" if severity == "flow" else Text(often),
        )
    if not table.rows:
        table.add_row("nothing that is bound to CUDA", "", "", "")
    return table


def _short(symbol: str) -> str:
    """Whole names of PyTorch and its libraries; what no name is, such as a command line, leaves room for the next."""
    return symbol if len(symbol) <= _LONGEST_NAME else f"{symbol[: _LONGEST_NAME - 2]}.."


def _files(findings: list[Finding]) -> RenderableType:
    by_file: dict[str, list[Finding]] = {}
    for finding in findings:
        by_file.setdefault(finding.path, []).append(finding)
    costs = {path: points(found) for path, found in by_file.items()}
    top = sorted(by_file, key=lambda path: (-costs[path], path))[:_TOP_FILES]
    title = "files with most to do"
    width = min(44, max(len(title), *map(len, top)))
    table = _table((title, width), (" points", 6), ("the hardest in it", 0))
    for path in top:
        hardest = max(by_file[path], key=lambda f: WEIGHTS.get(f.severity, 0.0))
        table.add_row(
            Text(_tail(path, 44)), f"{costs[path]:,.0f}", Text(f":{hardest.line} {hardest.symbol}: {hardest.message}")
        )
    if len(by_file) > _TOP_FILES:
        table.add_row(Text(f"and {len(by_file) - _TOP_FILES:,} more", style="dim"), "", "")
    return Group("", table)


def _tail(path: str, width: int) -> str:
    path = shown(path)
    return path if len(path) <= width else f"..{path[2 - width :]}"


def _targets(audit: Audit) -> RenderableType:
    width = max(21, *(len(target.chip) for target in audit.targets))
    table = _table(("between this code and", width), *((f" {v}", max(len(v), 6)) for v in VERDICTS), ("the hardest", 0))
    for target in audit.targets:
        counts = [f"{target.verdicts.get(v, 0):,}" for v in VERDICTS]
        table.add_row(target.chip, *counts, Text(_hardest(target)))
    if any(target.verdicts.get(UNKNOWN) for target in audit.targets):
        return Group("", table, Text("unknown: no public list says whether the chip's software has it", style="dim"))
    return Group("", table)


def _hardest(target: Target) -> str:
    return ", ".join(f"{_short(symbol)} ({verdict})" for verdict, symbol, _ in target.hardest[:_TOP_HARD])


def effort_text(audit: Audit) -> str:
    found, left = audit.effort, audit.left_effort
    eight = (
        f" (eight in ten: {rounded(found.low)} to {rounded(found.high)})"
        if rounded(found.low) != rounded(found.high)
        else ""
    )
    text = (
        f"effort: about {_lines(found.lines)} changed by hand: {several(found.places, 'place')} at {found.per_place:.1f} lines, "
        f"the median of {found.num_ports} merged ports{eight}{', but no more than a file has' if found.bounded else ''}"
    )
    if left.places < found.places:
        text += f"; after anychip port about {_lines(left.lines)}, for {several(left.places, 'place')}"
    return f"{text}; {several(found.kernels, 'place')} in kernels not included" if found.kernels else text


def _lines(number: float) -> str:
    lines = rounded(number)
    return f"{lines} {'line' if lines == '1' else 'lines'}"


def rounded(number: float) -> str:
    """To two digits: nothing here is known better."""
    return f"{float(f'{number:.2g}'):,.0f}"


def _notes(audit: Audit) -> list[str]:
    notes = [""]
    if audit.age:
        symbols = ", ".join(dict.fromkeys(_short(f.symbol) for f in audit.age[:4]))
        notes.append(
            f"too old for today's releases, on any chip ({several(len(audit.age), 'place')}, not in the score): {symbols}"
        )
    if audit.silenced or audit.accepted:
        notes.append(f"{audit.silenced} silenced by comments, {audit.accepted} accepted by the baseline")
    for skip in audit.skipped[:_TOP_SKIPPED]:
        notes.append(f"skipped {shown(skip.path)}: {skip.reason}")
    if len(audit.skipped) > _TOP_SKIPPED:
        notes.append(f"skipped {several(len(audit.skipped) - _TOP_SKIPPED, 'more file')}: --json lists them")
    if audit.findings:
        notes.append("every place with its fix: --json FILE, --sarif FILE, --html FILE")
    return notes
