"""Which measurements of the chips that a variant extends hold for it, too: those whose figures it leaves as they are.

In: a chip and those that it extends. Out: an `Inherited` of each of these that was measured. A kind of which a variant has rates of its own
is its own; one of which several have some is the nearest one's.
"""

import csv
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anychip.spec import catalogue
from anychip.spec.validated import num_sources

if TYPE_CHECKING:
    from anychip.spec.chip import Chip

PRODUCTS = "products"
COLLECTIVES = "collectives"


class Kind(NamedTuple):
    """ops: first words of rows of rates. figures: what those times depend on, beside what all do."""

    ops: tuple[str, ...]
    figures: tuple[str, ...]


ENGINE = ("peaks.matrix", "peaks.vector", "engine", "power")
KINDS = {
    PRODUCTS: Kind(("gemm", "conv", "vector", "same_die"), ENGINE),
    "attention": Kind(("attention", "borrow", "same_die"), ENGINE),
    "memory": Kind(("aten", "memory", "page"), ("memory.main.bandwidth", "engine")),
    "kernels' launches": Kind(("kernel",), ()),
    "the host": Kind(("host",), ()),
    "the link to the host": Kind(("host_link",), ("links.host",)),
    COLLECTIVES: Kind(("collective",), ("links.scale_up", "links.scale_out", "engine", "cluster")),
}
ALWAYS = ("execution", "platform", "generation")
WORDS = (*ALWAYS, "cluster")  # fields of a chip file that are no figures, and that times depend on
NAMED = 3  # figures in which it differs, before the others are counted


class Inherited(NamedTuple):
    """chip: the one that was measured, file: its file. holds, fails: the kinds of measurements that it has and neither the variant nor a
    nearer one has, by whether they are the variant's, too. runs: whether its published runs are; None where it has none. differs: the
    figures that keep what fails from it."""

    chip: str
    file: Path
    holds: tuple[str, ...]
    fails: tuple[str, ...]
    runs: bool | None
    differs: tuple[str, ...]

    def has(self, op: str) -> bool:
        """Whether rows of this op hold."""
        word = op.partition(".")[0]
        return any(word in KINDS[kind].ops for kind in self.holds)

    def __str__(self) -> str:
        holds, fails = list(self.holds), list(self.fails)
        if self.runs is not None:
            (holds if self.runs else fails).append("whole runs")
        said = f"as measured on {self.chip}, which it extends: {', '.join(holds) or 'nothing'}"
        shown = ", ".join(self.differs[:NAMED])
        more = f" and {len(self.differs) - NAMED} more" if len(self.differs) > NAMED else ""
        why = f"it differs in {shown}{more}" if self.differs else "it has other rates"
        return f"{said}; not {', '.join(fails)}: {why}" if fails else said


def inherited(own: "Chip", bases: Iterable["Chip"]) -> tuple[Inherited, ...]:
    """bases: those that it extends, the nearest first. A chip of which whole runs were compared inherits nothing, and hands on nothing but
    its own."""
    if own.id in num_sources():
        return ()
    found: list[Inherited] = []
    nearer = list(kinds_of(own))
    for base in bases:
        kinds = [kind for kind in kinds_of(base) if kind not in nearer]
        if kinds or base.id in num_sources():
            found.append(_of(own, base, kinds, nearer))
        if base.id in num_sources():
            break
        nearer += kinds
    return tuple(found)


def _of(own: "Chip", base: "Chip", kinds: list[str], nearer: Collection[str]) -> Inherited:
    """What one base has. nearer: kinds of measurements that come before its own; whole runs were priced with all of them."""
    differs = tuple(_differing(own, base))
    holds = tuple(kind for kind in kinds if not _about(differs, (*ALWAYS, *KINDS[kind].figures)))
    fails = tuple(kind for kind in kinds if kind not in holds)
    runs = not (differs or nearer) if base.id in num_sources() else None
    return Inherited(base.id, base.file, holds, fails, runs, differs)


def _differing(own: "Chip", base: "Chip") -> Iterator[str]:
    """Of all that measured times depend on."""
    yield from (word for word in WORDS if own.raw.get(word) != base.raw.get(word))
    depends = [path for kind in KINDS.values() for path in kind.figures]
    for path in dict.fromkeys((*own.figures, *base.figures)):
        if _about((path,), depends) and _value(own, path) != _value(base, path):
            yield path


def _value(chip: "Chip", path: str) -> object:
    figure = chip.figures.get(path)
    return figure and (figure.value, figure.shape)


def _about(paths: Sequence[str], figures: Sequence[str]) -> bool:
    """Whether any of the paths is one of the figures or within a table of them."""
    return any(path == figure or path.startswith(f"{figure}.") for path in paths for figure in figures)


def kinds_of(chip: "Chip") -> tuple[str, ...]:
    """Kinds of measurements that there are of a chip."""
    file = rates_file(chip.id, chip.file)
    words = _words(file, file.stat().st_mtime_ns) if file else frozenset()
    collectives = collectives_file(chip.id, chip.file) is not None
    return tuple(kind for kind, one in KINDS.items() if words & {*one.ops} or (kind == COLLECTIVES and collectives))


@cache
def _words(file: Path, stamp: int) -> frozenset[str]:
    """First words of its ops, which are its first column. What is wrong with a file is told where its values are read."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return frozenset(line.split(",")[0].split(".")[0].strip() for line in lines)


def rates_file(chip_id: str, chip_file: Path | None = None) -> Path | None:
    """A chip's rates: from beside a chip file (``rates/`` next to ``chips/``, or a CSV of the same name), from ``rates/`` of a
    folder on $ANYCHIP_PATH or of an installed package, or the tree's own."""
    if chip_file is not None and chip_file.name:
        own = [chip_file.parent.parent / "rates" / f"{chip_id}.csv", chip_file.with_suffix(".csv")]
        # A file of the tree does not come before what the user has put on the path.
        for place in own:
            if place.parent != catalogue.STANDARD / "rates" and place.is_file():
                return place
    tree, *others = catalogue.folders("rates")
    return next((place for folder in (*others, tree) if (place := folder / f"{chip_id}.csv").is_file()), None)


# Rows that say how fast products are; those of the same die were measured there.
MULTIPLIES = ("gemm", "gemm.warm", "gemm.rate")


def has_products(chip_id: str, chip_file: Path | None = None) -> bool:
    """Whether products were measured among a chip's own rates: of others its times rest on its specification as before."""
    file = rates_file(chip_id, chip_file)
    return file is not None and _multiplies(file, file.stat().st_mtime_ns)


@cache
def _multiplies(file: Path, stamp: int) -> bool:
    with file.open(encoding="utf-8", errors="replace", newline="") as lines:
        rows = ((row.get("op"), row.get("kind")) for row in csv.DictReader(lines))
        return any(op == "same_die" or (op in MULTIPLIES and kind != "assumed") for op, kind in rows)


def collectives_file(chip_id: str, chip_file: Path | None = None) -> Path | None:
    """A chip's measured collectives: from `collectives/` of the tree, of a folder on $ANYCHIP_PATH or of an installed package, or beside
    the `chips/` that its file is in."""
    beside = chip_file.parent.parent / "collectives" / f"{chip_id}.csv" if chip_file and chip_file.name else None
    return catalogue.find("collectives", chip_id, ".csv") or (beside if beside and beside.is_file() else None)
