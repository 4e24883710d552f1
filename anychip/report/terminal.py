"""Forecasts on the terminal: targets side by side, good in 80 columns and without colour.

In: an `Answer`. Out: text written through rich, which knows the terminal's width and whether it takes colour. No figure
is computed here but shares of what is given. "-" stands for what is not known.
"""

import os
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from anychip import units
from anychip.figures.sums import SEVERAL
from anychip.record.program import question_words
from anychip.report import job
from anychip.report.remarks import ONE_OF, remarks, whole_number
from anychip.screen import Screen
from anychip.spec.validated import CALLS, has_trained

if TYPE_CHECKING:
    from anychip.api import Answer
    from anychip.forecast import Forecast, TopOp

LABEL_WIDTH = 16
COLUMN_WIDTH = 14
WIDE = 100  # from here on a table of numbers of chips has costs, too
UNBROKEN = 10_000  # wider than any row
PIPE_WIDTH = 100  # where the output is no terminal
TOP_OPS = 8
CRUMB = 1e-3  # of the peak or the chip's time: a kind of memory or a phase below that is not shown
LONGER = 1.5  # a first call that takes so many times as long as the others does something else: it reads a prompt
STARTING = 0.95  # where steps take less of the peak than this, it was when the program started
NAMES = 4  # targets of one chip, before they are shortened to the first and the last
OP_WIDTH = 36  # an operation's name and shape, and how often it is called
TIME_WIDTH = 7
STEP_WORDS = {"train": "step time", "call": "time per call", "run": "time of the run"}
PAID = {None: "tokens", True: "prompt", False: "output"}  # what costs are of, by whether calls read prompts
BREAKDOWN = {
    "compute": "compute",
    "memory_bound": "memory, launch",
    "exposed_comm": "network",
    "bubble": "other ranks",
    "host": "host",
}
PHASES = {"no_gradients": "no-grad calls", "host_copies": "host copies"}
MEMORY = {"other": "inputs, the rest"}  # kinds that one word does not tell
EVIDENCE = {"measured": "measured", "interpolated": "interpolated", "modelled": "modelled", "bytes_only": "bytes alone"}

Row = tuple[str, Sequence[str | Text]]


def show(answer: "Answer", file: TextIO | None = None, width: int | None = None) -> None:
    """Print the whole answer to `file` (default stdout)."""
    console = Screen(file=file, width=width, highlight=False)
    if width is None and (console.width < 1 or (not console.is_terminal and "COLUMNS" not in os.environ)):  # COLUMNS=0
        console.width = PIPE_WIDTH
    console.print(Text.assemble("forecast of ", (answer.program, "bold")), overflow="fold")
    for line in _legend(answer):
        said = line.lstrip()
        console.print(Padding(Text(said, style="dim"), (0, 0, 0, len(line) - len(said)), expand=False))
    answer = replace(answer, names=short_names(answer.names))
    columns = list(zip(answer.names, answer.forecasts, strict=True))
    reserved = answer.reserved_bytes or (None,) * len(columns)
    scaling = answer.scaling
    room = max(1, (console.width - LABEL_WIDTH) // (COLUMN_WIDTH + 2))
    if job.many_counts([forecast for _, forecast in columns]) and len(columns) > room:
        console.print()
        console.print(_counts(console, columns, answer.scaling))
        console.print()
        last = sorted({forecast.chip: index for index, (_, forecast) in enumerate(columns)}.values())
        columns = [columns[index] for index in last]
        reserved, scaling = tuple(reserved[index] for index in last), tuple(scaling[index] for index in last)
        which = "the last of each chip" if len(last) > 1 else "the last"
        shown = ", ".join(name for name, _ in columns)
        console.print(Text(f"In full {shown}, {which}; each of the others by itself, or all with --json.", style="dim"))
    for start in range(0, len(columns), room):
        console.print()
        part = slice(start, start + room)
        console.print(_figures(columns[part], reserved[part], scaling[part]))
    for name, forecast in columns:
        if len(forecast.ranks) > 1:
            console.print()
            console.print(job.ranks_table(name if len(columns) > 1 else "", forecast))
    for some in _beside(columns, console.width - OP_WIDTH):
        console.print()
        ops = _top_ops(some, alone=len(columns) == 1)
        ops.expand = _width(console, ops) > console.width  # what is short stands beside its figures, on any screen
        console.print(ops)
    console.print()
    for line in remarks(answer, columns):
        console.print(Padding(Text(line), (0, 0, 0, 2)) if line.startswith("- ") else Text(line))
    console.print(Text("A forecast for virtual chips, not a benchmark result.", style="dim"))


def _counts(console: Console, columns: Sequence[tuple[str, "Forecast"]], scaling: Sequence[float | None]) -> Table:
    """Closer columns, then fewer, before a target is broken: h100:16384 would read as h100:1638."""
    for wide in (True, False) if console.width >= WIDE else (False,):
        for gap in (2, 1):
            table = job.counts_table(columns, scaling, wide, gap)
            if _width(console, table) <= console.width:
                return table
    return table


def _width(console: Console, table: Table) -> int:
    """What it would take with nothing broken."""
    return console.measure(table, options=console.options.update(width=UNBROKEN)).maximum


def short_name(target: str) -> str:
    """A target whose chip is a file by that one's name alone: my-chips/acme-one.toml:8 is acme-one:8."""
    return re.sub(r"[^:@]*/(?=[^/:@]+\.toml)|\.toml(?=[:@]|$)", "", target)


def short_names(targets: Sequence[str]) -> tuple[str, ...]:
    """Of each target, but of those that would be called alike (a chip and one's own copy of its file) all that was asked for."""
    short = [short_name(target) for target in targets]
    return tuple(target if short.count(name) > 1 else name for target, name in zip(targets, short, strict=True))


def _heading(name: str) -> str:
    """A target as it heads a column: a long name is broken behind its dashes."""
    return "\n".join(textwrap.wrap(name, COLUMN_WIDTH))


def _legend(answer: "Answer") -> Iterator[str]:
    """Which file each name means: `ascend-910b -> huawei-ascend-910b2`. Numbers of the same chips on the same cluster share a line."""
    own = answer.own_recordings or ((),) * len(answer.names)
    targets = zip(answer.names, answer.chips, answer.forecasts, own, strict=True)
    for (_, cluster, said), found in groupby(targets, lambda one: (one[1].id, one[2].cluster, _compared(one[2]))):
        alike = list(found)
        chip = alike[0][1]
        names = [name for name, *_ in alike]
        count = f":{alike[0][2].num_chips}" if len(alike) == 1 and alike[0][2].num_chips > 1 else ""
        target = chip.id + count + (f"@{cluster}" if cluster else "")
        asked = ", ".join(names) if len(names) <= NAMES else f"{names[0]} ... {names[-1]}"
        arrow = f"{asked} -> {target}" if asked != target else target
        by = " by training" if alike[0][2].step_kind == CALLS and has_trained(chip.runs_of) else ""
        yield f"  {arrow} ({chip.vendor} {chip.name}, grade {chip.grade}{by})"
        yield from (f"    {lent}" for lent in chip.inherits)
        if said:
            yield f"    {said}"
        if chip.execution == "graph":
            yield "    compiled whole, step by step, as its software does: Python between operations takes no time there"
        for name, _, forecast, questions in alike:
            if forecast.ranks:
                yield f"    {job.ran_text(forecast)}"
            if questions:
                who = "it" if len(alike) == 1 else name
                yield f"    run again for {who}: it answers the program otherwise ({', '.join(map(question_words, questions))})"
        if alike[-1][2].ranks and (unequal := job.unequal_text(answer.stragglers)):
            yield f"    {unequal}"
        if slowest := job.pace_text([forecast.pace for _, _, forecast, _ in alike]):
            yield f"    {slowest}"


def _compared(forecast: "Forecast") -> str:
    """Which published runs the error comes from, and in what none of this chip's are like the program."""
    found = forecast.compared
    if found is None:
        return (
            "error of its parts, by what each rests on: no published run of what it is, or on this chip, was compared"
        )
    times = f", times {found.times:.1f}" if found.times > 1.0 else ""
    trait = f" {found.trait}" if found.trait else ""
    whose = " on chips of every kind" if found.all_chips else ""
    one_way = f"; those of this chip took {found.longer:.1f} times as long" if found.longer else ""
    fewer = f"; none on more than {found.most_chips:,} of these" if forecast.num_chips > found.most_chips else ""
    did = " that generate text" if found.does == CALLS else ""
    lacks = f"; of the {found.own} on this chip none is {', none '.join(found.lacks)}" if found.lacks else ""
    none = f"; none{did} on this chip" if found.does == CALLS and not found.own else ""
    runs = f"{found.runs} published runs{did} ({found.layers}{trait}{times}){whose}"
    return f"error of {runs}{none}{lacks}{fewer}{one_way}"


def _figures(columns: Sequence[tuple[str, "Forecast"]], reserved: Sequence[int | None],
             scaling: Sequence[float | None]) -> Table:  # fmt: skip
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", min_width=LABEL_WIDTH - 2, no_wrap=True)
    for name, _ in columns:
        table.add_column(_heading(name), min_width=COLUMN_WIDTH, overflow="fold")
    for label, cells in _rows([forecast for _, forecast in columns], reserved, scaling):
        table.add_row(label, *cells)
    return table


def _rows(forecasts: Sequence["Forecast"], reserved: Sequence[int | None],
          scaling: Sequence[float | None]) -> Iterator[Row]:  # fmt: skip
    def row(label: str, cell: Callable[["Forecast"], str | Text]) -> Row:
        return label, [cell(forecast) for forecast in forecasts]

    def timed(label: str, cell: Callable[["Forecast"], str]) -> Row:
        """A figure that rests on the step's time, and is marked as that is."""
        return row(label, lambda f: text + job.mark(f) if (text := cell(f)) != "-" else text)

    one = ONE_OF[forecasts[0].step_kind]
    yield row(
        STEP_WORDS[forecasts[0].step_kind],
        lambda f: Text(f"{units.duration(f.step_time_s)}{job.mark(f)}", style="bold"),
    )
    yield row("  +- one sigma", lambda f: units.share(f.step_time_error))
    if any(map(job.mark, forecasts)):
        yield row(f" {job.MARK} runs took", _took)
    if forecasts[0].step_kind == "call" and any((f.first_step_s or 0.0) > LONGER * f.step_time_s for f in forecasts):
        yield row("  the first call", lambda f: units.duration(f.first_step_s))
    if any(f.tokens_per_s_per_chip is not None for f in forecasts):
        yield row(f"tokens per {one}", lambda f: whole_number(f.tokens_per_step))
        if any(f.num_chips > 1 for f in forecasts):
            yield timed("tokens/s a chip", lambda f: units.rate(f.tokens_per_s_per_chip))
        yield timed("tokens/s", lambda f: units.rate(f.tokens_per_s))
    if any(f.samples_per_s is not None and (f.samples_given or f.tokens_per_s_per_chip is None) for f in forecasts):
        yield row(f"samples per {one}", lambda f: whole_number(f.samples_per_step))
        yield timed("samples/s", lambda f: units.rate(f.samples_per_s))
    if any(scaling):
        yield "  scaling", [units.share(share) for share in scaling]
    yield timed(
        "MFU", lambda f: f"no {f.matrix_dtype} peak" if f.mfu is None else f"{units.share(f.mfu)} of {f.matrix_dtype}"
    )
    yield row("peak memory", job.peak_text)
    if any(f.stepping_memory_bytes < STARTING * f.peak_memory_bytes for f in forecasts):
        what = "calling" if forecasts[0].step_kind == "call" else "stepping"
        yield row(f"  while {what}", lambda f: units.memory(f.stepping_memory_bytes))
    if any(reserved):
        # PyTorch's allocator holds more than tensors take: what a process monitor would show.
        yield "  reserved", ["-" if most is None else units.memory(most) for most in reserved]
    yield row("  of", lambda f: units.memory(f.memory_bytes))
    yield row("  fits", lambda f: "yes" if f.fits else Text("NO", style="bold red"))
    if any(f.would_fail for f in forecasts):
        yield row("would run", lambda f: Text("NO", style="bold red") if f.would_fail else "yes")
    yield timed(f"energy/{one}, max", lambda f: "-" if f.energy_j is None else f"{units.figures(f.energy_j)} J")
    yield timed(f"USD/1000 {one}s", lambda f: "-" if f.cost_usd is None else f"{units.figures(f.cost_usd * 1000)}")
    if any(f.usd_per_million_tokens for f in forecasts):
        yield timed(f"  /million {PAID[forecasts[0].reads_prompts]}", lambda f: job.usd_text(f.usd_per_million_tokens))
    if any(f.usd_per_million_prompt_tokens for f in forecasts):
        yield timed("  /million prompt", lambda f: job.usd_text(f.usd_per_million_prompt_tokens))
    if any(f.cost_usd for f in forecasts):
        # `anychip chips show` has the price's date, its source and dearer ones.
        yield row("  at USD/hour", lambda f: "-" if f.usd_per_hour is None else f"{f.usd_per_hour:.2f}")
    yield from _section("time limited by", forecasts, lambda f: f.breakdown_s, BREAKDOWN, units.duration)
    axes = {name: name for f in forecasts for name in f.axes}
    yield from _section("network alone", forecasts, lambda f: job.seconds(f, "exposed_s"), axes, units.duration)
    yield from _section("idle for others", forecasts, lambda f: job.seconds(f, "waiting_s"), axes, units.duration)
    if any(f.goodput is not None for f in forecasts):
        yield "with failures", [""] * len(forecasts)
        yield row("  time that counts", lambda f: job.share_text(f.goodput))
        yield row("  checkpoint every", lambda f: job.interval_text(f.goodput))
    phases = {
        name: PHASES.get(name, name)
        for f in forecasts
        for name, time_s in f.time_by_phase_s.items()
        if time_s >= CRUMB * sum(f.time_by_phase_s.values())
    }
    yield from _section("time on the chip", forecasts, lambda f: f.time_by_phase_s, phases, units.duration)
    kinds = {name: MEMORY.get(name, name) for f in forecasts for name in f.memory_by_kind}
    yield from _section("memory at peak", forecasts, _kinds_that_count, kinds, units.memory)
    yield from _section("evidence", forecasts, lambda f: f.evidence, EVIDENCE, units.share)


def _took(forecast: "Forecast") -> str:
    """How many times as long as forecast published runs on this chip took, where they lie to one side of it."""
    longer = forecast.compared.longer if forecast.compared is not None else None
    return f"{longer:.1f} x as long" if longer else "-"


def _kinds_that_count(forecast: "Forecast") -> Mapping[str, int]:
    """Memory by kind without crumbs: at the moment of the peak gradients are often a single number, the loss's."""
    least = forecast.peak_memory_bytes * CRUMB
    return {name: nbytes for name, nbytes in forecast.memory_by_kind.items() if nbytes >= least}


def _section(
    title: str,
    forecasts: Sequence["Forecast"],
    values: Callable[["Forecast"], Mapping[str, float]],
    labels: Mapping[str, str],
    unit: Callable[[float], str],
) -> Iterator[Row]:
    """A heading and a row for each part that is not nothing everywhere, as it is shown."""
    parts = [name for name in labels if any(unit(values(f).get(name, 0)) != unit(0) for f in forecasts)]
    if not parts:
        return
    yield title, [""] * len(forecasts)
    for name in parts:
        yield f"  {labels[name]}", [unit(values(f).get(name, 0)) for f in forecasts]


def _beside(columns: list[tuple[str, "Forecast"]], width: int) -> Iterator[list[tuple[str, "Forecast"]]]:
    """The columns in groups, each of which fits into the width (at least one column)."""
    group: list[tuple[str, Forecast]] = []
    used = 0
    for column in columns:
        needs = max(*map(len, _heading(column[0]).split("\n")), TIME_WIDTH) + 2
        if group and used + needs > width:
            yield group
            group, used = [], 0
        group.append(column)
        used += needs
    yield group


def _top_ops(columns: Sequence[tuple[str, "Forecast"]], alone: bool) -> Table:
    """The operations that take most of the step, with what each takes on every target; for one target also why. Last, what all
    others take: with those above all of the time on the chip."""
    forecasts = [forecast for _, forecast in columns]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(f"top operations, per {ONE_OF[forecasts[0].step_kind]}", ratio=1, overflow="fold")
    table.add_column("calls", justify="right", no_wrap=True)
    for name, _ in columns:
        table.add_column("time" if alone else _heading(name), justify="right", max_width=COLUMN_WIDTH, overflow="fold")
    if alone:
        for name in ("share", "limit", "evidence"):
            table.add_column(name, justify="right" if name == "share" else "left", no_wrap=True)
    left = [sum(forecast.time_by_phase_s.values()) for forecast in forecasts]
    for ops in _ranked(forecasts):
        known = next(op for op in ops if op is not None)
        times = [units.duration(op.time_s) if op else "-" for op in ops]
        why = (
            [_of_step(known.time_s, forecasts[0]), known.limit.replace("_", " "), EVIDENCE[known.evidence]]
            if alone
            else []
        )
        table.add_row(f"{_short(known.name)} {known.shape}", units.count(known.count), *times, *why)
        left = [rest - (op.time_s if op else 0.0) for rest, op in zip(left, ops, strict=True)]
    if max(left) > CRUMB * max(forecast.step_time_s for forecast in forecasts):
        shares = [_of_step(left[0], forecasts[0])] if alone else []
        table.add_row("all others", "", *(units.duration(rest) for rest in left), *shares)
    return table


def _of_step(time_s: float, forecast: "Forecast") -> str:
    return units.share(time_s / forecast.step_time_s) if forecast.step_time_s else "-"


def _ranked(forecasts: Sequence["Forecast"]) -> list[list["TopOp | None"]]:
    """For the operations that matter most anywhere, largest share first: each target's, None where it has none in the step that
    its figures are of."""
    every = _comparable(forecasts)
    shares: dict[tuple[str, str], float] = {}
    for ops in every:
        for key in sorted(ops, key=lambda key: -ops[key].share)[:TOP_OPS]:
            shares[key] = max(shares.get(key, 0.0), ops[key].share)
    return [[ops.get(op) for ops in every] for op in sorted(shares, key=lambda op: -shares[op])[:TOP_OPS]]


def _comparable(forecasts: Sequence["Forecast"]) -> list[dict[tuple[str, str], "TopOp"]]:
    """Each target's operations by name and shape. Where targets are told by steps that are not the same (one call of generated text, which
    has shapes of its own, and the mean of all), those of one name whose shapes are not as often in each are one row."""
    every = [{(op.name, op.shape): op for op in forecast.all_ops} for forecast in forecasts]
    if all(forecast.told == forecasts[0].told for forecast in forecasts):
        return every
    names = [{name for name, _ in ops} for ops in every]
    unlike: dict[str, list[tuple[str, str]]] = {}
    for key in dict.fromkeys(key for ops in every for key in ops):
        times = [ops[key].count if key in ops else 0.0 for ops, has in zip(every, names, strict=True) if key[0] in has]
        if max(times) - min(times) > CRUMB * max(times):
            unlike.setdefault(key[0], []).append(key)
    for ops in every:
        for name, keys in unlike.items():
            found = [ops.pop(key) for key in keys if key in ops] if len(keys) > 1 else []
            if found:
                ops[name, SEVERAL] = _together(found)
    return every


def _together(ops: Sequence["TopOp"]) -> "TopOp":
    """Operations of one name as one, of which the first says why it takes its time."""
    count, time_s, share = (sum(getattr(op, field) for op in ops) for field in ("count", "time_s", "share"))
    return replace(ops[0], shape=SEVERAL, count=count, time_s=time_s, share=share)


def _short(name: str) -> str:
    return name.removeprefix("aten.")
