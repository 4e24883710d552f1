"""docs/accuracy-serving.md and standard/validated-calls.csv, written from results."""

import csv
import io
from collections.abc import Callable, Sequence

from accuracy.page import figures
from accuracy.score import LEAST_RUNS, Summary, ids_by_reason
from accuracy.serving.result import QUANTITIES, WHOLE, Result
from anychip.spec.validated import DENSE

WORDS = {
    "prompt": "the prompt (time to first token)",
    "token": "a token (time per output token)",
    "whole": "all of it (tokens/s)",
}


def summaries(results: Sequence[Result], key: Callable[[Result], str]) -> list[str]:
    lines = ["| | of | n | mean abs | median abs | worst | bias |", "|---|---|---|---|---|---|---|"]
    names = sorted({key(result) for result in results if result.forecast})
    for name in (*names, "all"):
        members = [result for result in results if name in (key(result), "all")]
        for quantity in QUANTITIES:
            errors = [error for one in members if (error := one.error(quantity)) is not None]
            if errors:
                lines.append(f"| {name} | {WORDS[quantity]} | {len(errors)} | {figures(Summary.of(errors))} |")
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
