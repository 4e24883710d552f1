"""Published runs that train against forecasts: each planned, recorded and priced, beside what was measured.

In: `Run`s. Out: `Result`s, in the same order, with the reason where nothing can be forecast.
"""

import os
import shlex
import time
from dataclasses import replace
from typing import Any

from accuracy.fold import points
from accuracy.held import held_job
from accuracy.measures import TRAINED
from accuracy.plan import Plan, fit_ids, plan
from accuracy.reading.tables import Unable
from accuracy.recorder import HYBRID, Job, Recorder
from accuracy.rows import Run
from accuracy.runner import forecast, is_priced, jobs_of, told
from accuracy.said import said
from accuracy.score import GIB, Result
from accuracy.truth_of_runs import share_of_peak, step_time_s
from accuracy.why import memory_is_other
from anychip.spec import load_chip
from anychip.spec.catalogue import STANDARD


def planned_result(run: Run) -> Result:
    """With its plan and measured time, or the reason why there is none."""
    fitted = bool(set(run.ids) & fit_ids())
    try:
        found = plan(run)
        try:
            measured: float | None = step_time_s(found)
        except Unable:
            if "memory_gib" not in run.metrics:
                raise
            measured = None
        if "seq_len" in found.filled and (share := share_of_peak(found, measured)) > 1:
            raise Unable(
                f"the source does not say seq_len: of {found.options['seq']} tokens its products would run at {share:.0%} of the chip's peak"
            )
        return Result(run, found, measured, fitted=fitted)
    except Unable as error:
        return Result(run, reason=with_metrics(run, str(error)), fitted=fitted)
    except Exception as error:  # columns that nobody thought of: listed, and the other rows go on
        return Result(run, reason=f"its columns cannot be read: {type(error).__name__}: {error}"[:200], fitted=fitted)


def with_metrics(run: Run, reason: str) -> str:
    """And where nothing that a run prints could be compared, that too: its other columns need not be looked for."""
    strange = not set(run.metrics) & {*TRAINED}
    if not strange or run.shifted or "metric" in reason or "column chips" in reason:
        return reason
    told = (
        f"no metric says how long a step takes: {', '.join(run.metrics)}"
        if run.metrics
        else "no metric of it has a value above zero"
    )
    return f"{reason}; and {told}"


def forecasts(planned: list[Result], recorder: Recorder, known: bool, until: float) -> list[Result]:
    """Cheap ones first and every source and chip in turn, so that what was stopped has much; in the given order."""
    found = list(planned)
    left = in_turn(planned)
    try:
        for index in told(list(left)):
            found[index] = with_forecast(planned[index], recorder, known, until)
            left.remove(index)
    except KeyboardInterrupt:
        for index in left:
            if found[index].plan is not None:
                found[index] = replace(found[index], reason=NOT_REACHED)
    return found


NOT_REACHED = "not reached: the run was interrupted"


def in_turn(planned: list[Result]) -> list[int]:
    """Places in the list: the cheapest of each source and chip, then the second of each, and so on."""
    turns: dict[tuple[str, str], int] = {}
    keys = []
    for index in sorted(range(len(planned)), key=lambda index: effort(planned[index].plan)):
        group = planned[index].run.source, planned[index].chip
        turns[group] = turns.get(group, 0) + 1
        keys.append((turns[group], effort(planned[index].plan), index))
    return [index for *_, index in sorted(keys)]


def effort(found: Plan | None) -> float:
    """About how much has to be recorded: ranks that differ times layers times micro-batches, of all points."""
    if found is None:
        return 0.0
    often = 3 if found.options.get("experts") else 1
    sizes = [(p.options.get("pp", 1), p.options["layers"], p.options["micro_batches"]) for p in points(found.options)]
    return float(sum(stages * (15 + often * layers / stages * micro) for stages, layers, micro in sizes))


def with_forecast(result: Result, recorder: Recorder, known: bool, until: float = float("inf")) -> Result:
    if result.plan is None:
        return result
    if known and not all(recorder.path(job).exists() or recorder.failed(job) for job in every_job(result.plan)):
        return replace(result, reason="not yet recorded")
    if time.monotonic() > until and not is_priced(recorder, result.plan):
        return replace(result, reason="not reached in the time that the run had")
    try:
        priced = forecast(result.plan, recorder, keep=True)
    except Exception as error:  # a row that fails is listed with the reason, whatever it is
        said = str(error).strip().splitlines() or [""]
        if result.plan.program not in (Plan.program, HYBRID):
            other = replace(
                result.plan, program=Plan.program, instead=f"{result.plan.program} failed: {said[-1][:120]}"
            )
            return with_forecast(replace(result, plan=other), recorder, known, until)
        text = said[-1].replace(
            f"{STANDARD.parent.parent}{os.sep}", ""
        )  # where this machine has it is of no use to readers
        return replace(result, reason=f"{type(error).__name__}: {text[:200]}")
    smaller = recomputing(result.plan)
    if smaller and priced.peak_bytes > ROOM * load_chip(result.plan.chip).memory_bytes:
        return with_forecast(replace(result, plan=smaller), recorder, known, until)
    return replace(result, forecast_s=priced.time_s, peak_bytes=priced.peak_bytes, breakdown_s=priced.breakdown_s)


def every_job(found: Plan) -> list[Job]:
    whole = held_job(found)
    return [*(job for _, job in jobs_of(found)), *([whole] if whole else [])]


ROOM = 1.25  # memory is forecast no better than this: what needs more than so much of a chip would not fit


def recomputing(found: Plan) -> Plan | None:
    """What a run does that would not fit else, where its source does not say what it recomputes."""
    if "recompute" not in found.filled or found.options["recompute"] != "none" or found.offloads:
        return None
    options = {**found.options, "recompute": "full"}
    return replace(found, options=options, rules=(*found.rules, "recomputed, for it would not fit"))


def described(result: Result) -> str:
    if result.plan is None:
        return f"{result.run.id}: {result.reason}"
    return f"{result.run.id}: {command(result.plan)}"


def command(found: Plan) -> str:
    """What forecasts this run without folding."""
    where_ = f"@{found.cluster}" if found.cluster else ""
    return f"anychip forecast --on {found.chip}:{found.num_chips}{where_} -m {found.program} {shlex.join(found.argv)}"


def lines(result: Result) -> list[dict[str, Any]]:
    """One entry per quantity of a run: step time, and memory where the source has it."""
    found = result.plan
    shared = {"id": result.run.id, "ids": list(result.run.ids), "chip": result.chip, "source": result.run.source,
              "program": found.program if found else None, "instead": found.instead if found else "",
              "filled": list(found.filled) if found else [],
              "said": said(result), "fitted": result.fitted, "command": command(found) if found else None, "reason": result.reason}  # fmt: skip
    entries = []
    if result.measured_s is not None or found is None:
        entries.append({**shared, "metric": "step_time_s", "measured": result.measured_s, "forecast": result.forecast_s,
                        "error": result.error, "breakdown_s": dict(result.breakdown_s or {})})  # fmt: skip
    memory = result.run.metrics.get("memory_gib")
    if memory is not None:
        forecast_gib = result.peak_bytes / GIB if result.peak_bytes is not None else None
        entries.append({**shared, "metric": "memory_gib", "measured": memory, "forecast": forecast_gib,
                        "error": result.memory_error, "not_compared": memory_is_other(result)})  # fmt: skip
    return entries
