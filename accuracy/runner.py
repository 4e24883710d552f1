"""The forecast of a plan: recordings of its points, priced on its chip, put together."""

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import anychip
from accuracy.fold import Point, points
from accuracy.held import held_job, held_key, most_bytes
from accuracy.plan import Plan, argv_of
from accuracy.recorder import STEPS, Job, Recorder
from anychip.cluster import Stragglers, simulate
from anychip.figures import Window, breakdown_of
from anychip.job import BREAKDOWN, breakdown_of_rank, parts_of
from anychip.memory import NO_LIMIT, replay
from anychip.network import Fabric
from anychip.record import Program
from anychip.record.steps import find_steps
from anychip.spec import Chip, load_chip
from anychip.spec.validated import FILES
from anychip.timeline.memory import memory
from anychip.timeline.price import price
from anychip.whole import put

PACKAGE = Path(anychip.__file__).parent
T = TypeVar("T")


@dataclass(frozen=True)
class Priced:
    """A step's seconds, the worst rank's peak bytes, the parts of its ranks' mean, and the peaks of the first and last rank:
    of what tensors take, or of what is reserved for them."""

    time_s: float
    peak_bytes: float
    breakdown_s: Mapping[str, float]
    ends: tuple[float, float]


def jobs_of(plan: Plan) -> list[tuple[Point, Job]]:
    """Weighted recordings that the plan needs: each stage of as many chips as in the whole."""
    of_stage = plan.num_chips // plan.options.get("pp", 1)
    return [
        (
            point,
            Job(
                argv_of({**point.options, "steps": STEPS, **plan.own}),
                of_stage * point.options.get("pp", 1),
                plan.program,
            ),
        )
        for point in points(plan.options)
    ]


def forecast(plan: Plan, recorder: Recorder, keep: bool = False) -> Priced:
    """keep: prices are kept beside the recordings, as long as nothing that prices changes. Raises RuntimeError where the
    program failed."""
    on = load_chip(plan.chip)
    find = kept if keep else price_job
    parts = [(point, find(recorder, job, on, plan)) for point, job in jobs_of(plan)]
    ends = sum(point.first * one.ends[0] for point, one in parts), sum(point.last * one.ends[1] for point, one in parts)
    names: dict[str, Any] = dict.fromkeys(name for _, one in parts for name in one.breakdown_s)
    return Priced(
        sum(point.weight * one.time_s for point, one in parts),
        whole_bytes(plan, recorder, keep) or max(ends),
        {name: sum(point.weight * one.breakdown_s.get(name, 0.0) for point, one in parts) for name in names},
        ends,
    )


def whole_bytes(plan: Plan, recorder: Recorder, keep: bool = False) -> float | None:
    """Of a run that publishes memory, what its fullest rank holds; None where only the fold's figure can be had."""
    job = held_job(plan)
    if job is None:
        return None
    path = kept_path(recorder, held_key(plan, job))
    if keep and path.exists():
        return float(json.loads(path.read_text(encoding="utf-8")))
    try:
        found = most_bytes(recorder, plan, job)
    except RuntimeError:  # the program failed; the time stands
        return None
    if keep:
        path.parent.mkdir(exist_ok=True)
        put(path, json.dumps(found))
    return found


def price_job(recorder: Recorder, job: Job, chip: Chip, plan: Plan) -> Priced:
    return priced(recorder.program(job), chip, plan.num_chips, plan.cluster, plan.memory != "allocated")


def kept(recorder: Recorder, job: Job, chip: Chip, plan: Plan) -> Priced:
    """As `price_job`, from the file of an earlier run if there is one."""
    path = price_path(recorder, job, chip, plan)
    if path.exists():
        time_s, peak_bytes, breakdown_s, ends = json.loads(path.read_text(encoding="utf-8"))
        return Priced(time_s, peak_bytes, breakdown_s, tuple(ends))
    found = price_job(recorder, job, chip, plan)
    path.parent.mkdir(exist_ok=True)
    put(path, json.dumps([found.time_s, found.peak_bytes, found.breakdown_s, found.ends]))
    return found


def told(items: Sequence[T]) -> Iterator[T]:
    """Each of what is to be forecast, with a line on how far it is: of each one on a terminal, else of every twentieth."""
    begun = time.monotonic()
    for number, item in enumerate(items):
        yield item
        if sys.stderr.isatty() or number % 20 == 0:
            done = f"{number + 1}/{len(items)}, {time.monotonic() - begun:.0f} s"
            print(f"accuracy: {done}", file=sys.stderr, flush=True)


def price_path(recorder: Recorder, job: Job, chip: Chip, plan: Plan) -> Path:
    return kept_path(recorder, json.dumps([job.key, chip.id, plan.num_chips, plan.cluster, plan.memory]))


def kept_path(recorder: Recorder, key: str) -> Path:
    text = json.dumps([key, pricing_digest()])
    return recorder.folder / "prices" / f"{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}.json"


def is_priced(recorder: Recorder, plan: Plan) -> bool:
    chip = load_chip(plan.chip)
    whole = held_job(plan)
    return all(price_path(recorder, job, chip, plan).exists() for _, job in jobs_of(plan)) and (
        whole is None or kept_path(recorder, held_key(plan, whole)).exists()
    )


@cache
def pricing_digest() -> str:
    """Names all that a price depends on beside the recording: the package with the standard."""
    whole = hashlib.blake2b(digest_size=12)
    for part in ("cost", "network", "cluster", "timeline", "memory", "figures", "job.py", "spec", "standard"):
        paths = sorted(PACKAGE.glob(part)) if "." in part else sorted((PACKAGE / part).rglob("*.*"))
        for path in paths:
            if path.suffix in (".py", ".csv", ".toml") and path.name not in FILES.values():
                whole.update(path.read_bytes())
    return whole.hexdigest()


@cache
def fabric(chip: Chip, num_chips: int, cluster: str | None) -> Fabric:
    return Fabric.of(chip, num_chips, cluster)


def priced(program: Program, chip: Chip, num_chips: int = 0, cluster: str | None = None,
           is_reserved: bool = False) -> Priced:  # fmt: skip
    """One recording on one chip, or on as many as it has ranks, in a cluster of `num_chips` where that is more."""
    if program.world_size == 1:
        timeline = price(program, chip)
        window = Window.of(timeline, find_steps(timeline.program))
        peak = held_bytes(timeline.program, is_reserved)
        return Priced(window.step_time_s, peak, breakdown_of(timeline, window), (peak, peak))
    on = fabric(chip, max(program.world_size, num_chips), cluster)
    job = simulate(program, chip, on, stragglers=Stragglers(), part_of=num_chips)
    parts = parts_of(job)
    peaks = [held_bytes(part.program, is_reserved) for part in parts]
    mine = [(part.weight, breakdown_of_rank(part)[0]) for part in parts]
    breakdown = {name: sum(weight * one[name] for weight, one in mine) for name in BREAKDOWN}
    return Priced(parts[0].window.step_time_s, max(peaks), breakdown, (peaks[0], peaks[-1]))


def held_bytes(program: Program, is_reserved: bool) -> float:
    return replay(program, NO_LIMIT).reserved_bytes if is_reserved else memory(program).peak_bytes
