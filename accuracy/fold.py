"""Long runs from short recordings: a step's time and memory are linear in layers and in micro-batches once its pipeline is
full, so four small recordings give them for any number of either.

In: options of the reference transformer. Out: weighted points, whose weights add up to 1.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple


class Point(NamedTuple):
    """Options to record, and the weight of what comes out."""

    weight: float
    options: Mapping[str, Any]


def points(options: Mapping[str, Any]) -> list[Point]:
    """What to record for these options: themselves, where they are short already."""
    pp, vp = options.get("pp", 1), options.get("vp", 1)
    parts, layers, micro = pp * vp, options["layers"], options["micro_batches"]
    fewer = short_layers(options, parts)
    shorter = ((pp, 2 * pp) if pp > 1 else (1, 2)) if micro > 2 * pp else None
    found = []
    for (left, a), (right, b) in product(line(layers, fewer), line(micro, shorter)):
        found.append(Point(left * right, {**options, "layers": a, "micro_batches": b}))
    return found


def short_layers(options: Mapping[str, Any], parts: int) -> tuple[int, int] | None:
    """Two small numbers of layers that spread over the parts as all of them do; None: record all."""
    layers = options["layers"]
    if options.get("recompute_layers") or options.get("dense_layers"):
        return None
    missing = 2 if (layers + 2) % parts == 0 and layers % parts else 0
    if (layers + missing) % parts:
        return None
    each = (layers + missing) // parts
    low = (1, 2) if options.get("vp", 1) > 1 else (2, 3) if parts > 1 else (4, 6)
    if options["recompute"] == "half":
        low = (4, 6)
    return (low[0] * parts - missing, low[1] * parts - missing) if each > low[1] else None


def line(whole: int, two: tuple[int, int] | None) -> list[tuple[float, int]]:
    """(weight, number) of the points that give `whole` by a straight line."""
    if two is None:
        return [(1.0, whole)]
    low, high = two
    return [((high - whole) / (high - low), low), ((whole - low) / (high - low), high)]
