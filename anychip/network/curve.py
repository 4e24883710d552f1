"""Time by size, as measured: from the seconds that bytes would need at the attained rate to the seconds they took.

Protocols (LL, LL128, simple), pipelines that fill, chunks and launches all bend this curve; none of them is modelled
apart. Written against seconds rather than bytes it holds for another rate, another number of ranks and another
collective of the same chip, and its shape, not its level, can be lent to a chip whose curve nobody measured.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log
from statistics import median

# What starting and ending a collective takes however few its steps: 6.6 us by NCCL's own model (src/graph/tuning.cc),
# FIRST_S for the smallest all-reduce of 8 H100 (NVIDIA/dgxc-benchmarking), steps included.
START_S = 8e-6
FIRST_S = 13e-6
GRID = tuple(10 ** (exponent / 4) for exponent in range(-32, 1))  # 10 ns to 1 s, four a decade


@dataclass(frozen=True)
class Curve:
    """moving_s: seconds at the attained rate, increasing; time_s: as measured, never decreasing, and equal to moving_s
    at the end. latency_s: of the steps of the group that was measured. chips: whose it is. own: of the very chip."""

    moving_s: tuple[float, ...]
    time_s: tuple[float, ...]
    latency_s: float
    chips: tuple[str, ...] = ()
    own: bool = True

    def at(self, moving_s: float, latency_s: float) -> float:
        """Seconds for what needs `moving_s` at the attained rate, with steps of `latency_s` in all.

        Never less than either. More steps than were measured add their latency; fewer leave out their share of what a
        message of no bytes took beyond START_S. Between points linear in the logarithms (alpha-beta lines miss by a quarter to half at
        their worst size); below the first its overhead, above the last its rate.
        """
        more = latency_s - self.latency_s
        if more < 0:
            more *= max(self.time_s[0] - self.moving_s[0] - START_S, 0.0) / self.latency_s
        return max(self._measured(moving_s) + more, moving_s, latency_s)

    def _measured(self, moving_s: float) -> float:
        xs, ts = self.moving_s, self.time_s
        if moving_s <= xs[0]:
            return ts[0] - xs[0] + moving_s
        if moving_s >= xs[-1]:
            return moving_s * ts[-1] / xs[-1]
        after = bisect_right(xs, moving_s)
        share = log(moving_s / xs[after - 1]) / log(xs[after] / xs[after - 1])
        return ts[after - 1] * exp(share * log(ts[after] / ts[after - 1]))

    def holds(self, moving_s: float) -> bool:
        """Between its first and its last point."""
        return self.moving_s[0] <= moving_s <= self.moving_s[-1]


def curve_of(wire_s: Sequence[float], time_s: Sequence[float], latency_s: float, chip: str) -> tuple["Curve", float]:
    """The curve through points and its level: the share of the wire rate that its largest message reaches.

    wire_s: seconds at the full wire rate, increasing. A smaller message can be padded to a larger one, so where it was
    measured slower (noise, warming up) the larger one's time stands.
    """
    level = wire_s[-1] / time_s[-1]
    times = list(time_s)
    for at in range(len(times) - 2, -1, -1):
        times[at] = min(times[at], times[at + 1])
    moving = [seconds / level for seconds in wire_s]
    return Curve(tuple(moving), tuple(max(t, x) for t, x in zip(times, moving, strict=True)), latency_s, (chip,)), level


def without_excess(curve: Curve) -> Curve:
    """A curve less what its first message took beyond starting and its steps.

    That belongs to one network: 56 us on EFA v4, 105 us on GPUDirect-TCPXO, nothing on InfiniBand (62 us for 16 nodes of
    H100, 19 us for a pair of A100; issues 1469 of NVIDIA/nccl, 150 of NVIDIA/nccl-tests).
    """
    excess = max(curve.time_s[0] - curve.moving_s[0] - FIRST_S - curve.latency_s, 0.0)
    times = [max(t - excess, x) for t, x in zip(curve.time_s, curve.moving_s, strict=True)]
    return replace(curve, time_s=tuple(times))


def pooled(curves: Sequence[Curve]) -> Curve:
    """The middle of several curves at every size: the shape that a chip without its own borrows."""
    times = [median(curve.at(x, curve.latency_s) for curve in curves) for x in GRID]
    donors = tuple(chip for curve in curves for chip in curve.chips)
    return Curve(GRID, tuple(times), median(curve.latency_s for curve in curves), donors, own=False)
