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

Row = dict[str, str]
Table = list[Row]
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
SOURCES = 2  # of runs that speak for a chip by themselves: what one source has in common others need not have
LEAST = 3  # runs of all chips, of which an error is told


class Like(NamedTuple):
    """What a run is, by which it errs like others: kind of layers, and in words, as `validated.csv` has them, whether all weights are
    trained, in what most products are computed, whether torch.compile made its kernels, whether each chip holds only a part
    of the parameters, and whether it is of one chip. Empty: not told."""

    layers: str = DENSE
    weights: str = ""
    products: str = ""
    code: str = ""
    parameters: str = ""
    chips: str = ""
    calls: str = ""  # of a model, without training: what each reads

    @staticmethod
    def reading(prompt: bool | None) -> str:
        return "" if prompt is None else "of prompts alone" if prompt else "of tokens alone"

    @classmethod
    def of(cls, layers: str, frozen: bool, dtype: str, compiled: bool, sharded: bool, num_chips: int) -> "Like":
        width = {"bf16": "16 bit", "fp16": "16 bit"}.get(dtype, dtype)
        return cls(
            layers,
            f"{'with' if frozen else 'without'} frozen weights",
            f"in {width}",
            "compiled" if compiled else "not compiled",
            "" if num_chips == 1 else f"with {'sharded' if sharded else 'whole'} parameters",
            f"on {'one chip' if num_chips == 1 else 'several chips'}",
        )


TRAITS = Like._fields[1:]
DENSE_ALONE = Like()


class Compared(NamedTuple):
    """sigma: of a step's time. runs: published ones that it comes from. layers: of those runs. times: what their error was
    taken times, as the program's layers are others. all_chips: they ran on any chip, as too little ran on this one. bias: mean error, with
    its sign, of those that ran on this one, and most_chips the size of the largest. does: what they do, as a forecast's `step_kind`.
    trait: in what they are like the program beside their layers. own: runs with such layers on this chip, and lacks in what none of
    them is like it."""

    sigma: float
    runs: int
    layers: str
    times: float = 1.0
    all_chips: bool = False
    bias: float = 0.0
    most_chips: int = 1
    does: str = TRAINS
    trait: str = ""
    own: int = 0
    lacks: tuple[str, ...] = ()

    @property
    def longer(self) -> float | None:
        """How many times as long as forecast this chip's runs took; None where they lie on both sides of their forecasts."""
        return 1 / (1 + self.bias) if abs(self.bias) >= ONE_WAY else None


@cache
def end_to_end(chip_id: str, like: Like = DENSE_ALONE, does: str = TRAINS) -> Compared | None:
    """How far off whole runs like this one were, each source forecast without what was fitted to it, by the rows of the file. None
    where no whole run of the chip was compared, or none of anything like it. Calls on a chip of which training was compared have the
    error of all chips' calls."""
    does = does if does in FILES else TRAINS  # of a program without steps nobody compared anything
    found = reading(rows(FILES[does]), like.calls)
    is_known = has_trained(chip_id) or any(row["chip"] == chip_id for row in found)
    return compared(found, chip_id, like, does) if is_known and like.layers != OTHER else None


def reading(table: Table, calls: str) -> Table:
    """Of each source on a chip the runs whose calls read the same, where it has some, else those of all that it does."""
    apart = {(row["chip"], row["source"]) for row in table if calls and row.get("calls") == calls}
    return [
        row for row in table if (row.get("calls") or "") == (calls if (row["chip"], row["source"]) in apart else "")
    ]


def has_trained(chip_id: str) -> bool:
    """Whether whole runs of the chip that train were compared: then its grade is by these."""
    return any(row["chip"] == chip_id for row in rows(FILES[TRAINS]))


def compared(table: Table, chip_id: str, like: Like, does: str = TRAINS) -> Compared | None:
    """The largest of these errors: of the chip's runs with such layers (where it has none, of its others, times what such layers are worse),
    and of runs that also share a trait with this one, for each of its traits and for none. Those are the chip's own where it has enough,
    of more than one source; else all chips', but for those that lie to one side, where this chip's own do not.
    So a bar is no narrower than what any part of the program is known to miss by."""
    of_chip = [row for row in table if row["chip"] == chip_id]
    leaning = one_sided(table)
    passed_over = leaning if of_chip and chip_id not in leaning else frozenset()
    such = [row for row in table if row["layers"] == like.layers and row["chip"] not in passed_over]
    alike = [row for row in of_chip if row["layers"] == like.layers]
    times = 1.0 if alike else worse(like.layers, table if does == TRAINS else rows(FILES[TRAINS]))
    found = [_of(alike or of_chip, times, does)] if of_chip else []
    if not (such or of_chip):
        found.append(_of(table, times, does)._replace(all_chips=True))
    for trait in ("", *TRAITS):
        word = getattr(like, trait) if trait else ""
        shared = [row for row in such if not trait or (word and row.get(trait) == word)]
        here = [row for row in shared if row["chip"] == chip_id]
        enough = count(here) >= FEW and len({row["source"] for row in here}) >= SOURCES
        if enough or count(shared) >= LEAST:
            one = _of(here if enough else shared, 1.0, does)
            found.append(one._replace(trait=word, all_chips=not enough))
    if not found:
        return None
    return max(found, key=lambda one: one.sigma)._replace(
        bias=by_runs(alike or of_chip, _bias) if of_chip else 0.0,
        most_chips=max((int(row.get("most_chips") or 1) for row in of_chip), default=1),
        own=count(alike),
        lacks=tuple(word for trait in TRAITS if (word := getattr(like, trait)) and _is_new(alike, trait, word)),
    )


def one_sided(table: Table) -> frozenset[str]:
    """Chips whose runs took longer, or less long, than forecast by more than ONE_WAY on average."""
    chips = {row["chip"]: [one for one in table if one["chip"] == row["chip"]] for row in table}
    return frozenset(chip for chip, found in chips.items() if abs(by_runs(found, _bias)) >= ONE_WAY)


def _bias(row: Row) -> str:
    return row.get("bias") or "0"


def _is_new(found: Table, trait: str, word: str) -> bool:
    """No run has it; of runs that do not tell nothing is said."""
    told = {row.get(trait) for row in found} - {"", None}
    return bool(told) and word not in told


def _of(found: Table, times: float, does: str) -> Compared:
    return Compared(SIGMA * mean(found) * times, count(found), kinds_of(found), times, does=does)


def kinds_of(found: Table) -> str:
    return "/".join(sorted({row["layers"] for row in found}))


def worse(layers: str, table: Table) -> float:
    """By what the error of such layers is larger than that of others, on chips that have runs of both; at least 1. table: of runs that
    train."""
    both = {row["chip"] for row in table if row["layers"] == layers}
    both &= {row["chip"] for row in table if row["layers"] != layers}
    found = [row for row in table if row["chip"] in both]
    if not found:
        return 1.0
    such, others = ([row for row in found if (row["layers"] == layers) is same] for same in (True, False))
    return max(mean(such) / mean(others), 1.0)


def mean(found: Table) -> float:
    """Mean absolute error, weighted by runs."""
    return by_runs(found, lambda row: row["left_out"] or row["mean_abs"])


def by_runs(found: Table, figure: Callable[[Row], str]) -> float:
    return sum(int(row["n"]) * float(figure(row)) for row in found) / count(found)


def count(found: Table) -> int:
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


def rows(name: str) -> Table:
    """Of the first file of that name on the search path."""
    return next(tables(name), [])


def tables(name: str) -> Iterator[Table]:
    """The rows of each file of that name on the search path, the standard's own first."""
    for folder in catalogue.folders(""):
        path = folder / name
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                yield list(csv.DictReader(file))
