"""docs/accuracy-serving.md, written from results."""

from collections.abc import Callable, Sequence

from accuracy.page import figures, missing
from accuracy.score import Summary
from accuracy.serving.result import QUANTITIES, Result

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
    return "\n".join([*lines, "", "## Not forecast", "", *missing((r.reason, r.run.id) for r in results), ""])
