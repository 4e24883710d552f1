"""The forecast of a plan: recordings of its points, priced on its chip, put together."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from accuracy.fold import points
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
    """A step's seconds, the worst rank's peak bytes, and the slowest rank's parts."""

    time_s: float
    peak_bytes: float
    breakdown_s: Mapping[str, float]


def jobs_of(plan: Plan) -> list[tuple[float, Job]]:
    """Weighted recordings that the plan needs."""
    return [
        (point.weight, Job(argv_of({**point.options, "steps": STEPS}), plan.num_chips))
        for point in points(plan.options)
    ]


def forecast(plan: Plan, recorder: Recorder, chip: Chip | None = None) -> Priced:
    """Raises RuntimeError where the program failed."""
    on = chip or load_chip(plan.chip)
    parts = [(weight, priced(recorder.program(job), on)) for weight, job in jobs_of(plan)]
    names: dict[str, Any] = dict.fromkeys(name for _, one in parts for name in one.breakdown_s)
    return Priced(
        sum(weight * one.time_s for weight, one in parts),
        sum(weight * one.peak_bytes for weight, one in parts),
        {name: sum(weight * one.breakdown_s.get(name, 0.0) for weight, one in parts) for name in names},
    )


@cache
def fabric(chip: Chip, num_chips: int) -> Fabric:
    return Fabric.of(chip, num_chips)


def priced(program: Program, chip: Chip) -> Priced:
    """One recording on one chip, or on as many as it has ranks."""
    if program.world_size == 1:
        timelines = [price(program, chip)]
    else:
        job = simulate(program, chip, fabric(chip, program.world_size))
        timelines = [rank.timeline for rank in job.ranks]
    windows = [Window.of(timeline, find_steps(timeline.program)) for timeline in timelines]
    slowest = max(range(len(windows)), key=lambda index: windows[index].step_time_s)
    peak = max(memory(timeline.program).peak_bytes for timeline in timelines)
    return Priced(windows[slowest].step_time_s, peak, breakdown_of(timelines[slowest], windows[slowest]))
