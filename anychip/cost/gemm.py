"""How long a matrix product takes: a curve over its shape, corrected by measured points nearby.

In: a chip's measured products, and what `machine` works out of its figures and rates. Out: seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, exp, log, log2

from anychip.cost.rates import NOTHING, SHAPE, Rates, warmth

# Macro tiles that matrix libraries choose from, as parts of the usual one, and the rate each reaches of it: a smaller tile
# reads its operands more often. Shares fitted together with `gemm.k0` and `gemm.overhead` of default.csv.
TILE_CHOICES = (((1, 1), 1.0), ((1, 2), 0.97), ((2, 1), 0.97), ((2, 2), 0.92), ((2, 4), 0.82), ((4, 4), 0.7))
SPLIT_K = 8  # a product of few tiles is cut along its inner dimension into at most so many parts ...
SPLIT_K_LEAST = 256  # ... of at least so many elements each
POINTS_OF_A_CURVE = 5  # so many measured products show how the rate falls with size

Points = tuple[tuple[tuple[int, int, int], float], ...]  # (m, n, k) -> flop/s


@dataclass(frozen=True)
class GemmCurve:
    """Time of a product: overhead + flop / (rate * fill**wave) * (1 + k0/k), times corrections by nearby points.

    rate: flop/s of a large product in a benchmark. sustained: share of it in a long run. peak: never exceeded.
    points: measured (m, n, k) -> flop/s; the last `twins` of them are of the other 16-bit type. how: which ones.
    """

    rate: float
    peak: float
    k0: float
    wave: float
    overhead_s: float
    sustained: float
    cores: int
    tile: tuple[int, int]
    padding: tuple[int, int]
    measured: bool
    points: Points = ()
    twins: int = 0
    how: str = ""

    @property
    def rests_on(self) -> str:
        """What its level comes from, in words."""
        if len(self.points) >= POINTS_OF_A_CURVE:
            return "its own curve"
        if self.points:
            return "one measured product" if len(self.points) == 1 else f"{len(self.points)} measured products"
        return "a measured rate" if self.measured else NOTHING

    def model_s(self, batch: int, m: int, n: int, k: int) -> float:
        """Seconds of compute by the curve alone, at benchmark clocks, without overhead."""
        rows, columns = self.padding
        if rows > 1:
            # A systolic array works on whole tiles: 129 rows cost as 256 do.
            m, n, k = ceil(m / rows) * rows, ceil(n / columns) * columns, ceil(k / rows) * rows
            fill = 1.0
        else:
            fill = self.fill(batch, m, n, k)
        flop = 2.0 * batch * m * n * k
        return max(flop / (self.rate * fill) * (1 + self.k0 / k), flop / self.peak)

    def fill(self, batch: int, m: int, n: int, k: int) -> float:
        """Share of the rate that the best tile choice reaches: waves of tiles over cores, edges of tiles, tile size. Where
        products were measured by how their operands lie, they were by size as well, and show it themselves. A vector is
        multiplied by kernels of its own, which have no tiles: they read the matrix once."""
        if self.how or m == 1 or n == 1:
            return 1.0
        best = 0.0
        for (down, across), share in TILE_CHOICES:
            rows, columns = max(self.tile[0] // down, 16), max(self.tile[1] // across, 8)
            tiles = batch * ceil(m / rows) * ceil(n / columns)
            edge = m * n / (ceil(m / rows) * rows * ceil(n / columns) * columns)
            if tiles < self.cores:
                tiles *= max(1, min(SPLIT_K, k // SPLIT_K_LEAST, self.cores // tiles))
            used = tiles / (self.cores * ceil(tiles / self.cores))
            best = max(best, share * used**self.wave * edge)
        return best

    def time_s(self, batch: int, m: int, n: int, k: int) -> tuple[float, str]:
        """(seconds of compute in a long run, evidence: on a point, near one or between many, or the curve alone)."""
        modelled = self.model_s(batch, m, n, k)
        factor, nearest = self.correction(batch, m, n, k)
        if nearest == 0:
            evidence = "measured"
        else:
            evidence = "interpolated" if nearest <= 1 or self.between(batch, m, n, k) else "modelled"
        seconds = max(modelled * factor / self.sustained, 2.0 * batch * m * n * k / self.peak)
        return seconds, evidence

    def correction(self, batch: int, m: int, n: int, k: int) -> tuple[float, float]:
        """(measured over modelled time near here, distance in powers of two to the nearest point). Points weigh by
        the inverse square of their distance against the model itself at distance 1; on a point it is exact."""
        if self.how:
            return self._among(batch * m, n, k)
        weight, total, nearest = 1.0, 0.0, 99.0
        for position, (shape, error) in enumerate(self._errors):
            apart = _apart((batch * m, n, k), shape)
            nearest = min(nearest, apart)
            if apart == 0:
                return exp(error), 0.0 if position < len(self.points) - self.twins else 0.5
            weight += apart**-2
            total += error * apart**-2
        return exp(total / weight), nearest

    def _among(self, *shape: int) -> tuple[float, float]:
        """As `correction`, by the points alone: beyond them, a dimension counts as the largest or smallest that was measured.
        The fourth power of the distance lets the nearest decide."""
        ranges = [(min(axis), max(axis)) for axis in zip(*(point for point, _ in self._errors), strict=True)]
        inside = [min(max(size, low), high) for size, (low, high) in zip(shape, ranges, strict=True)]
        weight, total, nearest = 0.0, 0.0, 99.0
        for point, error in self._errors:
            nearest = min(nearest, _apart(shape, point))
            apart = max(_apart(inside, point), 1e-3)
            weight += apart**-4
            total += error * apart**-4
        return exp(total / weight), nearest

    def between(self, batch: int, m: int, n: int, k: int) -> bool:
        """Each dimension lies between those of measured products, of which there are enough to see the curve."""
        if len(self.points) < POINTS_OF_A_CURVE:
            return False
        shapes = [shape for shape, _ in self.points]
        return all(
            min(axis) <= size <= max(axis)
            for axis, size in zip(zip(*shapes, strict=True), (batch * m, n, k), strict=True)
        )

    @cached_property
    def _errors(self) -> tuple[tuple[tuple[int, int, int], float], ...]:
        """ln(measured / modelled time) at each point, without the overhead (of a point that is all overhead: a tenth)."""
        found = []
        for shape, rate in self.points:
            total = 2.0 * shape[0] * shape[1] * shape[2] / rate
            found.append((shape, log(max(total - self.overhead_s, total / 10) / self.model_s(1, *shape))))
        return tuple(found)


def _apart(a: Sequence[float], b: Sequence[float]) -> float:
    """Distance of two shapes in powers of two."""
    return float(sum(log2(x / y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5)


TWINS = {"bf16": "fp16", "fp16": "bf16"}  # the same engine at the same rate: each other's points stand in for few


def gemm_points(rates: Rates, dtype: str, how: str = "") -> Points:
    """Measured products as rates in a benchmark, to which those of a long run (`gemm.warm`) are brought.
    how: as of a `Gemm` that `how_of` has looked up; "" takes products however their operands lie."""
    found = []
    word, _, lie = how.rpartition(" ") if " " in how else (how, "", "") if how.startswith("conv") else ("", "", how)
    layouts = (lie,) if how else ("", *LAYOUTS)
    for op, derate in ((word, 1.0),) if word else (("gemm", 1.0), ("gemm.warm", warmth(rates, dtype))):
        for row in rates.all(op):
            match = SHAPE.match(row.shape)
            if row.dtype == dtype and match and (match[4] or "") in layouts:
                m, n, k = (int(group) for group in match.groups()[:3])
                found.append(((m, n, k), row.value / derate))
    return tuple(found)


LAYOUTS = ("nn", "nt", "tn", "tt")


def how_of(rates: Rates, dtype: str, how: str) -> str:
    """`how` where the chip has measured products that are like that, else "": any product."""
    return how if how and gemm_points(rates, dtype, how) else ""


def rate_by_points(curve: GemmCurve, points: Points) -> float:
    """The median of the rates that points of 1e11 flop and more imply (of all points, if none is so large)."""
    implied = []
    for (m, n, k), measured in points:
        flop = 2.0 * m * n * k
        seconds = max(flop / measured - curve.overhead_s, 0.1 * flop / measured)
        implied.append((flop >= 1e11, flop / seconds * (1 + curve.k0 / k) / curve.fill(1, m, n, k)))
    large = [rate for is_large, rate in implied if is_large] or [rate for _, rate in implied]
    if len(points) >= 2 * POINTS_OF_A_CURVE and len(large) == len(implied):
        # A small chip's points are all small; those of the most flop tell how fast a large product is.
        sizes = [m * n * k for (m, n, k), _ in points]
        most = max(sizes)
        large = [rate for count, (_, rate) in zip(sizes, implied, strict=True) if count * 8 >= most]
    return sorted(large)[len(large) // 2]
