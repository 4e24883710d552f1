"""The rate of a fused attention: by implementation, direction, mask, head size and length.

In: a chip's rates. Out: flop/s. Rows of measured curves are interpolated over length; outside of them, and where a
combination was not measured, R = R_inf * s / (s + s0) and the ratios between measured curves stand in. A chip with a
level but no curve takes its shape from the chip that its file names, scaled to its own level.
"""

from functools import cache
from math import log
from typing import NamedTuple

from anychip.cost.rates import ATTENTION, NOTHING, Level, Rates, borrowed_rows


class Curve(NamedTuple):
    """flop/s over length in tokens: measured points, and the fit through them."""

    points: tuple[tuple[int, float], ...]
    limit: float
    half_length: float

    def at(self, length: int) -> float:
        """Interpolated between points (linear in log of length), by the fit outside of them, continued from the end
        point so that there is no step."""
        first, last = self.points[0], self.points[-1]
        if length <= first[0]:
            return first[1] * self._fit(length) / self._fit(first[0])
        if length >= last[0]:
            return last[1] * self._fit(length) / self._fit(last[0])
        for (a, low), (b, high) in zip(self.points, self.points[1:], strict=False):
            if length <= b:
                return low + (high - low) * log(length / a) / log(b / a)
        raise AssertionError("points are sorted by length")

    def _fit(self, length: int) -> float:
        return self.limit * length / (length + self.half_length)


def fit(points: tuple[tuple[int, float], ...]) -> Curve:
    """Least squares of 1/R = 1/R_inf + (s0 / R_inf) / s, weighted so that relative errors count."""
    weights = [rate**2 for _, rate in points]
    xs, ys = [1 / length for length, _ in points], [1 / rate for _, rate in points]
    total = sum(weights)
    mean_x = sum(w * x for w, x in zip(weights, xs, strict=True)) / total
    mean_y = sum(w * y for w, y in zip(weights, ys, strict=True)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, x in zip(weights, xs, strict=True))
    slope = (
        sum(w * (x - mean_x) * (y - mean_y) for w, x, y in zip(weights, xs, ys, strict=True)) / spread if spread else 0
    )
    slope = max(slope, 0.0)
    offset = max(mean_y - slope * mean_x, 1e-30)
    return Curve(points, 1 / offset, slope / offset)


Key = tuple[str, bool, int, bool]  # implementation, backward, head dim, causal


@cache
def curves(rates: Rates, wide: bool = False) -> dict[Key, Curve]:
    """All measured 16-bit curves of a rates file, or its fp32 ones (wide)."""
    found: dict[Key, list[tuple[int, float]]] = {}
    for backward, op in ((False, "attention.forward"), (True, "attention.backward")):
        for row in rates.all(op):
            match = ATTENTION.match(row.shape)
            if match and match[4] and row.dtype != "fp8" and (row.dtype == "fp32") == wide:
                key = (match[1], backward, int(match[2] or 128), match[3] == "causal")
                found.setdefault(key, []).append((int(match[4]), row.value))
    return {key: fit(tuple(sorted(points))) for key, points in found.items()}


def rate(rates: Rates, peak: float, implementation: str, backward: bool, causal: bool, head_dim: int, length: int,
         dtype: str = "") -> Level:  # fmt: skip
    """flop/s in a long run, at most the chip's 16-bit peak. On a point of this chip's own curve it is measured; between points, also with one ratio
    of two measured curves (what a mask or a direction does) in between, interpolated; else modelled."""
    own = (curves(rates, wide=True) if dtype == "fp32" else {}) or curves(rates)
    direction = "attention.backward.rate" if backward else "attention.forward.rate"
    sustained = rates.need("attention.sustained").value * other_kernel(rates, own, implementation, backward)
    if own:
        value, ratios = combined(own, implementation, backward, causal, head_dim, length)
        exact = dtype if dtype == "fp32" and curves(rates, wide=True) else ""
        return Level(min(value * sustained, peak), _evidence(own, ratios, length), exact)
    level_row = rates.need(direction)
    level = level_row.value * peak if level_row.is_share else level_row.value
    shape = curves(borrowed_rows(rates, "attention"))
    if not shape:
        half = rates.need("attention.half_length").value
        return Level(level * sustained * narrow(rates, head_dim) * length / (length + half), "modelled")
    reference = shape[("flash", False, 128, True)].limit
    value, _ = combined(shape, implementation, backward, causal, head_dim, length)
    if backward:
        # The level row of the backward is its own; take only the shape over the same asymptote.
        reference *= _ratio(shape, (implementation, True), (implementation, False))
    return Level(min(level * sustained * value / reference, peak), "modelled")


def rests_on(rates: Rates, backward: bool) -> str:
    """What that rate comes from, in words."""
    if curves(rates):
        return "its own curve"
    level = rates.first("attention.backward.rate" if backward else "attention.forward.rate")
    if level is None or level.kind == "assumed":
        return NOTHING
    lender = rates.borrowed("attention")
    return "a rate from measurements" + (f" along {lender}'s curve" if lender else "")


def other_kernel(rates: Rates, own: dict[Key, Curve], implementation: str, backward: bool) -> float:
    """Of FlashAttention's rate what torch's memory-efficient kernels reach, where no curve of theirs was measured."""
    if implementation != "efficient" or any(key[0] == implementation for key in own):
        return 1.0
    return float(rates.need("attention.efficient.backward" if backward else "attention.efficient").value)


def narrow(rates: Rates, head_dim: int) -> float:
    """Of its rate at 128 what a kernel reaches with narrower heads, for which it takes as many exponentials of fewer products."""
    return float(rates.need("attention.narrow").value ** max(log(128 / head_dim, 2), 0.0))


def _evidence(own: dict[Key, Curve], ratios: int, length: int) -> str:
    lengths = [size for curve in own.values() for size, _ in curve.points]
    if ratios == 0 and length in lengths:
        return "measured"
    return "interpolated" if ratios <= 1 and min(lengths) <= length <= max(lengths) else "modelled"


def combined(known: dict[Key, Curve], implementation: str, backward: bool, causal: bool, head_dim: int,
             length: int) -> tuple[float, int]:  # fmt: skip
    """(A curve, or the nearest one times the ratios by which measured curves differ in what is missing; how many such
    steps away it is.)"""
    named = {key for key in known if key[0] == implementation} or {key for key in known if key[0] == "flash"}
    implementation = next(iter(named))[0]
    dims = sorted({key[2] for key in named}, key=lambda d: abs(log(d / head_dim)))
    exact = (implementation, backward, head_dim, causal)
    if exact in known:
        return known[exact].at(length), 0
    dim = dims[0]
    away = int(dim != head_dim)
    if (implementation, backward, dim, causal) in known:
        return known[implementation, backward, dim, causal].at(length), away
    value = known.get((implementation, False, dim, causal))
    if value is not None:
        return value.at(length) * _ratio(known, (implementation, True), (implementation, False)), away + 1
    # Another mask at this head size, times what the mask does at 128.
    other = known.get((implementation, False, dim, not causal)) or known[implementation, False, 128, causal]
    masks = [known.get((implementation, False, 128, mask)) for mask in (causal, not causal)]
    by_mask = masks[0].at(length) / masks[1].at(length) if masks[0] and masks[1] else 1.0
    by_direction = _ratio(known, (implementation, True), (implementation, False)) if backward else 1.0
    return other.at(length) * by_mask * by_direction, away + 1 + backward


def _ratio(known: dict[Key, Curve], over: tuple[str, bool], under: tuple[str, bool]) -> float:
    """Asymptote of one direction over the other where both were measured at one head size and mask."""
    ratios = [known[(*over, d, c)].limit / known[(*under, d, c)].limit
              for (i, b, d, c) in known if (i, b) == over and (*under, d, c) in known]  # fmt: skip
    return sum(ratios) / len(ratios) if ratios else 0.87
