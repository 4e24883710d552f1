"""Errors of forecasts, summed up: by group, with a source left out, in rank, in ratio, against the noise of the source itself.

In: `Result`s. Out: plain numbers. An error is forecast / measured - 1.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from accuracy.plan import Plan
from accuracy.rows import Run

GIB = 2**30
# Columns that two runs of one configuration share, whoever ran them and with which release.
SAME = ("chip", "chips", "model", "layers", "hidden", "seq_len", "global_batch", "micro_batch", "dtype", "tp", "pp", "vp", "cp",
        "ep", "zero_or_fsdp", "recompute", "compile", "sequence_parallel")  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A run and what was forecast of it. reason: why there is no forecast. fits: ids of runs that constants were fitted to
    are left out of every figure."""

    run: Run
    plan: Plan | None = None
    measured_s: float | None = None
    forecast_s: float | None = None
    peak_bytes: float | None = None
    breakdown_s: Mapping[str, float] | None = None
    reason: str | None = None
    fitted: bool = False

    @property
    def chip(self) -> str:
        return self.plan.chip if self.plan else self.run["chip"]

    @property
    def error(self) -> float | None:
        if self.forecast_s is None or not self.measured_s or self.fitted:
            return None
        return self.forecast_s / self.measured_s - 1

    @property
    def memory_error(self) -> float | None:
        measured = self.run.metrics.get("memory_gib")
        if self.peak_bytes is None or not measured or self.fitted:
            return None
        return self.peak_bytes / GIB / measured - 1


@dataclass(frozen=True)
class Summary:
    """Of some errors. worst: the largest in size, with its sign."""

    n: int
    mean_abs: float
    median_abs: float
    worst: float
    bias: float

    @classmethod
    def of(cls, errors: Sequence[float]) -> "Summary":
        sizes = [abs(error) for error in errors]
        return cls(len(errors), fmean(sizes), median(sizes), max(errors, key=abs), fmean(errors))


Key = Callable[[Result], str]
Error = Callable[[Result], float | None]


def step(result: Result) -> float | None:
    return result.error


def held(result: Result) -> float | None:
    return result.memory_error


def ids_by_reason(found: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Of (reason, id): the ids of each reason, in the order in which they come."""
    reasons: dict[str, list[str]] = {}
    for reason, name in found:
        reasons.setdefault(reason, []).append(name)
    return reasons


def grouped(results: Iterable[Result], key: Key, error: Error = step) -> dict[str, tuple[Summary | None, int]]:
    """(summary of those forecast, number of all) of each group, by name."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    found = {}
    for name, members in sorted(groups.items()):
        errors = [value for member in members if (value := error(member)) is not None]
        found[name] = (Summary.of(errors) if errors else None, len(members))
    return found


LEAST_RUNS = 3  # of a source on a chip, for its error to count in a forecast's bar
LEAST_TO_TRAIN = 3  # runs: one or two of another kind say nothing of a chip's level


def left_out(results: Sequence[Result], family: Key) -> dict[str, tuple[Summary, Summary]]:
    """Leave one source out: for each source of a family of chips, (its errors as they are, its errors by the level of the others).
    Families of one source are not here."""
    blind = blind_errors(results, family)
    groups: dict[str, list[Result]] = {}
    for result in results:
        if result.run.id in blind:
            groups.setdefault(f"{family(result)}: {result.run.source}", []).append(result)
    return {
        name: (Summary.of([r.error for r in own if r.error is not None]), Summary.of([blind[r.run.id] for r in own]))
        for name, own in sorted(groups.items())
    }


def blind_errors(results: Sequence[Result], family: Key) -> dict[str, float]:
    """Run -> its error by the level that at most six runs of each other source of its family give. Where those are too few, none."""
    found = {}
    families: dict[str, list[Result]] = {}
    for result in results:
        if result.error is not None:
            families.setdefault(family(result), []).append(result)
    for members in families.values():
        sources = sorted({member.run.source for member in members})
        for source in sources if len(sources) > 1 else ():
            train = [r for other in sources if other != source for r in spread_over(members, other)]
            if len(train) < LEAST_TO_TRAIN:
                continue
            level = median([(r.measured_s or 0.0) / (r.forecast_s or 1.0) for r in train])
            for r in members:
                if r.error is not None and r.run.source == source:
                    found[r.run.id] = (1 + r.error) * level - 1
    return found


def spread_over(members: Sequence[Result], source: str, most: int = 6) -> list[Result]:
    """At most so many runs of a source, evenly over its list."""
    own = [member for member in members if member.run.source == source]
    if len(own) <= most:
        return own
    return [own[index * (len(own) - 1) // (most - 1)] for index in range(most)]


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    at = 0
    while at < len(order):
        end = at
        while end + 1 < len(order) and values[order[end + 1]] == values[order[at]]:
            end += 1
        for index in order[at : end + 1]:
            found[index] = (at + end) / 2 + 1
        at = end + 1
    return found


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Rank correlation; None for fewer than three pairs or where one side does not vary."""
    if len(first) < 3:
        return None
    a, b = ranks(first), ranks(second)
    mean = (len(a) + 1) / 2
    over = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    under = (sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b)) ** 0.5
    return over / under if under else None


def layouts(results: Iterable[Result], least: int = 4) -> dict[str, tuple[int, float | None, bool]]:
    """Per source, chip, count and batch with several layouts of models of one kind: (n, rank correlation of chip-seconds
    per token and parameter, whether the best one was found)."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        if result.error is not None:
            run = result.run
            name = f"{run.source}: {run['chip']}, {run['dtype']}, batch {run['global_batch']}"
            groups.setdefault(name, []).append(result)
    found = {}
    for name, members in groups.items():
        if len({layout_of(member) for member in members}) < least:
            continue
        measured = [cost(member, member.measured_s or 0.0) for member in members]
        forecast = [cost(member, member.forecast_s or 0.0) for member in members]
        best = measured.index(min(measured)) == forecast.index(min(forecast))
        found[name] = (len(members), spearman(measured, forecast), best)
    return found


def layout_of(result: Result) -> tuple[str, ...]:
    return tuple(result.run[name] for name in ("chips", "layers", "hidden", "tp", "pp", "vp", "cp", "micro_batch"))


def cost(result: Result, time_s: float) -> float:
    """Chip-seconds per layer and square of its width: what a layout takes for the same work."""
    run = result.run
    work = (run.number("layers") or 1.0) * (run.number("hidden") or 1.0) ** 2
    return time_s * (run.number("chips") or 1.0) / work


def noise(results: Iterable[Result]) -> dict[str, tuple[int, float]]:
    """Per source: (runs that share their configuration with another, mean distance from the median of those)."""
    same: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        if result.measured_s and result.plan is not None:
            same.setdefault((result.run.source, *(result.run[name] for name in SAME)), []).append(result)
    apart: dict[str, list[float]] = {}
    for (source, *_), members in same.items():
        if len(members) > 1:
            middle = median([member.measured_s or 0.0 for member in members])
            apart.setdefault(source, []).extend(abs((member.measured_s or 0.0) / middle - 1) for member in members)
    return {source: (len(values), fmean(values)) for source, values in sorted(apart.items())}


def low_ratios(results: Iterable[Result]) -> list[tuple[Result, Result, float]]:
    """Pairs of runs that differ in dtype only, FP8 and 16 bit: (FP8, 16 bit, error of the ratio of their times)."""
    columns = [name for name in SAME if name != "dtype"]
    found: dict[tuple[str, ...], dict[str, Result]] = {}
    for result in results:
        if result.error is not None and result.plan is not None:
            key = (result.run["framework"], result.run["source_url"], *(result.run[name] for name in columns))
            found.setdefault(key, {})[str(result.plan.options["dtype"])] = result
    pairs = [(both["fp8"], both["bf16"]) for both in found.values() if {"fp8", "bf16"} <= set(both)]
    return [(low, wide, (1 + (low.error or 0.0)) / (1 + (wide.error or 0.0)) - 1) for low, wide in pairs]
