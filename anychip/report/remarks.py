"""What is said below the table of figures: what limits each target, why an error bar is as wide as it is, whose host's time it is,
prices, values that are read, memory by module, warnings."""

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from anychip import units
from anychip.record import Kind

if TYPE_CHECKING:
    from anychip.api import Answer
    from anychip.forecast import Forecast

REASONS = 4  # of an error bar
TELLS = 0.2  # of an error bar: a part that is less does not show in it
PART = 0.05  # of the chip's time: of less nothing is said
PLACES = 4  # lines of the program that read values
MODULES = 6
PART_OF_PEAK = 0.01  # a module below that is not told
ONE_OF = {"train": "step", "call": "call", "run": "run"}  # what figures are of


def remarks(answer: "Answer", columns: Sequence[tuple[str, "Forecast"]]) -> Iterator[str]:
    """columns: the targets that stand above in full."""
    for name, forecast in columns:
        yield f"{name}: {forecast.limit}"
    yield from _why_errors(columns)
    yield from _unlike_evidence(answer)
    if answer.host == "modelled":
        sleeps = any((one.kinds == Kind.HOST).any() for program in answer.programs for one in program.ranks)
        what = "launching, and what the program sleeps" if sleeps else "launching alone"
        yield f"host: {what}; --host measured adds data loading and Python between calls, in generating text often as much again"
    yield from _host_bound(answer)
    yield from _prices(answer)
    first = answer.forecasts[0]
    prompts = {whole_number(one.prompt_tokens) for one in answer.forecasts if one.usd_per_million_prompt_tokens}
    if prompts:
        those = f"the {prompts.pop()}" if len(prompts) == 1 else "those"
        yield f"USD/million: output of a call and the tokens that it writes, prompt of the first call and {those} that it reads"
    if first.step_kind == "train" and first.steps > 1:
        counted = len(first.step_times_s)
        which = "all but the first count" if counted == first.steps - 1 else f"the last {counted} count"
        yield f"steps: {first.steps} were recorded, {which}; what comes once in more (an evaluation, a checkpoint) is in no figure"
    yield from _values_read(first)
    yield from _by_module(columns[0][1], columns[0][0] if len(answer.names) > 1 else "")
    if any(one.meta.get("interrupted") for one in answer.programs):
        yield "Interrupted: the figures hold for what the program had done by then."
    for warning in answer.warnings:
        yield f"- warning: {warning}"


def _why_errors(columns: Sequence[tuple[str, "Forecast"]]) -> Iterator[str]:
    """Of each error bar what makes it as wide as it is; targets of which that is the same share a line."""
    found: dict[str, list[str]] = {}
    for name, forecast in columns:
        parts = [
            (reason, part) for reason, part in forecast.error_parts.items() if part >= TELLS * forecast.step_time_error
        ]
        alone = len(parts) == 1
        reasons = [reason if alone else f"{reason} ({units.share(part)})" for reason, part in parts[:REASONS]]
        if reasons:
            found.setdefault(f"+-{units.share(forecast.step_time_error)}: {'; '.join(reasons)}", []).append(name)
    for said, names in found.items():
        yield f"{', '.join(names)}: {said}"


def _unlike_evidence(answer: "Answer") -> Iterator[str]:
    """Of parts of the step that count, on what their rates rest, where that is not the same on all targets: chips of one silicon
    differ by it alone."""
    parts = {
        part: one.share for forecast in answer.forecasts for part, one in forecast.rests_on.items() if one.share >= PART
    }
    lines = []
    for part in parts:
        rates: dict[str, list[str]] = {}
        for name, forecast in zip(answer.names, answer.forecasts, strict=True):
            if part in forecast.rests_on:
                rates.setdefault(forecast.rests_on[part].rate, []).append(name)
        if len(rates) > 1:
            lines.append(f"- {part}: " + "; ".join(f"{rate} ({', '.join(names)})" for rate, names in rates.items()))
    if lines:
        yield "what rates rest on differs, and targets differ by that, too:"
        yield from lines


def _host_bound(answer: "Answer") -> Iterator[str]:
    """Whose host's time it is on targets where that is what a step takes."""
    hosts: dict[str, list[str]] = {}
    for name, forecast in zip(answer.names, answer.forecasts, strict=True):
        if forecast.host_bound:
            hosts.setdefault(forecast.host_bound, []).append(name)
    if hosts:
        said = "; ".join(f"{', '.join(names)}: {whose}" for whose, names in hosts.items())
        yield f"bound by the host, and as fast as its CPU is: {said}. For yours: anychip measure --only host, docs/measure.md"


def _prices(answer: "Answer") -> Iterator[str]:
    """Whose prices are those of their files, and which chips have none; nothing where all were given."""
    targets = zip(answer.names, answer.chips, answer.forecasts, strict=True)
    others = [(name.partition(":")[0], one) for name, chip, one in targets if chip.id not in answer.prices]
    listed = dict.fromkeys(name for name, one in others if one.usd_per_hour is not None)
    lacking = dict.fromkeys(name for name, one in others if one.usd_per_hour is None)
    said = []
    if listed:
        said.append("the lowest that each chip's file lists" + (f" ({', '.join(listed)})" if answer.prices else ""))
    if lacking:
        said.append(f"none is listed of {', '.join(lacking)}")
    if said:
        yield f"prices: {'; '.join(said)}; --price CHIP=USD for what an hour costs you"


def _values_read(forecast: "Forecast") -> Iterator[str]:
    """How often the program reads a value of the chip, and at which of its lines: each time the host waits."""
    if not forecast.values_read:
        return
    total = sum(read.count for read in forecast.values_read)
    places = [f"{os.path.basename(read.file)}:{read.line} ({_rate(read.count)})" for read in forecast.values_read]
    more = ", ..." if len(places) > PLACES else ""
    yield f"values read from the chip: {_rate(total)} per {ONE_OF[forecast.step_kind]}, at {', '.join(places[:PLACES])}{more}"


def _by_module(forecast: "Forecast", name: str) -> Iterator[str]:
    """The modules that most of the memory at the peak was made for; * stands for numbers. name: of several targets the one that it is of."""
    most = [
        (name, nbytes)
        for name, nbytes in forecast.memory_by_module.items()
        if nbytes >= PART_OF_PEAK * forecast.peak_memory_bytes
    ]
    if len(most) > 1:
        yield (
            "memory at peak by module"
            + (f", {name}: " if name else ": ")
            + ", ".join(f"{module} {units.memory(nbytes)}" for module, nbytes in most[:MODULES])
        )


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def whole_number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
