"""Published kernel measurements against forecasts that have not seen them: writes docs/accuracy.md.

Truth: every measured product and attention in `standard/rates/`, and the rows of `kernels.csv` beside this file. Each row is forecast several times, each time with more of the rates held back:

  point     without the row itself: the chip's other products, from its own and other sources
  curve     (attention) without the whole curve that the row is part of
  source    without any rate of any chip that comes from the row's source, fits on it included
  unseen    nothing to hold back: no rate in use comes from the row's source
  fitted    a rate was fitted on the row

An error is forecast / measured - 1 of the time. Run: `python accuracy/first_truth.py` (a few seconds, no torch).
"""

import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path
from statistics import fmean, median

from anychip.cost.machine import Machine, build
from anychip.cost.price import price_work
from anychip.cost.rates import (
    ATTENTION,
    DIRECTORY,
    SHAPE,
    UNITS,
    Rate,
    Rates,
    defaults,
    in_benchmark,
    load_file,
    rates_of,
)
from anychip.cost.work import Attention, Gemm, Work
from anychip.spec import Chip, load_chip

HERE = Path(__file__).parent
ROWS = HERE / "kernels.csv"
PAGE = HERE.parent / "docs" / "accuracy.md"
BYTES = {"fp8": 1, "int8": 1, "bf16": 2, "fp16": 2, "tf32": 4, "fp32": 4, "fp64": 8}
FITTED = "128000x8192x5120"  # the rows that the B200's `gemm.grouped` was taken from
TOKENS, WIDTH = 16384, 2048  # of one benchmark call in arXiv 2407.08608: batch x length, heads x head dim


@dataclass(frozen=True)
class Row:
    """One measurement. op: gemm, gemm.warm, attention, grouped, copy. rate: the row of a rates file that it is, if any.
    share: part of the chip that ran it."""

    chip: str
    op: str
    dtype: str
    shape: str
    time_s: float
    source: str
    rate: Rate | None = None
    share: float = 1.0


@dataclass(frozen=True)
class Result:
    row: Row
    held: str
    forecast_s: float

    @property
    def error(self) -> float:
        return self.forecast_s / self.row.time_s - 1


def rows() -> list[Row]:
    """All measurements, those of the rates files first."""
    found = []
    for path in sorted(DIRECTORY.glob("*.csv")):
        for rate in load_file(path):
            if rate.kind == "measured" and rate.op in ("gemm", "gemm.warm", "attention.forward", "attention.backward"):
                if rate.dtype == "fp8" and rate.op.startswith("attention"):
                    continue  # not priced apart: torch has no fp8 attention op
                task = task_of(rate.op, rate.dtype, rate.shape)
                found.append(Row(path.stem, rate.op, rate.dtype, rate.shape, task.flop / rate.value, rate.source, rate))
    for cells in csv.DictReader(ROWS.open()):
        value = float(cells["value"]) * {"us": 1e-6, **UNITS}[cells["unit"]]
        task = task_of(cells["op"], cells["dtype"], cells["shape"])
        time_s = value if cells["unit"] == "us" else (task.flop or task.bytes_moved) / value
        found.append(Row(cells["chip"], cells["op"], cells["dtype"], cells["shape"], time_s, cells["source"],
                         share=float(cells["share"] or 1)))  # fmt: skip
    return found


def task_of(op: str, dtype: str, shape: str) -> Work:
    """The work that a benchmark of this name and shape does."""
    if op == "copy":
        return Work(bytes_read=int(shape), bytes_written=int(shape), kind="copy", unit="vector")
    if op.startswith("gemm"):
        match = SHAPE.match(shape)
        assert match
        return product(dtype, Gemm(1, *(int(size) for size in match.groups()[:3])))
    if op == "grouped":
        sizes, groups = shape.split(" g")
        (m, n, k), g = (int(size) for size in sizes.split("x")), int(groups)
        parts = Gemm(g, ceil(m / g), n, k), Gemm(g, ceil(m / g), k, n), Gemm(g, n, k, ceil(m / g))
        return product(dtype, *parts)
    words = {part[0]: part[1:] for part in shape.split() if part[1:].isdigit()}
    length, dim = int(words["s"]), int(words["d"])
    heads = int(words["b"]) * int(words["h"]) if "b" in words else TOKENS // length * (WIDTH // dim)
    return attention(shape.split()[0], op == "attention.backward", "causal" in shape, dim, length, heads)


def product(dtype: str, *parts: Gemm) -> Work:
    size, flop = BYTES[dtype], sum(part.flop for part in parts)
    read = sum(b * (m * k + k * n) for b, m, n, k, _ in parts) * size
    written = sum(b * m * n for b, m, n, *_ in parts) * max(size, 2)
    kind, share = ("grouped", "gemm.grouped") if len(parts) > 1 else ("gemm", "")
    return Work(flop=flop, bytes_read=read, bytes_written=written, unit="matrix", dtype=dtype, kind=kind, gemm=parts,
                kernels=len(parts), product_share=share)  # fmt: skip


def attention(kind: str, backward: bool, causal: bool, dim: int, length: int, heads: int) -> Work:
    """Counted as its source does: 4 products' worth of flop forward, 10 / 4 of it backward, causal at half."""
    flop = int(4 * heads * length**2 * dim * (0.5 if causal else 1) * (2.5 if backward else 1))
    moved = heads * length * dim * 2
    return Work(flop=flop, bytes_read=3 * moved, bytes_written=moved, unit="matrix", dtype="fp16", kind="attention",
                attention=Attention(kind, backward, causal, dim, length, length, heads))  # fmt: skip


# Holding back -----------------------------------------------------------------------------------------------------------


def without(row: Row, held: str) -> Callable[[Rate], bool]:
    """Whether a rate may be used."""
    source = row.source.split("#")[0]
    if held == "source":
        return lambda rate: source not in rate.source and source not in rate.note
    if held == "curve":
        return lambda rate: not (rate.op == row.op and curve_of(rate) == curve_of(row.rate))
    if held == "point":
        return lambda rate: rate != row.rate
    return lambda rate: True


def curve_of(rate: Rate | None) -> str:
    """A shape without its length."""
    match = ATTENTION.match(rate.shape) if rate else None
    return " ".join(part or "" for part in match.groups()[:3]) if match else ""


def machine_for(row: Row, held: str) -> Machine:
    """The chip with the rates that may be used, at benchmark clocks unless the row is of a long run."""
    chip = load_chip(row.chip)
    if row.share != 1.0:
        chip = part_of(chip, row.share)
    allowed = without(row, held)
    rates = rates_of(row.chip)
    kept = Rates(tuple(rate for rate in rates.rows if allowed(rate) and rate.op != "gemm.warm.sustained"), defaults())
    return build(chip, kept if row.op == "gemm.warm" else at_benchmark_clocks(kept))


def at_benchmark_clocks(rates: Rates) -> Rates:
    """The same without derates; products measured in a long run are brought to a benchmark's clocks first."""
    rows = [in_benchmark(rate, rates) for rate in rates.rows if not rate.op.endswith(".sustained")]
    rows += [Rate(f"{what}.sustained", "", "", 1.0, "ratio", "derived", "", "", "a benchmark", "")
             for what in ("gemm", "attention")]  # fmt: skip
    return Rates(tuple(rows), rates.default)


@cache
def part_of(chip: Chip, share: float) -> Chip:
    """One core of a chip of several."""
    figures = {path: chip.get(path) for path in ("peaks.matrix.bf16", "memory.main.bandwidth")}
    return chip.with_figures({path: value * share for path, value in figures.items() if value})


def forecasts(row: Row) -> Iterator[Result]:
    if row.rate is None:
        # `gemm.grouped` comes from the fitted rows of its page, not from the others.
        rates = [rate for rate in rates_of(row.chip).rows if rate.op != "gemm.grouped"]
        used = any(not without(row, "source")(rate) for rate in rates)
        levels = ["fitted" if row.shape.startswith(FITTED) else "source" if used else "unseen"]
    else:
        levels = ["point", *(["curve"] if row.op.startswith("attention") else []), "source"]
    task = task_of(row.op, row.dtype, row.shape)
    for held in levels:
        yield Result(row, held, price_work(task, machine_for(row, held)).time_s)


def results() -> list[Result]:
    return [result for row in rows() for result in forecasts(row)]


# The page ---------------------------------------------------------------------------------------------------------------

Group = tuple[str, str, str]  # chip, op, what was held back


def groups(found: list[Result]) -> dict[Group, list[Result]]:
    by_group: dict[Group, list[Result]] = {}
    for result in found:
        op = f"{result.row.op} {result.row.dtype}".strip()
        by_group.setdefault((result.row.chip, op, result.held), []).append(result)
    return by_group


def table(found: list[Result]) -> list[str]:
    lines = [
        "| chip | what | held back | n | mean abs | median abs | bias | worst |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (chip, op, held), members in groups(found).items():
        errors = [result.error for result in members]
        size = [abs(error) for error in errors]
        lines.append(f"| {chip} | {op} | {held} | {len(members)} | {fmean(size):.1%} | {median(size):.1%} | "
                     f"{fmean(errors):+.1%} | {max(errors, key=abs):+.1%} |")  # fmt: skip
    return lines


def each(found: list[Result]) -> list[str]:
    lines = ["| chip | what | shape | held back | measured us | forecast us | error |", "|---|---|---|---|---|---|---|"]
    for result in found:
        row = result.row
        lines.append(f"| {row.chip} | {row.op} {row.dtype} | {row.shape} | {result.held} | {row.time_s * 1e6:,.1f} | "
                     f"{result.forecast_s * 1e6:,.1f} | {result.error:+.1%} |")  # fmt: skip
    return lines


def page(found: list[Result]) -> str:
    sources = sorted({row.row.source for row in found})
    lines = [
        "# Accuracy: kernels",
        "",
        "Written by `python accuracy/first_truth.py`; do not edit. Published measurements of single kernels against",
        "forecasts that have not seen them. Error: forecast / measured - 1 of the time.",
        "",
        "Held back: *point*, the row itself; *curve*, the whole attention curve that it belongs to; *source*, every rate",
        "from the row's source, and fits on it; *unseen*, rows that no rate was ever taken from (of the grouped products' page",
        "other rows were: those marked *fitted*). What remains is the chip's data sheet, its rates from other sources, and `rates/default.csv`, which belongs to no chip. Fitted on these",
        "very products, once for all chips: the shape of the product curve there (`gemm.k0`, `gemm.wave`, `gemm.overhead`, the",
        "tile shares in `cost/gemm.py`); on the four rows marked so: `gemm.grouped`. Fitted on published runs, and in use here",
        "only for rows measured in long runs (`gemm.warm`): each chip's `gemm.sustained`. A best shape of a scan, held back, is",
        "forecast too slow: nothing says that it is the best.",
        "",
        *table(found),
        "",
        "## Compiled against eager",
        "",
        "The one published pair: nanoGPT's README, GPT-2 124M on an A100, 250 ms to 135 ms a step with `torch.compile` (ratio",
        "0.54; batch and torch release not printed; its attention was not fused then). Forecast, recorded by hand from",
        "nanoGPT with `--gradient_accumulation_steps=1`, nothing fitted: 0.63 with unfused attention, 0.86 with fused.",
        "",
        "## Every row",
        "",
        *each(found),
        "",
        "## Sources",
        "",
        *(f"- {source}" for source in sources),
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    found = results()
    PAGE.write_text(page(found))
    print("\n".join(table(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
