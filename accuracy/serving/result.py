"""The forecast of a published run that generates text: its plan's two calls recorded and priced, beside what was measured."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from accuracy.measures import TRAINED, generates
from accuracy.plan import fit_ids
from accuracy.reading.tables import Unable
from accuracy.recorder import SERVING, Recorder
from accuracy.rows import Run
from accuracy.runner import priced
from accuracy.serving import PHASES
from accuracy.serving.plan import METRICS, Plan, plan
from anychip.spec import load_chip
from anychip.spec.chip import UnknownFigure

WHOLE = "whole"
QUANTITIES = (*PHASES, WHOLE)


@dataclass(frozen=True)
class Result:
    """Seconds by quantity: "prompt", "token", "whole". fitted: a constant was fitted to it, so it is in no figure."""

    run: Run
    plan: Plan | None = None
    measured: dict[str, float] = field(default_factory=dict)
    forecast: dict[str, float] = field(default_factory=dict)
    reason: str | None = None
    fitted: bool = False

    def error(self, quantity: str) -> float | None:
        if self.fitted:
            return None
        both = self.measured.get(quantity), self.forecast.get(quantity)
        return both[1] / both[0] - 1 if both[0] and both[1] else None

    @property
    def chip(self) -> str:
        return self.plan.chip if self.plan else self.run["chip"]

    @property
    def source(self) -> str:
        return re.split(r" run_|,|\s+\S*\d", self.run["framework"])[0]


def is_served(run: Run) -> bool:
    """Whether a run generates text: what it prints is a rate or a time of tokens that are written, or its columns are of such a run."""
    of_steps = run.metrics.keys() & {*TRAINED} - {"memory_gib"}
    return bool(run.metrics) and (run.metrics.keys() <= METRICS.keys() or (generates(run.columns) and not of_steps))


def once(runs: Sequence[Run]) -> list[Run]:
    """Runs that agree in all columns and values are one that was printed several times."""
    seen: dict[str, Run] = {}
    for run in runs:
        columns = {name: value for name, value in run.columns.items() if name not in ("source_location", "notes")}
        seen.setdefault(json.dumps([columns, dict(run.metrics)], sort_keys=True), run)
    return list(seen.values())


def result_of(run: Run, recorder: Recorder, known: bool = False) -> Result:
    """known: only what is recorded already."""
    try:
        found = plan(run)
        measured = dict(found.measured())
        if not measured:
            raise Unable(f"nothing to compare in {', '.join(run.metrics) or 'what it prints'}")
        jobs, chip = [found.job(phase) for phase in PHASES], load_chip(found.chip)
        if known and not all(recorder.path(job).exists() or recorder.failed(job) for job in jobs):
            raise Unable("not yet recorded")
        times = [priced(recorder.program(job), chip).time_s for job in jobs]
        return Result(run, found, measured, dict(found.seconds(*times)), fitted=bool(set(run.ids) & fit_ids()))
    except (Unable, UnknownFigure) as error:
        return Result(run, reason=str(error).split(" Add it to")[0])
    except Exception as error:  # a row that fails is listed with the reason, whatever it is
        said = str(error).strip().splitlines() or [""]
        return Result(run, reason=f"{type(error).__name__}: {said[-1][:200]}")


def lines(result: Result) -> list[dict[str, Any]]:
    """An entry for each quantity that the source prints, with the keys of a training run's; times in seconds."""
    shared = {
        "id": result.run.id, "ids": list(result.run.ids), "chip": result.chip, "source": result.source, "program": SERVING, "instead": "",
        "filled": list(result.plan.filled) if result.plan else [], "fitted": result.fitted,
        "command": command(result.plan) if result.plan else None, "reason": result.reason,
    }  # fmt: skip
    if not result.measured:
        return [{**shared, "metric": "whole_s", "measured": None, "forecast": None, "error": None}]
    return [
        {
            **shared,
            "metric": f"{name}_s",
            "measured": value,
            "forecast": result.forecast.get(name),
            "error": result.error(name),
        }
        for name, value in result.measured.items()
    ]


def described(run: Run) -> str:
    """Its command, or why there is none."""
    try:
        return f"{run.id}: {command(plan(run))}"
    except Unable as error:
        return f"{run.id}: {error}"


def command(found: Plan) -> str:
    """What forecasts the next token."""
    job = found.job("token")
    return f"anychip forecast --calls 4 --on {found.chip}:{found.replica_chips} -m {job.module} {' '.join(job.argv)}"
