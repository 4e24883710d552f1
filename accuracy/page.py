"""docs/accuracy-runs.md: published runs against forecasts, written from results. No figure on it is typed by hand."""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from accuracy.score import GIB, Result, Summary, grouped, held, ids_by_reason, layouts, left_out, low_ratios, noise
from accuracy.validated import held_by
from accuracy.why import memory_is_other, why

HELD = ("What tensors take at most; of sources that print what the allocator has reserved, that; of those that read the device, that and "
        "the driver's own (rules say which). Read off a recording as deep as the run.")  # fmt: skip
FEW_FILLED = 1  # the first line of the table: runs of which a rule filled at most so many columns


def page(results: Sequence[Result], plot: str | None) -> str:
    done = [result for result in results if result.error is not None]
    parts = [
        [
            "# Accuracy: published runs",
            "",
            "Written by `make accuracy`; do not edit. Each run's own program, or the reference transformer of `accuracy/reference`",
            "with the run's shape, layout and precision, is recorded without a chip and forecast; the source's step time stands",
            "beside it. Error: forecast / measured - 1. Rules that fill blank columns: `accuracy/defaults`; runs that constants",
            "were fitted to (`accuracy/fit.toml`) are in no figure. What the reference transformer does was corrected while some",
            "of these runs were looked at, so these are development figures: rows that nobody here has seen are the test.",
            "",
            f"{len(results)} published runs, {len(done)} forecast with a step time to compare; the others are listed with the reason.",
            *([f"![forecast against measured step time]({plot})"] if plot else []),
            "",
        ],
        section("By chip", summaries(results, lambda r: r.chip)),
        section("By chip, runs with at most one filled column", summaries([r for r in results if few(r)], lambda r: r.chip)),
        section("By kind of model", summaries([r for r in results if r.plan], kind)),
        section("By source", summaries(results, lambda r: r.run.source)),
        section("By source and chip", summaries(results, lambda r: f"{r.run.source}, {r.chip}")),
        section("By model", summaries(results, lambda r: r.run["model"])),
        section("By program", summaries([r for r in results if r.plan], lambda r: r.plan.program if r.plan else "")),
        section("Memory, by source", memory_by_source(results)),
        section("A source left out", crossed(results)),
        section("How often a bar holds", bars(results)),
        section("Layouts", ranked(results)),
        section("FP8 against 16 bit of the same run", ratios(results)),
        section("Noise of the sources", noises(results)),
        section("The ten worst", worst(results)),
        section("Every run", rows(results)),
        section("Not forecast", missing((r.reason, r.run.id) for r in results)),
    ]  # fmt: skip
    return "\n".join(line for part in parts for line in part)


def kind(result: Result) -> str:
    """Routed experts, adapters on frozen weights, or dense; and the chip's generation."""
    assert result.plan is not None
    options = result.plan.options
    name = "adapters" if options.get("lora_rank") else "experts" if options.get("experts") else "dense"
    return f"{name}, {result.chip}"


def few(result: Result) -> bool:
    return result.plan is not None and len(result.plan.filled) <= FEW_FILLED


def memory_by_source(results: Sequence[Result]) -> list[str]:
    printed = [r for r in results if "memory_gib" in r.run.metrics]
    found = summaries([r for r in printed if not memory_is_other(r)], lambda r: r.run.source, held)
    apart = [f"- {r.run.id}: {text}" for r in printed if r.plan and (text := memory_is_other(r))]
    apart = ["", "Not compared:", "", *apart] if apart else []
    return [HELD, "", *found, *apart] if found or apart else []


def section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}", "", *(lines or ["Nothing to compare yet."]), ""]


def figures(summary: Summary) -> str:
    return (f"{summary.mean_abs:.1%} | {summary.median_abs:.1%} | {summary.worst:+.1%} | {summary.bias:+.1%}")  # fmt: skip


def summaries(
    results: Sequence[Result], key: Callable[[Result], str], error: Callable[[Result], float | None] = lambda r: r.error
) -> list[str]:
    found = {name: pair for name, pair in grouped(results, key, error).items() if pair[0] is not None}
    if not found:
        return []
    lines = ["| | runs | forecast | mean abs | median abs | worst | bias |", "|---|---|---|---|---|---|---|"]
    for name, (summary, total) in found.items():
        assert summary is not None
        lines.append(f"| {name} | {total} | {summary.n} | {figures(summary)} |")
    every = [value for result in results if (value := error(result)) is not None]
    lines.append(f"| all | {len(results)} | {len(every)} | {figures(Summary.of(every))} |")
    return lines


def crossed(results: Sequence[Result]) -> list[str]:
    found = left_out(results, lambda r: r.chip)
    if not found:
        return []
    lines = [
        "One level per chip, fitted to at most six runs of each other source, then used on the source that was left out.",
        "",
        "| chip: source left out | n | as it is: mean | median | worst | refitted without it: mean | median | worst |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (plain, fitted) in found.items():
        lines.append(f"| {name} | {plain.n} | {plain.mean_abs:.1%} | {plain.median_abs:.1%} | {plain.worst:+.1%} | "
                     f"{fitted.mean_abs:.1%} | {fitted.median_abs:.1%} | {fitted.worst:+.1%} |")  # fmt: skip
    return lines


def bars(results: Sequence[Result]) -> list[str]:
    """By trait, of the runs whose chip has another source: the share within one and two sigma of the bar that it gives them."""
    found = held_by(results)
    if not found:
        return []
    names = dict.fromkeys(word for traits in sorted({one for one, *_ in found}) for word in traits if word)
    groups = {"all": [off for *_, off in found]}
    groups |= {name: [off for traits, _, off in found if name in traits] for name in names}
    return [
        "Each run against the bar that a forecast of it would have were its source not known on that chip, where another source is;",
        "what a step spends waiting and jobs larger than any compared widen bars further, which is not counted here. Of a normal",
        "distribution 68% are within one sigma, 95% within two.",
        "",
        "| runs | n | within one sigma | within two |",
        "|---|---|---|---|",
        *(f"| {name} | {len(offs)} | {fmean(off <= 1 for off in offs):.0%} | {fmean(off <= 2 for off in offs):.0%} |"
          for name, offs in groups.items()),
    ]  # fmt: skip


def ranked(results: Sequence[Result]) -> list[str]:
    found = layouts(results)
    if not found:
        return []
    lines = ["Chip-seconds for the same work, ranked: Spearman's correlation.", "",
             "| layouts of | n | correlation | best one found |", "|---|---|---|---|"]  # fmt: skip
    return lines + [
        f"| {name} | {n} | {'-' if value is None else f'{value:.2f}'} | {'yes' if best else 'no'} |"
        for name, (n, value, best) in found.items()
    ]


def ratios(results: Sequence[Result]) -> list[str]:
    pairs = low_ratios(results)
    if not pairs:
        return []
    summary = Summary.of([error for _, _, error in pairs])
    lines = [f"{summary.n} pairs: mean {summary.mean_abs:.1%}, median {summary.median_abs:.1%}, worst {summary.worst:+.1%}.", "",
             "| FP8 | 16 bit | error of the ratio |", "|---|---|---|"]  # fmt: skip
    return lines + [f"| {low.run.id} | {wide.run.id} | {error:+.1%} |" for low, wide, error in pairs]


def noises(results: Sequence[Result]) -> list[str]:
    found = noise(results)
    if not found:
        return []
    lines = ["Runs of one source that agree in every column, and how far they lie from their own median: no forecast from the", "columns can do better.", "", "| source | runs | mean distance |", "|---|---|---|"]  # fmt: skip
    return lines + [f"| {source} | {n} | {value:.1%} |" for source, (n, value) in found.items()]


def worst(results: Sequence[Result], most: int = 10) -> list[str]:
    done = sorted((r for r in results if r.error is not None), key=lambda r: -abs(r.error or 0.0))[:most]
    if not done:
        return []
    lines = ["| run | error | what the forecast does not know |", "|---|---|---|"]
    return lines + [f"| {r.run.id} | {r.error:+.1%} | {why(r)} |" for r in done]


def rows(results: Sequence[Result]) -> list[str]:
    lines = [
        "`python -m accuracy --rows FILE --where id=ID` runs one again; `--list` prints its whole command.",
        "",
        "| run | chip | n | model | dtype | layout | filled | program | measured s | forecast s | error | memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        if result.plan is None or (result.forecast_s is None and result.peak_bytes is None):
            continue
        o = result.plan.options
        layout = " ".join(f"{name}{o[name]}" for name in ("tp", "pp", "vp", "cp", "ep") if o.get(name, 1) > 1) or "-"
        memory = (
            f"{result.peak_bytes / GIB:.1f} GiB {result.memory_error:+.1%}"
            if result.memory_error is not None and result.peak_bytes
            else ""
        )
        error = "fitted" if result.fitted else f"{result.error:+.1%}" if result.error is not None else ""
        measured = f"{result.measured_s:.4g}" if result.measured_s else ""
        lines.append(f"| {result.run.id} | {result.plan.chip} | {result.plan.num_chips} | {result.run['model']} | {o['dtype']} | {layout}, {o['sharding']}, {o['recompute']} | "
                     f"{', '.join(result.plan.filled)} | {result.plan.program}{f' ({result.plan.instead})' if result.plan.instead else ''} | {measured} | {result.forecast_s:.4g} | {error} | {memory} |")  # fmt: skip
    return lines


def missing(reasons: Iterable[tuple[str | None, str]]) -> list[str]:
    """Of (reason, id of a run), those that have one: the ids of each reason, most of all first."""
    found = ids_by_reason((reason, name) for reason, name in reasons if reason is not None)
    lines = ["| reason | runs | ids |", "|---|---|---|"]
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    return lines + [f"| {reason.replace('|', '/')} | {len(ids)} | {', '.join(ids)} |" for reason, ids in ordered]
