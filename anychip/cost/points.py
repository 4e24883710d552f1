"""Measured points of ops that memory limits, and of copies by size: what `anychip measure` writes and a curve between them.

In: rows of a rates file. Out: bytes per second by size. Left out: products and attention, whose curves have a model of
their own. An op that was not measured takes the points of one like it: of the same cost formula, or for functions that take
tens of instructions an element those of exp.
"""

from collections.abc import Iterable
from functools import cache
from math import log
from typing import NamedTuple

from anychip.cost import names
from anychip.cost.rates import Rate, Rates
from anychip.cost.work import formula_of, main_dtype, packet
from anychip.record import Op, TensorMeta


class SizeCurve(NamedTuple):
    """bytes -> bytes/s at measured sizes, ascending."""

    points: tuple[tuple[float, float], ...]

    def at(self, nbytes: float) -> float:
        """Interpolated linearly over the log of the size. Beyond the largest its rate; below the smallest its time."""
        first, last = self.points[0], self.points[-1]
        if nbytes <= first[0]:
            return first[1] * nbytes / first[0]
        if nbytes >= last[0]:
            return last[1]
        for (a, low), (b, high) in zip(self.points, self.points[1:], strict=False):
            if nbytes <= b:
                return low + (high - low) * log(nbytes / a) / log(b / a)
        raise AssertionError("points are sorted by size")


def size_curve(rows: Iterable[Rate], flag: str = "") -> SizeCurve | None:
    """The curve of rows whose shape is a number of bytes, `flag` after it; None without any."""
    found: dict[float, float] = {}
    for row in rows:
        size, _, word = row.shape.partition(" ")
        if size.isdecimal() and word == flag:
            found[float(size)] = row.value
    return SizeCurve(tuple(sorted(found.items()))) if found else None


class Measured(NamedTuple):
    """bytes_per_s at this size; evidence as in `cost.price`."""

    bytes_per_s: float
    evidence: str


class OpRates:
    """Rates of a chip's measured memory-bound ops, by packet, dtype and whether the source is read across its rows."""

    def __init__(self, rates: Rates) -> None:
        rows: dict[tuple[str, str, str], list[Rate]] = {}
        for row in rates.rows:
            if row.op.startswith("aten."):
                rows.setdefault((row.op, row.dtype, row.shape.partition(" ")[2]), []).append(row)
        self._curves = {key: size_curve(some, key[2]) for key, some in rows.items()}
        self._names = tuple(dict.fromkeys(name for name, _, _ in rows))

    def __bool__(self) -> bool:
        return bool(self._curves)

    def find(self, op: Op, nbytes: float) -> Measured | None:
        """The rate of an op that counts so many bytes; None where nothing like it was measured."""
        name = plain(packet(op.name))
        dtype, flag = main_dtype(op), "strided" if strided(op) else ""
        for candidate in (name, *self._like(name)):
            for type_ in dict.fromkeys((dtype, "fp32")):
                for mark in dict.fromkeys((flag, "")):
                    curve = self._curves.get((candidate, type_, mark))
                    if curve is not None:
                        exact = (candidate, type_, mark) == (name, dtype, flag)
                        return Measured(curve.at(nbytes), _evidence(curve, nbytes) if exact else "modelled")
        return None

    def _like(self, name: str) -> tuple[str, ...]:
        return _alike(name, self._names)


@cache
def _alike(name: str, measured: tuple[str, ...]) -> tuple[str, ...]:
    """Measured ops that stand in for another: exp for a function, else those of the same formula, in the file's order."""
    if name.removeprefix("aten.") in names.TRANSCENDENTAL:
        return ("aten.exp",)
    mine = formula_of(name)
    return tuple(other for other in measured if formula_of(other) is mine and not _is_function(other))


def _is_function(name: str) -> bool:
    return name.removeprefix("aten.") in names.TRANSCENDENTAL


def _evidence(curve: SizeCurve, nbytes: float) -> str:
    sizes = [size for size, _ in curve.points]
    if nbytes in sizes:
        return "measured"
    return "interpolated" if sizes[0] <= nbytes <= sizes[-1] else "modelled"


@cache
def plain(name: str) -> str:
    """The op that does the same once and out of place: ``aten._foreach_mul_`` -> ``aten.mul``."""
    space, _, base = name.partition(".")
    base = base.removeprefix("_foreach_")
    return f"{space}.{base.removesuffix('_') if not base.startswith('_') else base}"


COPIES = frozenset(("aten.clone", "aten.copy", "aten._to_copy", "aten.contiguous", "aten.cat"))


def strided(op: Op) -> bool:
    """A copy between tensors whose neighbouring elements lie along different dimensions: a transpose."""
    if plain(packet(op.name)) not in COPIES:
        return False
    tensors = [value for value in (*op.args[:2], *op.outputs) if isinstance(value, TensorMeta) and value.numel > 1]
    return len(tensors) >= 2 and fastest(tensors[0]).isdisjoint(fastest(tensors[-1]))


def fastest(tensor: TensorMeta) -> set[int]:
    """The dimensions along which the next element lies next to it; dimensions of one element do not count."""
    return {
        dim for dim, (size, step) in enumerate(zip(tensor.shape, tensor.stride, strict=True)) if size > 1 and step == 1
    }
