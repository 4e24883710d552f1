"""An audit on one screen: the score, what was found by cost, the files that hold it, and what each target chip says."""

from collections import Counter

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from anychip.audit.engine import Audit, Target
from anychip.audit.finding import AGE, SEVERITIES, Finding
from anychip.audit.score import WEIGHTS

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
_TOP_SYMBOLS, _TOP_FILES, _TOP_HARD, _TOP_SKIPPED = 3, 6, 4, 3


def show(audit: Audit, console: Console | None = None) -> None:
    (console or Console(soft_wrap=False)).print(screen(audit))


def screen(audit: Audit) -> RenderableType:
    """At most about 40 lines, whatever the project's size."""
    parts: list[RenderableType] = [_head(audit), _severities(audit)]
    counted = [f for f in audit.findings if f.severity not in ("flow", AGE)]
    if counted:
        parts.append(_files(counted))
    parts += [_targets(audit)] if audit.targets else []
    parts += [Text(line, style="dim") for line in _notes(audit)]
    return Group(*parts)


def _head(audit: Audit) -> Text:
    text = Text()
    text.append(f"lock-in score {audit.score:.0f}", style="bold")
    text.append(f" of 100   {audit.points:,.0f} points in {audit.num_lines:,} lines of {audit.num_files:,} files\n")
    return text


def _severities(audit: Audit) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, side in (("", "left"), ("places", "right"), ("rules", "right"), ("most frequent", "left")):
        table.add_column(name, justify=side, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
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
            Text("" if severity == "flow" else often, overflow="ellipsis", no_wrap=True),
        )
    if not table.rows:
        table.add_row("nothing that is bound to CUDA", "", "", "")
    return table


def _short(symbol: str) -> str:
    return symbol if len(symbol) <= 34 else f"{symbol[:32]}.."


def _files(findings: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("\nfiles with most to do", no_wrap=True, max_width=44, overflow="ellipsis")
    table.add_column("\npoints", justify="right", no_wrap=True)
    table.add_column("\nfirst of the hardest", overflow="ellipsis", no_wrap=True)
    by_file: dict[str, list[Finding]] = {}
    for finding in findings:
        by_file.setdefault(finding.path, []).append(finding)
    from anychip.audit.score import points

    costs = {path: points(found) for path, found in by_file.items()}
    for path in sorted(by_file, key=lambda path: (-costs[path], path))[:_TOP_FILES]:
        hardest = max(by_file[path], key=lambda f: WEIGHTS.get(f.severity, 0.0))
        table.add_row(path, f"{costs[path]:,.0f}", f":{hardest.line} {hardest.symbol}: {hardest.message}")
    if len(by_file) > _TOP_FILES:
        table.add_row(Text(f"and {len(by_file) - _TOP_FILES:,} more files", style="dim"), "", "")
    return table


def _targets(audit: Audit) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("\nbetween this code and", no_wrap=True)
    for name in ("as is", "edit", "decide", "kernel", "missing", "unknown"):
        table.add_column(f"\n{name}", justify="right", no_wrap=True)
    table.add_column("\nhardest", overflow="ellipsis", no_wrap=True)
    for target in audit.targets:
        counts = [f"{target.verdicts.get(v, 0):,}" for v in ("as is", "edit", "decide", "kernel", "missing", "unknown")]
        table.add_row(target.chip, *counts, _hardest(target))
    return table


def _hardest(target: Target) -> str:
    return ", ".join(f"{_short(symbol)} ({verdict})" for verdict, symbol, _ in target.hardest[:_TOP_HARD])


def _notes(audit: Audit) -> list[str]:
    notes = [""]
    if audit.age:
        symbols = ", ".join(dict.fromkeys(_short(f.symbol) for f in audit.age[:4]))
        notes.append(
            f"too old for today's releases, on any chip ({len(audit.age)} places, not in the score): {symbols}"
        )
    if audit.silenced or audit.accepted:
        notes.append(f"{audit.silenced} silenced by comments, {audit.accepted} accepted by the baseline")
    for skip in audit.skipped[:_TOP_SKIPPED]:
        notes.append(f"skipped {skip.path}: {skip.reason}")
    if len(audit.skipped) > _TOP_SKIPPED:
        notes.append(f"skipped {len(audit.skipped) - _TOP_SKIPPED} more files: --json lists them")
    if audit.findings:
        notes.append("every place with its fix: --json FILE, --sarif FILE, --html FILE")
    return notes
