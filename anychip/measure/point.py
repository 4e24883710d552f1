"""One thing to be measured, and what came out of it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

Call = Callable[[], Any]

SIZE = re.compile(r"^s?\d[\dx]*$")  # the words of a shape that tell points of one family apart

# unit -> how much of SI one is
UNITS = {"TFLOP/s": 1e12, "GB/s": 1e9, "us": 1e-6, "ratio": 1.0, "elements": 1.0}


@dataclass(frozen=True)
class Point:
    """A row of a rates file to be. make: sets up and returns the call to be timed. amount: flop or bytes of one call, so that
    the value is a rate; 0 where the value is the time itself. floor: name of an earlier time that is taken off. calls: how
    many things one call does, where it does several. family: points of one family grow; its rate tells how long the
    next one takes.
    """

    op: str
    dtype: str
    shape: str
    unit: str
    make: Callable[[], Call]
    amount: float = 0.0
    floor: str = ""
    calls: int = 1
    note: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.op, self.dtype, self.shape

    @property
    def family(self) -> tuple[str, str, str]:
        return self.op, self.dtype, " ".join(word for word in self.shape.split() if not SIZE.match(word))


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, sample by sample."""

    samples_s: tuple[float, ...]

    @property
    def median_s(self) -> float:
        return median(self.samples_s)

    @property
    def best_s(self) -> float:
        return min(self.samples_s)

    @property
    def spread(self) -> float:
        """Half of the middle range over the median: how far half of the samples lie apart."""
        ordered, quarter = sorted(self.samples_s), len(self.samples_s) // 4
        return (ordered[-1 - quarter] - ordered[quarter]) / 2 / self.median_s if self.median_s else 0.0


LEAST_SHARE = 0.1  # of a call's time that is left when the floor is taken off


def value_of(point: Point, timing: Timing, floor_s: float) -> float:
    """The row's value in SI: a rate, or the time of one of its calls."""
    whole = timing.median_s / point.calls
    seconds = max(whole - floor_s, LEAST_SHARE * whole)
    return point.amount / seconds if point.amount else seconds
