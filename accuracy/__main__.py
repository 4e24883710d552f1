"""`python -m accuracy --rows FILE.csv [--where 'chip=...'] --page OUT.md`: published runs against forecasts, of training and (`serving`) of
generating text.

Prints a line for each run, unless it is written to a file, and the errors of each chip. Recordings are kept by content, so a run that was stopped goes on where it was. What cannot be forecast is listed with the
reason. Exit code 0; 1 where nothing could be compared, or an error is outside its `--bounds`; 2 for wrong use; 130 after Ctrl-C, with what was
forecast until then written.
"""

import argparse
import csv
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accuracy import validated
from accuracy.page import missing, page
from accuracy.plot import scatter
from accuracy.recorder import Recorder, cache_folder
from accuracy.rows import BadRows, read, where
from accuracy.runner import told
from accuracy.said import repeated, said
from accuracy.score import Result, grouped, ids_by_reason
from accuracy.serving import page as serving_page
from accuracy.serving import result as serving
from accuracy.table import table
from accuracy.training import NOT_REACHED, described, forecasts, lines, planned_result
from anychip.errors import INTERRUPTED, BadUse
from anychip.whole import check_writable, put


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
    parser.add_argument("--page", metavar="OUT.md", help="write the table here, of training runs its plot beside it")
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
        for path in (args.json, args.page, args.validated):
            check_writable(path)
        runs = [run for run in runs if not bounds or run.id in bounds]
        generating = serving.once([run for run in runs if serving.is_served(run)])
        training = [run for run in runs if not serving.is_served(run)]
        if args.validated and generating and training:
            raise BadRows("--validated: runs that train and runs that generate text are for files of their own")
    except (BadRows, BadUse, OSError) as error:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        print(f"accuracy: {text}", file=sys.stderr)
        return 2
    planned = [planned_result(run) for run in training]
    if args.list:
        print("\n".join([*(described(result) for result in planned), *map(serving.described, generating)]))
        return 0
    until = time.monotonic() + 60 * args.minutes
    with Recorder(cache_folder(), args.jobs) as recorder:
        results = forecasts(planned, recorder, args.known, until)
        served = []
        is_interrupted = any(result.reason == NOT_REACHED for result in results)
        try:
            for run in told([] if is_interrupted else generating):
                served.append(serving.result_of(run, recorder, args.known or time.monotonic() > until))
        except KeyboardInterrupt:
            is_interrupted = True
    if args.json:
        put(args.json, json.dumps(as_json(results, served), indent=1) + "\n")
    if args.page:
        write_page(Path(args.page), results, served)
    if not (args.json or args.page or args.validated):
        print("\n".join(table(entries(results, served), NOTHING)) + "\n")
        remarks = [*repeated(runs), *(f"{result.run.id}: {text}" for result in results for text in said(result))]
        print("\n".join(remarks), end="\n\n" if remarks else "")
    for name, (summary, total) in grouped(results, lambda r: r.chip).items():
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
        print("\n".join(serving_page.summaries(served, lambda r: r.chip)))
        print("\n".join(missing((r.reason, r.run.id) for r in served)))
    if args.validated:
        rows = validated.called(served) if served else validated.trained(results)
        put(args.validated, validated.written(rows))
    outside = [text for result in results if (text := beyond(result, bounds))]
    print("\n".join(outside), end="\n" if outside else "")
    if is_interrupted:
        print("accuracy: interrupted; the same command goes on where it was", file=sys.stderr)
        return INTERRUPTED
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
        try:
            return {row["id"]: (float(row["low"]), float(row["high"])) for row in csv.DictReader(file)}
        except (KeyError, TypeError, ValueError, csv.Error):
            raise BadRows(f"--bounds {path}: not a file of id, low and high, in each row") from None


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


def as_json(results: list[Result], served: Sequence[serving.Result] = ()) -> dict[str, Any]:
    """served: of runs that generate text; their times stand by quantity, and in no group of training runs."""
    groups = []
    for name, (summary, total) in grouped(results, lambda r: f"{r.chip}\t{r.run.source}").items():
        chip, source = name.split("\t")
        figures = (
            vars(summary) if summary else {"n": 0, "mean_abs": None, "median_abs": None, "worst": None, "bias": None}
        )
        groups.append({"chip": chip, "source": source, **figures, "n": total, "covered": summary.n if summary else 0})
    return {"schema": 1, "rows": entries(results, served), "groups": groups}


def entries(results: Sequence[Result], served: Sequence[serving.Result]) -> list[dict[str, Any]]:
    """One for each quantity of each run."""
    return [
        *(line for result in results for line in lines(result)),
        *(line for one in served for line in serving.lines(one)),
    ]


def write_page(path: Path, results: list[Result], served: Sequence[serving.Result]) -> None:
    """The table of runs that train and that of runs that generate text, as far as there are any."""
    plotted = [(r.measured_s, r.forecast_s, r.chip, f"{r.run.id} {r.error:+.1%}")
               for r in results if r.error is not None and r.measured_s and r.forecast_s]  # fmt: skip
    if plotted:
        put(path.with_suffix(".svg"), scatter(plotted, "Step time of published runs"))
    pages = [page(results, path.with_suffix(".svg").name if plotted else None)] if results or not served else []
    put(path, "\n".join([*pages, serving_page.page(served)] if served else pages))


if __name__ == "__main__":
    sys.exit(main())
