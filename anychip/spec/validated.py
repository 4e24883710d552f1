"""How far forecasts were off where they could be compared: `standard/errors.csv` by what a time rests on, and
`standard/validated.csv` by chip and kind of layers, from published runs that train, with their source left out and
`standard/validated-calls.csv` from those that generate text (`python -m accuracy --validated`).

Relative errors, one sigma in the first file, mean absolute in the second.
"""

import csv
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import chain
from typing import NamedTuple

from anychip.spec import catalogue

SIGMA = 1.2533  # of a normal distribution: one sigma over its mean absolute deviation, sqrt(pi / 2)


@cache
def errors() -> Mapping[tuple[str, str], float]:
    """(part, name) -> error, one sigma. Parts: evidence, host, level, grade."""
    return {(row["part"], row["name"]): float(row["error"]) for row in rows("errors.csv")}


# Kinds of layers, which err apart: products of a library and attention; tokens sent to some of many experts; products inside of
# kernels of their own, as state-space models have.
DENSE, EXPERTS, OWN_PRODUCTS = "dense", "experts", "own kernels"
OTHER = "other"  # convolutions, recurrent layers, transforms: whole runs of none were compared


# What a step does: with and without gradients programs spend their time on other things. Of which file the errors are.
TRAINS, CALLS = "train", "call"
FILES = {TRAINS: "validated.csv", CALLS: "validated-calls.csv"}

ONE_WAY = 0.15  # a chip's runs whose mean error is more do not lie on both sides of their forecasts
FEW = 10  # runs: of fewer, one that happens to be met moves the error by more than a tenth of it


class Compared(NamedTuple):
    """sigma: of a step's time. runs: published ones that it comes from. layers: of those runs. times: what their error was
    taken times, as the program's layers are others. all_chips: they ran on any chip, as too little ran on this one. bias: mean error, with
    its sign, of those that ran on this one, and most_chips the size of the largest. does: what they do, as a forecast's `step_kind`."""

    sigma: float
    runs: int
    layers: str
    times: float = 1.0
    all_chips: bool = False
    bias: float = 0.0
    most_chips: int = 1
    does: str = TRAINS

    @property
    def longer(self) -> float | None:
        """How many times as long as forecast this chip's runs took; None where they lie on both sides of their forecasts."""
        return 1 / (1 + self.bias) if abs(self.bias) >= ONE_WAY else None


@cache
def end_to_end(chip_id: str, layers: str = DENSE, does: str = TRAINS) -> Compared | None:
    """How far off whole runs on this chip were, each source forecast without what was fitted to it. Where none had such layers:
    those of the chip's other runs, times what such layers are worse where both were compared. A chip of which few such runs were
    compared is no surer than all chips are with such layers; calls on one of which training was compared have the error of all. None where no whole
    run was compared, or none of anything like it."""
    does = does if does in FILES else TRAINS  # of a program without steps nobody compared anything
    table = rows(FILES[does])
    of_chip = [row for row in table if row["chip"] == chip_id]
    trained = any(row["chip"] == chip_id for row in rows(FILES[TRAINS]))
    if layers == OTHER or not (of_chip or trained):
        return None
    alike = [row for row in of_chip if row["layers"] == layers]
    own = _of(of_chip, alike, layers, does) if of_chip else None
    anywhere = [row for row in table if row["layers"] == layers] or ([] if of_chip else table)
    if not anywhere or (own and count(alike) >= FEW):
        return own
    times = 1.0 if any(row["layers"] == layers for row in anywhere) else worse(layers)
    pooled = Compared(
        SIGMA * mean(anywhere) * times, count(anywhere), kinds_of(anywhere), times, all_chips=True, does=does
    )
    if own is None:
        return pooled
    return max(own, pooled._replace(bias=own.bias, most_chips=own.most_chips), key=lambda one: one.sigma)


def _of(of_chip: list[dict[str, str]], alike: list[dict[str, str]], layers: str, does: str) -> Compared:
    """By a chip's own runs, those with such layers where there are any."""
    times = 1.0 if alike else worse(layers)
    found = alike or of_chip
    bias = by_runs(found, lambda row: row.get("bias") or "0")
    most = max(int(row.get("most_chips") or 1) for row in of_chip)
    return Compared(
        SIGMA * mean(found) * times, count(found), kinds_of(found), times, bias=bias, most_chips=most, does=does
    )


def kinds_of(found: list[dict[str, str]]) -> str:
    return "/".join(sorted({row["layers"] for row in found}))


def worse(layers: str) -> float:
    """By what the error of such layers is larger than that of others, on chips that have runs of both; at least 1."""
    table = rows(FILES[TRAINS])
    both = {row["chip"] for row in table if row["layers"] == layers}
    both &= {row["chip"] for row in table if row["layers"] != layers}
    found = [row for row in table if row["chip"] in both]
    if not found:
        return 1.0
    such, others = ([row for row in found if (row["layers"] == layers) is same] for same in (True, False))
    return max(mean(such) / mean(others), 1.0)


def mean(found: list[dict[str, str]]) -> float:
    """Mean absolute error, weighted by runs."""
    return by_runs(found, lambda row: row["left_out"] or row["mean_abs"])


def by_runs(found: list[dict[str, str]], figure: Callable[[dict[str, str]], str]) -> float:
    return sum(int(row["n"]) * float(figure(row)) for row in found) / count(found)


def count(found: list[dict[str, str]]) -> int:
    return sum(int(row["n"]) for row in found)


@cache
def num_sources() -> Mapping[str, int]:
    """Chip -> number of sources of the runs of it that train; where there are none, of those that generate text. Of every file
    on the search path, so that who adds a chip adds what it was compared with."""
    found: dict[str, int] = {}
    for does in (CALLS, TRAINS):
        sources: dict[str, set[str]] = {}
        for row in chain.from_iterable(tables(FILES[does])):
            sources.setdefault(row["chip"], set()).add(row["source"])
        found |= {chip: len(names) for chip, names in sources.items()}
    return found


def rows(name: str) -> list[dict[str, str]]:
    """Of the first file of that name on the search path."""
    return next(tables(name), [])


def tables(name: str) -> Iterator[list[dict[str, str]]]:
    """The rows of each file of that name on the search path, the standard's own first."""
    for folder in catalogue.folders(""):
        path = folder / name
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                yield list(csv.DictReader(file))
