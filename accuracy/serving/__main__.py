"""`python -m accuracy.serving --rows FILE.csv [--where 'chip=...'] --page OUT.md`: published runs that generate text against forecasts.

Columns: id, source_url, source_location, chip, chips, framework, model, params_b, dtype, tp, batch, concurrency, input_len, output_len,
metric (ttft_ms, tpot_ms, output_tokens_per_s), value, notes. Each run's two phases are recorded and priced: reading the prompt, and one token
more with half of the others written. What cannot be forecast is listed with the reason.
"""

import argparse
import csv
import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accuracy.__main__ import fit_ids
from accuracy.plan import Unable
from accuracy.recorder import Recorder, cache_folder
from accuracy.rows import BadRows, Run, read, where
from accuracy.runner import priced, write
from accuracy.score import Summary, ids_by_reason
from accuracy.serving.plan import PHASES, Plan, plan
from anychip.spec import load_chip
from anychip.spec.chip import UnknownFigure
from anychip.spec.validated import DENSE

WHOLE = "whole"
QUANTITIES = (*PHASES, WHOLE)
WORDS = {
    "prompt": "the prompt (time to first token)",
    "token": "a token (time per output token)",
    "whole": "all of it (tokens/s)",
}
LEAST_RUNS = 3  # of a source on a chip, for its error to count


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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m accuracy.serving", description=__doc__)
    parser.add_argument("--rows", action="append", required=True, metavar="FILE.csv")
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="as of python -m accuracy")
    parser.add_argument("--json", metavar="OUT")
    parser.add_argument("--page", metavar="OUT.md")
    parser.add_argument("--validated", metavar="OUT.csv", help="errors by chip and source, for forecasts' error bars")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args(argv)
    try:
        runs = once(where(read(args.rows), args.where))
        if not runs:
            raise BadRows(f"no run of {', '.join(args.rows)} meets {' and '.join(args.where) or 'any condition'}")
    except (BadRows, OSError) as error:
        print(f"accuracy.serving: {error}", file=sys.stderr)
        return 2
    with Recorder(cache_folder(), args.jobs) as recorder:
        results = []
        for number, run in enumerate(runs, 1):
            results.append(result_of(run, recorder))
            print(f"\raccuracy.serving: {number}/{len(runs)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if args.json:
        write(Path(args.json), json.dumps([as_json(result) for result in results], indent=1) + "\n")
    if args.page:
        write(Path(args.page), page(results))
    if args.validated:
        write(Path(args.validated), validated(results))
    print("\n".join([*summaries(results, lambda r: r.chip), *missing(results)]))
    return 0 if any(result.forecast for result in results) else 1


def once(runs: Sequence[Run]) -> list[Run]:
    """Runs that agree in all columns and values are one that was printed several times."""
    seen: dict[str, Run] = {}
    for run in runs:
        columns = {name: value for name, value in run.columns.items() if name not in ("source_location", "notes")}
        seen.setdefault(json.dumps([columns, dict(run.metrics)], sort_keys=True), run)
    return list(seen.values())


def result_of(run: Run, recorder: Recorder) -> Result:
    try:
        found = plan(run)
        measured = dict(found.measured())
        if not measured:
            raise Unable(f"nothing to compare in {', '.join(run.metrics) or 'what it prints'}")
        chip = load_chip(found.chip)
        times = [priced(recorder.program(found.job(phase)), chip).time_s for phase in PHASES]
        return Result(run, found, measured, dict(found.seconds(*times)), fitted=bool(set(run.ids) & fit_ids()))
    except (Unable, UnknownFigure) as error:
        return Result(run, reason=str(error).split(" Add it to")[0])
    except RuntimeError as error:
        return Result(run, reason=f"the program failed: {str(error).strip().splitlines()[-1][:200]}")


def as_json(result: Result) -> dict[str, object]:
    return {
        "id": result.run.id, "chip": result.chip, "source": result.source, "reason": result.reason,
        "command": command(result.plan) if result.plan else None, "measured_s": result.measured, "forecast_s": result.forecast,
        "errors": {name: error for name in QUANTITIES if (error := result.error(name)) is not None},
    }  # fmt: skip


def command(found: Plan) -> str:
    """What forecasts the next token."""
    job = found.job("token")
    return f"anychip forecast --calls 4 --on {found.chip}:{found.replica_chips} -m {job.module} {' '.join(job.argv)}"


def summaries(results: Sequence[Result], key: Callable[[Result], str]) -> list[str]:
    lines = ["| | of | n | mean abs | median abs | worst | bias |", "|---|---|---|---|---|---|---|"]
    names = sorted({key(result) for result in results if result.forecast})
    for name in (*names, "all"):
        members = [result for result in results if name in (key(result), "all")]
        for quantity in QUANTITIES:
            errors = [error for one in members if (error := one.error(quantity)) is not None]
            if errors:
                s = Summary.of(errors)
                lines.append(
                    f"| {name} | {WORDS[quantity]} | {s.n} | {s.mean_abs:.1%} | {s.median_abs:.1%} | {s.worst:+.1%} | {s.bias:+.1%} |"
                )
    return lines


def missing(results: Sequence[Result]) -> list[str]:
    reasons = ids_by_reason((result.reason, result.run.id) for result in results if result.reason)
    ordered = sorted(reasons.items(), key=lambda item: -len(item[1]))
    return ["| not forecast | runs | ids |", "|---|---|---|"] + [
        f"| {why} | {len(ids)} | {', '.join(ids)} |" for why, ids in ordered
    ]


def page(results: Sequence[Result]) -> str:
    done = sum(bool(result.forecast) for result in results)
    lines = [
        "# Accuracy: published runs that generate text",
        "",
        "Written by `make accuracy-serving`; do not edit. Two calls of the reference transformer are recorded for each run and priced: one that",
        "reads the prompts, and one that writes a token of each sequence with half of the others before it. Error: forecast / measured - 1, in time.",
        "One of these runs gave the latency of a hop between Inferentia2 and Trainium1 (`accuracy/fit.toml`), nothing else was fitted to them;",
        "that heads which share keys are rows of one block, and that a cache is read by buckets on Neuron, was put right while they were looked at.",
        f"{len(results)} runs, {done} forecast; the others are listed with the reason.",
        "", "## By chip", "", *summaries(results, lambda r: r.chip),
        "", "## By source and chip", "", *summaries(results, lambda r: f"{r.source}, {r.chip}"),
        "", "## Every run", "",
        "| run | chip | n | model | dtype | batch | prompt + new | filled | measured s: prompt, token, whole | forecast s | errors |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for result in results:
        if (found := result.plan) is not None:
            texts = (
                ", ".join(f"{values[name]:.3g}" if name in values else "-" for name in QUANTITIES)
                for values in (result.measured, result.forecast)
            )
            errors = (
                "fitted"
                if result.fitted
                else ", ".join("-" if (e := result.error(name)) is None else f"{e:+.0%}" for name in QUANTITIES)
            )
            run = result.run
            lines.append(f"| {run.id} | {found.chip} | {run['chips']} | {run['model']} | {run['dtype']} | {found.batch} | {found.prompt} + {found.new} | "
                         f"{', '.join(found.filled)} | {' | '.join(texts)} | {errors} |")  # fmt: skip
    return "\n".join([*lines, "", "## Not forecast", "", *missing(results), ""])


def validated(results: Sequence[Result]) -> str:
    """Rows of standard/validated-calls.csv, as those of validated.csv: of the time of all of a run, or of a token where it prints that alone."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["chip", "source", "layers", "n", "mean_abs", "bias", "most_chips", "left_out"])
    for chip, source in sorted({(result.chip, result.source) for result in results if result.forecast}):
        members = [result for result in results if (result.chip, result.source) == (chip, source) and result.plan]
        errors = [
            e for one in members if (e := one.error(WHOLE) if WHOLE in one.measured else one.error("token")) is not None
        ]
        if len(errors) >= LEAST_RUNS:
            s = Summary.of(errors)
            most = max(one.plan.replica_chips for one in members if one.plan)
            writer.writerow([chip, source, DENSE, s.n, f"{s.mean_abs:.4f}", f"{s.bias:+.4f}", most, ""])
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
