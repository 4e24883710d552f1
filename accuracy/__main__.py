"""`python -m accuracy --rows FILE.csv [--where 'chip=...'] --json OUT`: published runs against forecasts, of training and (`serving`) of
generating text.

Recordings are kept by content, so a run that was stopped goes on where it was. What cannot be forecast is listed with the
reason. Exit code 0; 1 where nothing could be compared, or an error is outside its `--bounds`; 2 for wrong use.
"""

import argparse
import csv
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accuracy.fold import points
from accuracy.held import held_job
from accuracy.page import page
from accuracy.plan import Plan, Unable, fit_ids, plan
from accuracy.plot import scatter
from accuracy.recorder import HYBRID, Job, Recorder, cache_folder
from accuracy.rows import BadRows, Run, read, where
from accuracy.runner import forecast, is_priced, jobs_of, write
from accuracy.score import GIB, LEAST_RUNS, Result, grouped, ids_by_reason, left_out
from accuracy.serving import result as serving
from accuracy.serving.page import missing, summaries
from accuracy.truth_of_runs import step_time_s
from accuracy.why import is_other, memory_is_other
from anychip.spec import load_chip
from anychip.spec.catalogue import STANDARD

HERE = Path(__file__).parent


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m accuracy", description=__doc__)
    parser.add_argument(
        "--rows",
        action="append",
        required=True,
        metavar="FILE.csv",
        help="published runs; several times for several files",
    )
    parser.add_argument(
        "--where", action="append", default=[], metavar="COLUMN=VALUE", help="only these; also != and ~ (a pattern)"
    )
    parser.add_argument("--json", metavar="OUT", help="write results here")
    parser.add_argument("--page", metavar="OUT.md", help="write the table here, its plot beside it")
    parser.add_argument(
        "--known", action="store_true", help="only what is recorded already; the rest is listed as not yet recorded"
    )
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), metavar="N", help="price nothing new after so long; it is listed"
    )
    parser.add_argument("--list", action="store_true", help="only say what would be run")
    parser.add_argument(
        "--bounds",
        metavar="FILE.csv",
        help="only the runs named there; exit code 1 where an error is outside its bounds",
    )
    parser.add_argument(
        "--validated", metavar="OUT.csv", help="write errors by chip and source here, for forecasts' error bars"
    )
    parser.add_argument("--jobs", type=int, default=2)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    try:
        runs = where(read(args.rows), args.where)
        if not runs:
            raise BadRows(
                f"no run of {', '.join(args.rows)} meets {' and '.join(args.where) or 'any condition: it has none'}"
            )
        bounds = read_bounds(args.bounds)
    except (BadRows, OSError) as error:
        said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        print(f"accuracy: {said}", file=sys.stderr)
        return 2
    runs = [run for run in runs if not bounds or run.id in bounds]
    generating = [run for run in runs if serving.is_served(run)]
    planned = [planned_result(run) for run in runs if not serving.is_served(run)]
    if args.list:
        print("\n".join([*(described(result) for result in planned), *map(serving.described, generating)]))
        return 0
    with Recorder(cache_folder(), args.jobs) as recorder:
        results = forecasts(planned, recorder, args.known, time.monotonic() + 60 * args.minutes)
        served = [serving.result_of(run, recorder, args.known) for run in generating]
    if args.json:
        write(Path(args.json), json.dumps(as_json(results, served), indent=1) + "\n")
    if args.page:
        write_page(Path(args.page), results, args)
    for name, (summary, total) in grouped(results, by_chip).items():
        shown = (
            f"n {summary.n} of {total}, mean {summary.mean_abs:.1%}, median {summary.median_abs:.1%}, worst {summary.worst:+.1%}"
            if summary
            else f"none of {total}"
        )
        print(f"{name:26} {shown}")
    for reason, ids in unforecast(results).items():
        more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
        print(f"not forecast: {', '.join(ids[:SHOWN_IDS])}{more}: {reason}")
    if served:
        print("\n".join([*summaries(served, lambda r: r.chip), *missing(served)]))
    if args.validated:
        write(Path(args.validated), validated(results))
    outside = [text for result in results if (text := beyond(result, bounds))]
    print("\n".join(outside), end="\n" if outside else "")
    compared = [*(result.error for result in results), *(one for result in served for one in result.forecast.values())]
    return 1 if outside or all(error is None for error in compared) else 0


SHOWN_IDS = 8


def unforecast(results: list[Result]) -> dict[str, list[str]]:
    """Reason -> ids of the runs for which there is nothing to compare."""
    return ids_by_reason(
        (result.reason or NOTHING, result.run.id) for result in results if result.error is None and not result.fitted
    )


NOTHING = "the row has no step time, nor a rate that gives one, to compare with"


def read_bounds(path: str | None) -> dict[str, tuple[float, float]]:
    """id -> (lowest, highest error that is let pass)."""
    if path is None:
        return {}
    with Path(path).open(encoding="utf-8", newline="") as file:
        return {row["id"]: (float(row["low"]), float(row["high"])) for row in csv.DictReader(file)}


def beyond(result: Result, bounds: dict[str, tuple[float, float]]) -> str | None:
    if result.run.id not in bounds:
        return None
    low, high = bounds[result.run.id]
    if result.error is None:
        return f"{result.run.id}: not forecast: {result.reason}"
    return (
        None
        if low <= result.error <= high
        else f"{result.run.id}: {result.error:+.1%} is outside {low:+.1%} to {high:+.1%}"
    )


def validated(results: list[Result]) -> str:
    """Rows of standard/validated.csv: chip, source, kind of layers, number of runs, mean absolute and mean error, the size of
    the largest on that chip, and the mean absolute error by the level of the other sources' runs of such layers."""
    results = [result for result in results if not is_other(result)]
    planned = [result for result in results if result.plan]
    blind = left_out(results, lambda r: f"{by_chip(r)} {r.plan.layers if r.plan else ''}")

    def key(result: Result) -> str:
        return f"{by_chip(result)}\t{result.run.source}\t{result.plan.layers if result.plan else ''}"

    groups = grouped(planned, key)
    lines = ["chip,source,layers,n,mean_abs,bias,most_chips,left_out"]
    most: dict[str, int] = {}
    for one in planned:
        if one.plan and one.error is not None:
            most[one.plan.chip] = max(most.get(one.plan.chip, 1), one.plan.num_chips)
    for name, (summary, _) in groups.items():
        if summary and summary.n >= LEAST_RUNS:
            chip, source, layers = name.split("\t")
            other = blind.get(f"{chip} {layers}: {source}")
            blind_mean = f"{other[1].mean_abs:.4f}" if other else ""
            lines.append(
                f"{chip},{source},{layers},{summary.n},{summary.mean_abs:.4f},{summary.bias:+.4f},{most[chip]},{blind_mean}"
            )
    return "\n".join(lines) + "\n"


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
        return Result(run, found, measured, fitted=fitted)
    except Unable as error:
        return Result(run, reason=str(error), fitted=fitted)
    except Exception as error:  # columns that nobody thought of: listed, and the other rows go on
        return Result(run, reason=f"its columns cannot be read: {type(error).__name__}: {error}"[:200], fitted=fitted)


def forecasts(planned: list[Result], recorder: Recorder, known: bool, until: float) -> list[Result]:
    """Cheap ones first and every source and chip in turn, so that what was stopped has much; in the given order."""
    found = list(planned)
    begun = time.monotonic()
    for number, index in enumerate(in_turn(planned)):
        found[index] = with_forecast(planned[index], recorder, known, until)
        if sys.stderr.isatty() or number % 20 == 0:
            done = f"{number + 1}/{len(planned)}, {time.monotonic() - begun:.0f} s"
            print(f"accuracy: {done}", file=sys.stderr, flush=True)
    return found


def in_turn(planned: list[Result]) -> list[int]:
    """Places in the list: the cheapest of each source and chip, then the second of each, and so on."""
    turns: dict[tuple[str, str], int] = {}
    keys = []
    for index in sorted(range(len(planned)), key=lambda index: effort(planned[index].plan)):
        group = planned[index].run.source, by_chip(planned[index])
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


def by_chip(result: Result) -> str:
    return result.plan.chip if result.plan else result.run["chip"]


def described(result: Result) -> str:
    if result.plan is None:
        return f"{result.run.id}: {result.reason}"
    return f"{result.run.id}: {command(result.plan)}"


def command(found: Plan) -> str:
    """What forecasts this run without folding."""
    where_ = f"@{found.cluster}" if found.cluster else ""
    return f"anychip forecast --on {found.chip}:{found.num_chips}{where_} -m {found.program} {shlex.join(found.argv)}"


def as_json(results: list[Result], served: Sequence[serving.Result] = ()) -> dict[str, Any]:
    """served: of runs that generate text; their times stand by quantity, and in no group of training runs."""
    groups = []
    for name, (summary, total) in grouped(results, lambda r: f"{by_chip(r)}\t{r.run.source}").items():
        chip, source = name.split("\t")
        figures = (
            vars(summary) if summary else {"n": 0, "mean_abs": None, "median_abs": None, "worst": None, "bias": None}
        )
        groups.append({"chip": chip, "source": source, **figures, "n": total, "covered": summary.n if summary else 0})
    rows = [
        *(line for result in results for line in lines(result)),
        *(line for one in served for line in serving.lines(one)),
    ]
    return {"schema": 1, "rows": rows, "groups": groups}


def lines(result: Result) -> list[dict[str, Any]]:
    """One entry per quantity of a run: step time, and memory where the source has it."""
    found = result.plan
    shared = {"id": result.run.id, "ids": list(result.run.ids), "chip": by_chip(result), "source": result.run.source,
              "program": found.program if found else None, "instead": found.instead if found else "",
              "filled": list(found.filled) if found else [],
              "fitted": result.fitted, "command": command(found) if found else None, "reason": result.reason}  # fmt: skip
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


def write_page(path: Path, results: list[Result], args: argparse.Namespace) -> None:
    plotted = [(r.measured_s, r.forecast_s, by_chip(r), f"{r.run.id} {r.error:+.1%}")
               for r in results if r.error is not None and r.measured_s and r.forecast_s]  # fmt: skip
    if plotted:
        write(path.with_suffix(".svg"), scatter(plotted, "Step time of published runs"))
    write(path, page(results, path.with_suffix(".svg").name if plotted else None))


if __name__ == "__main__":
    sys.exit(main())
