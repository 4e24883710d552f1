"""What was measured of a chip's network, in the form that a fabric prices with: levels by algorithm, curves by role.

In: a chip, its tiers' builder and the points of standard/collectives. Out: `Measured`. A chip without a curve borrows the
shape (never the level) of the others that run in its way, and says so.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from anychip.network.algorithms import ALGORITHMS, USUAL, Plan
from anychip.network.curve import Curve, curve_of, pooled, without_excess
from anychip.network.geometry import geometry
from anychip.network.points import Point, chips_with_points, owner, points_of_chip
from anychip.network.tiers import Tier, tiers_of
from anychip.spec import Chip, load_chip, load_cluster


@dataclass(frozen=True)
class Measured:
    """levels: (role, cluster, algorithm) -> share of the wire rate that large messages reach, cluster "" in one domain.
    curves: (role, cluster) -> time by size; "" for clusters where nothing was measured."""

    levels: Mapping[tuple[str, str, str], float]
    curves: Mapping[tuple[str, str], Curve]

    def curve(self, role: str, cluster: str) -> Curve:
        """The curve of a cluster, else that of any."""
        return self.curves.get((role, cluster)) or self.curves[role, ""]


@dataclass(frozen=True)
class Setting:
    """The group that points were measured on."""

    collective: str
    algorithm: str
    chips: int
    nodes: int
    cluster: str

    @property
    def role(self) -> str:
        return "scale_up" if self.nodes == 1 else "scale_out"


def setting(point: Point) -> Setting:
    return Setting(point.collective, point.algorithm, point.chips, point.nodes, point.cluster)


def measured(chip: Chip, points: Iterable[Point], lenders: Iterable[str] | None = None) -> Measured:
    """Of a chip's own points. lenders: chips whose curves may be borrowed, all that have points where None."""
    # Points were measured on the chip as its file has it, whatever was changed since for a "what if".
    own = _own(load_chip(chip.file) if chip.file.is_file() else chip, tuple(points))
    borrowed = {
        (role, ""): _borrowed(
            role, owner(chip), chip.execution, tuple(chips_with_points() if lenders is None else lenders)
        )
        for role in ("scale_up", "scale_out")
        if (role, "") not in own.curves
    }
    return Measured(own.levels, borrowed | dict(own.curves))


@cache
def _own(chip: Chip, points: tuple[Point, ...]) -> Measured:
    levels: dict[tuple[str, str, str], float] = {}
    curves: dict[tuple[str, str], Curve] = {}
    for use in ("level", "curve"):
        for where in dict.fromkeys(setting(point) for point in points if point.use == use):
            rows = sorted((p for p in points if p.use == use and setting(p) == where), key=lambda p: p.nbytes)
            wire_s = [wire_seconds(chip, where, levels) * row.nbytes for row in rows]
            curve, level = curve_of(wire_s, [row.time_s for row in rows], least_latency(chip, where), chip.id)
            levels[where.role, where.cluster, where.algorithm] = level
            if use == "curve":
                curves.setdefault((where.role, where.cluster), curve)
    return Measured(levels, curves)


def wire_seconds(chip: Chip, where: Setting, levels: Mapping[tuple[str, str, str], float]) -> float:
    """Seconds for a byte at the full rate of the outermost tier (inner tiers count at the level that they reach)."""
    tiers = _tiers(chip, where)
    plan = _plan(where.algorithm, where, tiers)
    assert plan is not None, f"{where.algorithm} does not do {where.collective}"
    inner = levels.get(("scale_up", "", where.algorithm), tiers[0].efficiency) if len(tiers) > 1 else 1.0
    costs = [cost / (inner if at < len(tiers) - 1 else 1.0) for at, cost in enumerate(plan.s_per_byte)]
    return sum(costs) if plan.serial else max(costs)


def least_latency(chip: Chip, where: Setting) -> float:
    """Of all algorithms that could have run: a small message goes by the one with the fewest steps."""
    tiers = _tiers(chip, where)
    known = chip.platform.raw.get("distributed", {}).get("algorithms") or USUAL
    plans = [plan for name in known if (plan := _plan(name, where, tiers)) is not None]
    return min((plan.latency_s for plan in plans), default=0.0)


def _tiers(chip: Chip, where: Setting) -> tuple[Tier, ...]:
    usual = where.cluster or chip.raw.get("cluster")
    return tiers_of(chip, where.chips, load_cluster(usual) if usual else None, bounded=False)


def _plan(name: str, where: Setting, tiers: tuple[Tier, ...]) -> Plan | None:
    return ALGORITHMS[name](where.collective, geometry(np.arange(where.chips), tiers), tiers)


@cache
def _borrowed(role: str, chip_id: str, execution: str, lenders: tuple[str, ...]) -> Curve:
    """The middle of the curves of other chips, of those that run in the same way (kernels or whole graphs) if any."""
    found: list[tuple[str, Curve]] = []
    for lender in lenders:
        if lender != chip_id:
            other = load_chip(lender)
            curves = _own(other, points_of_chip(other)).curves
            found += [(other.execution, curve) for (name, _), curve in curves.items() if name == role]
    if role == "scale_out":
        found = [(way, without_excess(curve)) for way, curve in found]
    alike = [curve for way, curve in found if way == execution] or [curve for _, curve in found]
    return pooled(alike)
