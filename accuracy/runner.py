"""The forecast of a plan: recordings of its points, priced on its chip, put together."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from accuracy.fold import Point, points
from accuracy.plan import Plan, argv_of
from accuracy.recorder import STEPS, Job, Recorder
from anychip.cluster import simulate
from anychip.figures import Window, breakdown_of
from anychip.network import Fabric
from anychip.record import Program
from anychip.record.steps import find_steps
from anychip.spec import Chip, load_chip
from anychip.timeline.memory import memory
from anychip.timeline.price import price


@dataclass(frozen=True)
class Priced:
    """A step's seconds, the worst rank's peak bytes, the slowest rank's parts, and the peaks of the first and last rank."""

    time_s: float
    peak_bytes: float
    breakdown_s: Mapping[str, float]
    ends: tuple[float, float]


def jobs_of(plan: Plan) -> list[tuple[Point, Job]]:
    """Weighted recordings that the plan needs: each stage of as many chips as in the whole."""
    of_stage = plan.num_chips // plan.options.get("pp", 1)
    return [
        (point, Job(argv_of({**point.options, "steps": STEPS}), of_stage * point.options.get("pp", 1), plan.program))
        for point in points(plan.options)
    ]


def forecast(plan: Plan, recorder: Recorder, chip: Chip | None = None) -> Priced:
    """Raises RuntimeError where the program failed."""
    on = chip or load_chip(plan.chip)
    parts = [(point, priced(recorder.program(job), on, plan.num_chips, plan.cluster)) for point, job in jobs_of(plan)]
    ends = sum(point.first * one.ends[0] for point, one in parts), sum(point.last * one.ends[1] for point, one in parts)
    names: dict[str, Any] = dict.fromkeys(name for _, one in parts for name in one.breakdown_s)
    return Priced(
        sum(point.weight * one.time_s for point, one in parts),
        max(ends),
        {name: sum(point.weight * one.breakdown_s.get(name, 0.0) for point, one in parts) for name in names},
        ends,
    )


@cache
def fabric(chip: Chip, num_chips: int, cluster: str | None) -> Fabric:
    return Fabric.of(chip, num_chips, cluster)


def priced(program: Program, chip: Chip, num_chips: int = 0, cluster: str | None = None) -> Priced:
    """One recording on one chip, or on as many as it has ranks, in a cluster of `num_chips` where that is more."""
    if program.world_size == 1:
        timelines = [price(program, chip)]
    else:
        job = simulate(program, chip, fabric(chip, max(program.world_size, num_chips), cluster))
        timelines = [rank.timeline for rank in job.ranks]
    windows = [Window.of(timeline, find_steps(timeline.program)) for timeline in timelines]
    slowest = max(range(len(windows)), key=lambda index: windows[index].step_time_s)
    peaks = [memory(timeline.program).peak_bytes for timeline in timelines]
    parts = breakdown_of(timelines[slowest], windows[slowest])
    return Priced(windows[slowest].step_time_s, max(peaks), parts, (peaks[0], peaks[-1]))
