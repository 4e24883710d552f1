"""Errors by chip and source, for forecasts' error bars: standard/validated.csv and standard/validated-calls.csv, written from results.

Columns: chip, source, kind of layers, number of runs, mean absolute and mean error, the size of the largest on that chip, and the mean
absolute error by the level of the other sources' runs of such layers.
"""

import csv
import io
from collections.abc import Iterable, Sequence

from accuracy.score import LEAST_RUNS, Result, Summary, grouped, left_out
from accuracy.serving import result as serving
from accuracy.why import is_other
from anychip.spec.validated import DENSE

COLUMNS = "chip", "source", "layers", "n", "mean_abs", "bias", "most_chips", "left_out"
Row = tuple[str, str, str, Summary, int, Summary | None]  # a file's, with its errors summed up


def trained(results: Iterable[Result]) -> str:
    """Of published runs that train; of a program other than the one forecast, nothing."""
    results = [result for result in results if not is_other(result)]
    planned = [result for result in results if result.plan]
    blind = left_out(results, lambda r: f"{r.chip} {r.plan.layers if r.plan else ''}")
    most: dict[str, int] = {}
    for one in planned:
        if one.plan and one.error is not None:
            most[one.plan.chip] = max(most.get(one.plan.chip, 1), one.plan.num_chips)

    def key(result: Result) -> str:
        return f"{result.chip}\t{result.run.source}\t{result.plan.layers if result.plan else ''}"

    rows: list[Row] = []
    for name, (summary, _) in grouped(planned, key).items():
        if summary:
            chip, source, layers = name.split("\t")
            other = blind.get(f"{chip} {layers}: {source}")
            rows.append((chip, source, layers, summary, most[chip], other[1] if other else None))
    return written(rows)


def called(results: Sequence[serving.Result]) -> str:
    """Of published runs that generate text: of the time of all of a run, or of a token where it prints that alone."""
    rows: list[Row] = []
    for chip, source in sorted({(result.chip, result.source) for result in results if result.forecast}):
        members = [result for result in results if (result.chip, result.source) == (chip, source) and result.plan]
        errors = [
            e
            for one in members
            if (e := one.error(serving.WHOLE if serving.WHOLE in one.measured else "token")) is not None
        ]
        if errors:
            most = max(one.plan.replica_chips for one in members if one.plan)
            rows.append((chip, source, DENSE, Summary.of(errors), most, None))
    return written(rows)


def written(rows: Iterable[Row]) -> str:
    """Sources with a few runs on a chip; of fewer nothing follows."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for chip, source, layers, s, most, other in rows:
        if s.n >= LEAST_RUNS:
            blind = f"{other.mean_abs:.4f}" if other else ""
            writer.writerow([chip, source, layers, s.n, f"{s.mean_abs:.4f}", f"{s.bias:+.4f}", most, blind])
    return out.getvalue()
