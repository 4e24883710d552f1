"""Errors by chip, source and what runs are like, for forecasts' error bars: standard/validated.csv and
standard/validated-calls.csv, written from results; and how often such a bar holds for runs of a source that it does not know.

Columns: chip, source, kind of layers, traits (`spec.validated.Like`), number of runs, mean absolute and mean error, the size of the
largest on that chip, and the mean absolute error by the level of the other sources' runs of such layers.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from math import hypot

from accuracy.score import LEAST_RUNS, Result, Summary, blind_errors
from accuracy.serving import PHASES
from accuracy.serving import result as serving
from accuracy.why import is_other
from anychip.spec import load_chip
from anychip.spec.validated import DENSE, SOURCES, TRAITS, Like, Row, Table, compared, errors

COLUMNS = "chip", "source", "layers", *TRAITS, "n", "mean_abs", "bias", "most_chips", "left_out"


def like(result: Result) -> Like:
    """As a forecast of the run tells it of the recording (`anychip.figures.compared_with`)."""
    assert result.plan is not None
    options = result.plan.options
    compiled = options.get("compile", "none") != "none" and load_chip(result.plan.chip).execution != "graph"
    return Like.of(
        result.plan.layers,
        bool(options.get("lora_rank")),
        options["dtype"],
        compiled,
        options["sharding"] == "fsdp",
        result.plan.num_chips,
    )


UNSAID = {"global_batch", "micro_batch"}  # of a rate: what ran is not known well enough to say how well it was forecast


def compared_runs(results: Iterable[Result]) -> list[Result]:
    """Those with an error; of a program other than the one forecast, and of a batch that nobody says, nothing."""
    return [
        result
        for result in results
        if result.plan and result.error is not None and not is_other(result) and not {*result.plan.filled} >= UNSAID
    ]


def trained(results: Iterable[Result]) -> Table:
    """Of published runs that train: a row for each chip, source and set of traits. Sources with a few runs of such layers on a chip; of
    fewer nothing follows."""
    results = compared_runs(results)
    blind = blind_errors(results, lambda r: f"{r.chip} {like(r).layers}")
    most: dict[str, int] = {}
    runs: dict[tuple[str, str, str], int] = {}
    groups: dict[tuple[str, str, Like], list[Result]] = {}
    for one in results:
        assert one.plan is not None
        traits = like(one)
        most[one.chip] = max(most.get(one.chip, 1), one.plan.num_chips)
        place = one.chip, one.run.source, traits.layers
        runs[place] = runs.get(place, 0) + 1
        groups.setdefault((one.chip, one.run.source, traits), []).append(one)
    return [
        row(chip, source, traits, [one.error for one in members if one.error is not None], most[chip],
            [blind[one.run.id] for one in members if one.run.id in blind])
        for (chip, source, traits), members in sorted(groups.items())
        if runs[chip, source, traits.layers] >= LEAST_RUNS
    ]  # fmt: skip


def row(chip: str, source: str, traits: Like, found: Sequence[float], most: int, blind: Sequence[float] = ()) -> Row:
    s = Summary.of(found)
    left_out = f"{Summary.of(blind).mean_abs:.4f}" if blind else ""
    figures = {"n": f"{s.n}", "mean_abs": f"{s.mean_abs:.4f}", "bias": f"{s.bias:+.4f}", "most_chips": f"{most}"}
    return {"chip": chip, "source": source, **traits._asdict(), **figures, "left_out": left_out}


def held_by(results: Iterable[Result]) -> list[tuple[Like, Result, float]]:
    """(traits, run, error over the bar that its chip had without the run's source), of chips that have another."""
    results = compared_runs(results)
    found = []
    for chip, source in sorted({(one.chip, one.run.source) for one in results}):
        table = trained(one for one in results if (one.chip, one.run.source) != (chip, source))
        left = {row["source"] for row in table if row["chip"] == chip}
        for one in results if left else ():
            bar = compared(table, chip, like(one))
            if (one.chip, one.run.source) == (chip, source) and bar and one.error is not None:
                single = errors()["grade", "B"] if len(left) < SOURCES else 0.0
                found.append((like(one), one, abs(one.error) / hypot(bar.sigma, single)))
    return found


def called(results: Sequence[serving.Result]) -> Table:
    """Of published runs that generate text: of all of a run, and where sources print it, of its prompt and of a token alone."""
    rows: Table = []
    for chip, source in sorted({(result.chip, result.source) for result in results if result.forecast}):
        members = [result for result in results if (result.chip, result.source) == (chip, source) and result.plan]
        most = max((one.plan.replica_chips for one in members if one.plan), default=1)
        for quantity in (serving.WHOLE, *PHASES):
            found = [error for one in members if (error := one.error(quantity)) is not None]
            if len(found) >= LEAST_RUNS:
                calls = "" if quantity == serving.WHOLE else Like.reading(quantity == "prompt")
                rows.append(row(chip, source, Like(DENSE, calls=calls), found, most))
    return rows


def written(rows: Table) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
