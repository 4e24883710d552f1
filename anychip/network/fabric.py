"""`Fabric`: a number of chips of one kind and the network between them; what a collective on it costs.

In: a chip, a count, a cluster or None. Out of `cost`: seconds, by which algorithm, limited by what, and how far that can
be trusted. Pure and cached: a set of ranks is looked at once, and sets that look alike share their prices.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anychip.errors import BadNetwork
from anychip.network.algorithms import ALGORITHMS, POINT_TO_POINT, USUAL, Plan
from anychip.network.collective import KINDS, UNSIZED
from anychip.network.curve import Curve
from anychip.network.geometry import Chips, Geometry, geometry
from anychip.network.levels import Measured, measured
from anychip.network.points import Point, points_of_chip
from anychip.network.tiers import Tier, most_chips, tiers_of
from anychip.spec import Chip, Cluster, load_cluster

# By what a library carries out what is no all-reduce, all-gather or reduce-scatter, whatever it has for those.
PLAIN = {"all_to_all": "direct", "send": "pair", "recv": "pair", "gather": "root", "scatter": "root"}
TINY_BYTES = 8
SMALL = 64
# Bytes that pass the chip's memory for a byte of a collective: what is sent is read, what arrives is written, and a
# reduction reads both of its terms. All-reduce is a reduce-scatter (3) and an all-gather (2).
MEMORY_PASSES = {"all_reduce": 5, "all_gather": 2, "reduce_scatter": 3, "all_to_all": 2, "broadcast": 2, "reduce": 3,
                 "gather": 1, "scatter": 1, "send": 1, "recv": 1}  # fmt: skip


class CollectiveCost(NamedTuple):
    """time_s: from the arrival of the last rank to the end. evidence: measured, interpolated, modelled or bytes_only.
    algorithm: the one that is fastest of those that the chip's library has. limit: "bandwidth", "latency" or "none".
    tier: name of the tier that takes longest. memory_bytes: what passes the chip's memory meanwhile; cores: how many of
    the chip's cores it occupies. carrying: how much of that tier's wires it needs: all
    where its bytes take half of its time or more (limit: bandwidth), less where they take less; in the rest others' can pass."""

    time_s: float
    evidence: str
    algorithm: str
    limit: str
    tier: str
    memory_bytes: float = 0.0
    cores: int = 0
    carrying: float = 0.0


class Way(NamedTuple):
    """One algorithm on one group: seconds for a byte at the attained rates, the latency of its steps, the curve that
    bends both, the tier that takes longest."""

    algorithm: str
    s_per_byte: float
    latency_s: float
    curve: Curve
    tier: str


NOTHING = CollectiveCost(0.0, "modelled", "none", "none", "none")


@dataclass(eq=False)
class Fabric:
    """chip, num_chips and the tiers that they reach across. placement: chip number of each rank, None for rank i on
    chip i. Built by `Fabric.of`."""

    chip: Chip
    num_chips: int
    cluster: Cluster | None
    tiers: tuple[Tier, ...]
    algorithms: tuple[str, ...]
    measured: Measured
    placement: Chips | None = None
    _looks: dict[Any, tuple[Any, Geometry]] = field(default_factory=dict, repr=False)
    _costs: dict[tuple[str, int, Geometry], CollectiveCost] = field(default_factory=dict, repr=False)
    _ways: dict[tuple[str, Geometry], tuple[Way, ...]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, chip: Chip, num_chips: int, cluster: Cluster | str | Path | None = None,
        placement: Sequence[int] | None = None, points: Sequence[Point] | None = None,
    ) -> "Fabric":  # fmt: skip
        """The network of `num_chips` chips.

        cluster: one of clusters/, by id, alias or path. None: as the chip's own file says, and as large as needed.
        points: measured collectives of the chip instead of the standard's.
        Raises BadNetwork where a figure is missing or the cluster is smaller than that, UnknownCluster.
        """
        if isinstance(cluster, str | Path):
            cluster = load_cluster(cluster)
        bounded = cluster is not None
        usual = chip.raw.get("cluster")
        if cluster is None and usual is not None:
            cluster = load_cluster(usual)
        tiers = tiers_of(chip, num_chips, cluster, bounded=bounded) if num_chips > 1 else ()
        known = chip.platform.raw.get("distributed", {}).get("algorithms")
        places = None if placement is None else np.asarray(placement, np.int64)
        if places is not None and sorted(places.tolist()) != list(range(num_chips)):
            raise BadNetwork(f"placement must name each of the chips 0 to {num_chips - 1} once")
        facts = measured(chip, points_of_chip(chip) if points is None else points)
        return cls(chip, num_chips, cluster, tiers, tuple(known or USUAL), facts, places)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What no file says of this chip: whose network it is put in, and what stands in place of unknown figures."""
        return (*self._borrowed(), *self._stretched(), *(tier.assumed for tier in self.tiers if tier.assumed))

    def _borrowed(self) -> tuple[str, ...]:
        """A cluster that was asked for and is built of other chips; what a chip's own file names is no question."""
        cluster = self.cluster
        if cluster is None or not self.tiers or self.chip.id in (cluster.chips or (self.chip.id,)):
            return ()
        if cluster.id == self.chip.raw.get("cluster"):
            return ()
        return (f"{self.chip.id}: cluster {cluster.id} is built of {', '.join(cluster.chips)}; this chip is taken to stand in their "
                "place, in nodes of as many, on the same network.",)  # fmt: skip

    def _stretched(self) -> tuple[str, ...]:
        """A cluster of the chip's own file that is not built as large as was asked for."""
        cluster = self.cluster
        most = most_chips(cluster) if cluster is not None else None
        if cluster is None or most is None or self.num_chips <= most:
            return ()
        return (
            f"cluster {cluster.id} has {most:,} chips at most; {self.num_chips:,} are taken to be joined as it joins them.",
        )

    def degraded(self, tier: str, share: float) -> "Fabric":
        """The same with one tier at a share of its rates: a worn link, a switch that is down. Raises BadNetwork."""
        names = [found.name for found in self.tiers]
        if tier not in names or not 0 < share <= 1:
            raise BadNetwork(f"cannot run tier {tier!r} at {share:g} of its rate: tiers here are {', '.join(names) or 'none'}, "
                             "a share is above 0 and at most 1")  # fmt: skip
        slower = tuple(found.at(share) if found.name == tier else found for found in self.tiers)
        return replace(self, tiers=slower, _looks={}, _costs={}, _ways={})

    def cost(self, kind: str, nbytes: int, ranks: Sequence[int], dtype: str = "") -> CollectiveCost:
        """Seconds of a collective of `ranks`, while all other ranks do the same in groups of their own.

        kind: one of `collective.KINDS`. nbytes: as `Collective.nbytes`. send and recv: ranks are the two ends.
        """
        if kind not in KINDS:
            raise ValueError(f"no such collective: {kind!r}; one of {', '.join(KINDS)}")
        look = self.look(ranks)
        key = (kind, nbytes, look)
        found = self._costs.get(key)
        if found is None:
            found = self._costs[key] = self._price(kind, nbytes, look)
        return found

    def look(self, ranks: Sequence[int]) -> Geometry:
        """What the set looks like; small sets are remembered by value, large tuples, which cannot change, by identity."""
        small = len(ranks) <= SMALL
        key = tuple(ranks) if small else id(ranks)
        seen = self._looks.get(key)
        if seen is not None and (small or seen[0] is ranks):
            return seen[1]
        chips = np.asarray(ranks, np.int64)
        if len(chips) and not 0 <= int(chips.min()) <= int(chips.max()) < self.num_chips:
            raise BadNetwork(f"a group has rank {int(chips.max())}, but there are {self.num_chips} chips")
        if self.placement is not None:
            chips = self.placement[chips]
        found = geometry(chips, self.tiers)
        if small or isinstance(ranks, tuple | range):
            self._looks[key] = (ranks, found)
        return found

    def _price(self, kind: str, nbytes: int, look: Geometry) -> CollectiveCost:
        if look.size < 2:
            return NOTHING
        if kind in UNSIZED:
            kind, nbytes = "all_reduce", TINY_BYTES
        if nbytes == 0 and kind not in POINT_TO_POINT:
            return NOTHING
        ways = self._ways_of(kind, look)
        times = [way.curve.at(way.s_per_byte * nbytes, way.latency_s) for way in ways]
        time = min(times)
        way = ways[times.index(time)]
        moving = way.s_per_byte * nbytes
        evidence = "interpolated" if way.curve.own and way.curve.holds(moving) else "modelled"
        limit = "bandwidth" if 2 * moving > time else "latency"
        memory_bytes, carrying = MEMORY_PASSES[kind] * nbytes, min(2 * moving / time, 1.0)
        return CollectiveCost(time, evidence, way.algorithm, limit, way.tier, memory_bytes, self.cores, carrying)

    def _ways_of(self, kind: str, look: Geometry) -> tuple[Way, ...]:
        """A way by every algorithm of the chip's library that can do it, else by any."""
        found = self._ways.get((kind, look))
        if found is None:
            tiers = self.tiers[: len(look.reaches)]
            names = (PLAIN[kind],) if kind in PLAIN else self.algorithms
            tried = {name: ALGORITHMS[name](kind, look, tiers) for name in names}
            if not any(tried.values()):
                tried = {name: function(kind, look, tiers) for name, function in ALGORITHMS.items()}
            ways = [self._way(name, plan, tiers) for name, plan in tried.items() if plan is not None]
            found = self._ways[kind, look] = tuple(ways)
        assert found, f"no algorithm for {kind}"
        return found

    def _way(self, name: str, plan: Plan, tiers: tuple[Tier, ...]) -> Way:
        """Bytes take the time of the slowest tier, or of all tiers one after another; the outermost tier's curve says
        what becomes of it."""
        needed = [cost / self._share(tier, name, plan) for cost, tier in zip(plan.s_per_byte, tiers, strict=True)]
        outer = tiers[-1].role == "scale_out"
        curve = self.measured.curve("scale_out" if outer else "scale_up", self._cluster_id if outer else "")
        slowest = max(range(len(tiers)), key=needed.__getitem__)
        return Way(name, sum(needed) if plan.serial else max(needed), plan.latency_s, curve, tiers[slowest].name)

    @property
    def cores(self) -> int:
        """Cores of a chip that a collective occupies, 0 where its file names none."""
        return int(self.chip.get("engine.collective_cores") or 0)

    @property
    def _cluster_id(self) -> str:
        return self.cluster.id if self.cluster else ""

    def _share(self, tier: Tier, name: str, plan: Plan) -> float:
        """Share of a tier's wire rate that large messages reach: measured by this algorithm, by any, or of the link."""
        at = self._cluster_id if tier.role == "scale_out" else ""
        levels = self.measured.levels
        exact = levels.get((tier.role, at, name))
        if exact is not None:
            return exact
        others = [levels.get((tier.role, at, other)) for other in ("ring", "direct", "torus", "tree")]
        share = next((level for level in others if level is not None), tier.efficiency)
        if name == PLAIN["all_to_all"] and tier.topology == "switch":
            share *= tier.exchange_efficiency
        return share * (tier.in_switch_efficiency if plan.in_switch and tier.in_switch else 1.0)
