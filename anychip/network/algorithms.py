"""Collective algorithms, one function each: what a byte costs in every tier, and how many steps a small message takes.

`ALGORITHMS[name](kind, group, tiers) -> Plan | None`, None where the algorithm cannot do that kind on that group. Sizes
are as nccl-tests count them (see `collective`). All ranks of all groups do the same at the same time: what a group gets
of a wire that it shares with sibling groups is already its share, because each tier's rate is per chip and a group that
leaves a domain of D chips with m of its own ranks there has m of those D shares.

Symbols: n ranks, S bytes, m ranks of the group in one domain below a tier, d such domains.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log2

from anychip.network.geometry import Geometry
from anychip.network.ports import exchange_s_per_byte, pair_rate, spread_rate
from anychip.network.tiers import Tier

Tiers = tuple[Tier, ...]


@dataclass(frozen=True)
class Plan:
    """A collective by one algorithm on one group. s_per_byte: seconds of each tier for a byte of S, at the full wire
    rate. latency_s: of all steps of a message of no bytes. serial: the tiers work one after another, not as a pipeline.
    in_switch: tiers whose switches add up."""

    s_per_byte: tuple[float, ...]
    latency_s: float
    serial: bool = False
    in_switch: bool = False


Algorithm = Callable[[str, Geometry, Tiers], "Plan | None"]
ALGORITHMS: dict[str, Algorithm] = {}

# Times that the data pass the group: all-reduce is a reduce-scatter and an all-gather (Thakur, Rabenseifner and Gropp
# 2005, "Optimization of collective communication operations in MPICH").
PASSES = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}
ROOTED = ("broadcast", "reduce")
POINT_TO_POINT = ("send", "recv")
# Share of the rate of a chain that branching trees reach, by NCCL's own model (src/graph/tuning.cc).
BRANCHING = 0.85
# What a library is taken to have where its platform's file does not say.
USUAL = ("ring", "tree", "halving_doubling", "direct", "hierarchical", "in_switch", "torus")
# Messages that one rank has on their way at a time in an exchange: NCCL groups at most so many per launch (its default
# NCCL_MAX_NCHANNELS is 32, two channels for a peer).
IN_FLIGHT = 16


def algorithm(name: str) -> Callable[[Algorithm], Algorithm]:
    """Register under `name`; refuses a second one."""

    def register(function: Algorithm) -> Algorithm:
        assert name not in ALGORITHMS, f"two algorithms are called {name}"
        ALGORITHMS[name] = function
        return function

    return register


def _steps(group: Geometry, tiers: Tiers, count: Callable[[int], float]) -> float:
    """Latency of the steps in each tier: count(parts that meet in one domain of the tier)."""
    return sum(count(group.fan_out(at)) * tier.latency_s for at, tier in enumerate(tiers))


@algorithm("ring")
def ring(kind: str, group: Geometry, tiers: Tiers) -> Plan | None:
    """One ring through all ranks, neighbours in a domain next to one another, as many rings as a domain has ranks.

    All-reduce sends 2(n-1)/n * S along every edge in 2(n-1) steps, all-gather and reduce-scatter half of that (Patarasuk
    and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations"); broadcast and reduce are a
    chain, S in n-1 steps. A domain is left by one edge of each ring: its m ranks carry 1/m each.
    """
    n = group.size
    if kind in PASSES:
        share, rounds = PASSES[kind] * (n - 1) / n, PASSES[kind] * (n - 1)
    elif kind in ROOTED:
        share, rounds = 1.0, n - 1
    else:
        return None
    # Of the n edges of a ring, as many cross a tier as domains meet in it, less those that leave it.
    parts = [group.parts(at) for at in range(len(tiers))] + [0]
    latency = sum((parts[at] - parts[at + 1]) / n * tier.latency_s for at, tier in enumerate(tiers)) * rounds
    return Plan(_leaving(group, tiers, share), latency)


def _leaving(group: Geometry, tiers: Tiers, share: float) -> tuple[float, ...]:
    """share * S bytes pass along inside of the innermost domain and out of every domain that the group leaves."""
    return tuple(
        share / group.senders(at) / spread_rate(tier, group, at) if group.parts(at) > 1 and _used(group, at) else 0.0
        for at, tier in enumerate(tiers)
    )


def _used(group: Geometry, tier: int) -> bool:
    """A tier outside the innermost is used as soon as a domain below it is left, the innermost by neighbours in it."""
    return tier > 0 or group.reaches[0].most > 1


def _tree_share(kind: str, domains: int) -> float:
    """Of S, what the busiest of some domains sends in two trees, at the rate that trees reach."""
    if domains < 3:
        return float(domains - 1)
    return (min(domains / 2, 2.0) if kind == "all_reduce" else 1.0) / BRANCHING


@algorithm("tree")
def tree(kind: str, group: Geometry, tiers: Tiers) -> Plan | None:
    """Two binary trees over the domains, each carrying half, and a chain inside of a domain.

    The busiest domain sends 2S for all-reduce (S where there are but two, each at the root of one tree and the leaf of
    the other), S for broadcast and reduce, in a number of steps that grows with the logarithm of the domains (Sanders,
    Speck and Traeff 2009, "Two-tree algorithms for full bandwidth broadcast, reduction and scan"; NCCL 2.4, "Massively
    scale your deep learning training"). Domains are nodes: inside of one there is the chain, from board to board too, and a
    group of one node has no tree (NCCL's tuning.cc reckons with 2S for each rank there, which a ring undercuts).
    """
    if kind not in ("all_reduce", *ROOTED) or (len(tiers) > 1 and tiers[-1].role != "scale_out"):
        return None
    passes = 2 if kind == "all_reduce" else 1
    latency, cost = 0.0, []
    for at, tier in enumerate(tiers):
        parts = group.fan_out(at)
        chained = at == 0 or tier.role != "scale_out"
        if chained:
            # Of two boards each sends S one way; a chip, and a board between others, sends both ways.
            share = float(parts - 1 if at and parts < 3 else passes)
        else:
            share = _tree_share(kind, group.parts(at))
        used = group.parts(at) > 1 and _used(group, at)
        cost.append(share / group.senders(at) / spread_rate(tier, group, at) if used else 0.0)
        latency += (parts - 1 if chained else log2(parts)) * tier.latency_s
    return Plan(tuple(cost), passes * latency)


@algorithm("halving_doubling")
def halving_doubling(kind: str, group: Geometry, tiers: Tiers) -> Plan | None:
    """Recursive halving and doubling, near ranks first, for powers of two.

    (n-1)/n * S per pass in log2(n) steps; what leaves a domain has been cut down by the m ranks in it first, so
    (d-1)/d * S/m (Rabenseifner 2004, "Optimization of collective reduction operations").
    """
    counts = [group.fan_out(at) for at in range(len(tiers))]
    if kind not in PASSES or any(count & (count - 1) for count in counts) or any(tier.dims for tier in tiers):
        return None
    latency = PASSES[kind] * _steps(group, tiers, lambda count: log2(count))
    return Plan(_nested(kind, group, tiers), latency, serial=True)


def _nested(kind: str, group: Geometry, tiers: Tiers) -> tuple[float, ...]:
    """Tier by tier, each with what the tiers inside have left of the data: (f-1)/f * S/m for f parts of m ranks."""
    return tuple(
        PASSES[kind] * (parts - 1) / parts / group.senders(at) / spread_rate(tier, group, at) if parts > 1 else 0.0
        for at, tier in enumerate(tiers)
        for parts in (group.fan_out(0) if at == 0 else group.parts(at),)
    )


@algorithm("direct")
def direct(kind: str, group: Geometry, tiers: Tiers) -> Plan | None:
    """Everybody to everybody at once, one step for each pass: the algorithm of full meshes, and of every all-to-all.

    Reduce-scatter and all-gather in one domain send S/n to each of n-1 peers over the wire to it. An all-to-all sends
    S/n to each peer: S*(m-1)/n stay in the domain, S*(n-m)/n leave it (Huawei, HCCL user guide, algorithm "Mesh").
    """
    n = group.size
    if kind == "all_to_all":
        inside = group.reaches[0].most / n
        cost = [inside * exchange_s_per_byte(tiers[0], group, 0)]
        for at in range(1, len(tiers)):
            cost.append((n - group.reaches[at - 1].least) / n / spread_rate(tiers[at], group, at))
        return Plan(tuple(cost), _steps(group, tiers, lambda count: -(-(count - 1) // IN_FLIGHT)))
    if kind not in PASSES or len(tiers) > 1 or tiers[0].dims:
        return None
    return Plan(_nested(kind, group, tiers), PASSES[kind] * tiers[0].latency_s)


@algorithm("hierarchical")
def hierarchical(kind: str, group: Geometry, tiers: Tiers) -> Plan | None:
    """Reduce-scatter inside, all-reduce of the pieces across, all-gather inside: each tier as good as it can alone, one
    after the other (Ueno and Yokota 2019, "Exhaustive study of hierarchical allreduce patterns"; How to Scale Your
    Model for slices over a data-centre network). A mesh takes one step for a pass, anything else a ring's or a
    halving's, whichever is fewer.
    """
    if kind not in PASSES or len(tiers) < 2:
        return None
    latency = 0.0
    for at, tier in enumerate(tiers):
        count = group.fan_out(at)
        steps = min(count - 1, 1) if tier.topology == "mesh" else min(count - 1, 2 * log2(count))
        latency += PASSES[kind] * steps * tier.latency_s
    return Plan(_nested(kind, group, tiers), latency, serial=True)


@algorithm("pipeline")
def pipeline(kind: str, group: Geometry, tiers: Tiers) -> Plan | None:
    """As hierarchical, in pieces, so that the wires of all tiers are busy at the same time (HCCL user guide, algorithm
    "Pipeline"; Jia et al. 2018, "Highly scalable deep learning training system with mixed-precision")."""
    plan = hierarchical(kind, group, tiers)
    return replace(plan, serial=False) if plan else None


@algorithm("torus")
def torus(kind: str, group: Geometry, tiers: Tiers) -> Plan | None:
    """A ring in every dimension at once, each beginning with its own part of the data.

    (n-1)/n * S per pass over the sum of the dimensions' rates; a pass takes half a ring of hops in each dimension
    (Chan et al. 2007; Jouppi et al. 2023, "TPU v4"; How to Scale Your Model, "sharding").
    """
    if len(tiers) > 1 or not tiers[0].dims or (kind not in PASSES and kind not in ROOTED):
        return None
    n = group.size
    passes = PASSES.get(kind, 1)
    hops = sum(extent // 2 if wrap else extent - 1
               for extent, wrap in zip(group.reaches[0].extents, tiers[0].wrap, strict=True))  # fmt: skip
    share = passes * (n - 1) / n if kind in PASSES else 1.0
    return Plan((share / spread_rate(tiers[0], group, 0),), passes * hops * tiers[0].hop_latency_s)


@algorithm("in_switch")
def in_switch(kind: str, group: Geometry, tiers: Tiers) -> Plan | None:
    """The switch adds up and copies out: a rank sends its S once, to be added, and its finished part S/m once, to be
    copied to all; it receives as much. S*(1 + 1/m) over the wire where a ring takes 2(m-1)/m * S, so the bus bandwidth
    that nccl-tests print passes the wire's for m > 3 (Klenk et al. 2020, "An in-network architecture for accelerating
    shared-memory multiprocessor collectives"; Graham et al. 2016, "SHARP"). Across domains: a tree of their parts, 2S/m,
    or S/m where those switches add up as well.
    """
    if kind != "all_reduce" or not tiers[0].in_switch or group.fan_out(0) < 3:
        return None
    m = group.fan_out(0)
    cost = [(1 + 1 / m) / spread_rate(tiers[0], group, 0)]
    latency = 2 * tiers[0].latency_s
    for at in range(1, len(tiers)):
        once = tiers[at].in_switch
        share = 1.0 if once else _tree_share(kind, group.parts(at))
        cost.append(share / group.senders(at) / spread_rate(tiers[at], group, at))
        latency += (1 if once else 2) * log2(group.fan_out(at)) * tiers[at].latency_s
    return Plan(tuple(cost), latency, in_switch=True)


@algorithm("pair")
def pair(kind: str, group: Geometry, tiers: Tiers) -> Plan | None:
    """A message from one rank to one other, S bytes over the innermost tier that holds both (Hockney 1994, "The
    communication challenge for MPP": latency plus bytes over bandwidth)."""
    if kind not in POINT_TO_POINT:
        return None
    last = len(tiers) - 1
    cost = [0.0] * last + [1 / pair_rate(tiers[last], group.reaches[last])]
    return Plan(tuple(cost), tiers[last].latency_s)


@algorithm("root")
def root(kind: str, group: Geometry, tiers: Tiers) -> Plan | None:
    """gather and scatter: the root's own wires carry one piece of S for every other rank."""
    if kind not in ("gather", "scatter"):
        return None
    n, inside = group.size, group.reaches[0].most - 1
    cost = [inside / spread_rate(tiers[0], group, 0)]
    for at in range(1, len(tiers)):
        cost.append((n - group.reaches[at - 1].most) / spread_rate(tiers[at], group, at))
    return Plan(tuple(cost), _steps(group, tiers, lambda count: -(-(count - 1) // IN_FLIGHT)))
