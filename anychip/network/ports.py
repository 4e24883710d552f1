"""What one rank can send within one tier, by how the chips of the tier are joined. Pure.

A rate here is the wire's, per rank, while every rank does the same, each in its own group: siblings that share a wire
have been given their share. Bytes per second.
"""

from math import log2

from anychip.network.geometry import Geometry, Reach
from anychip.network.tiers import Tier


def spread_rate(tier: Tier, group: Geometry, index: int) -> float:
    """When a rank's traffic can be spread over all of its wires into the group (ring, all-gather, broadcast).

    A switch gives the whole rate. In a mesh of n peers a rank has n - 1 of its wires in the group. On a torus each
    dimension of the group is a ring of two wires, or a line of one where it does not close: n ranks on a line must pass
    (n-1)/n of the data through the wire of the end rank, on a ring half of that each way (Chan et al. 2007,
    "Collective communication: theory, practice, and experience", section 5; How to Scale Your Model, "sharding").
    """
    peers = max(group.fan_out(index) - 1, 1)
    if tier.dims:
        return torus_rate(tier, group.reaches[index])
    if tier.topology == "mesh":
        return min(tier.one_way_bytes_per_s, peers * tier.peer_bytes_per_s)
    if tier.topology == "hypercube":
        wires = max(round(log2(tier.chips)), 1)
        return tier.one_way_bytes_per_s * min(peers, wires) / wires
    return tier.one_way_bytes_per_s


def torus_rate(tier: Tier, reach: Reach) -> float:
    """Sum over the dimensions that the group extends along. Groups that interleave on a ring (neighbours `spacing`
    steps apart) share its wires: each gets 1/spacing. A set that is no box can use one wire at a time."""
    if not reach.boxed:
        return min(tier.links)
    total = 0.0
    for extent, spacing, length, wrap, link in zip(reach.extents, reach.spacing, tier.dims, tier.wrap, tier.links, strict=True):  # fmt: skip
        if extent > 1:
            closes = wrap and extent * spacing == length
            total += link * (2 if closes else 1) / spacing
    return total or min(tier.links)


def exchange_s_per_byte(tier: Tier, group: Geometry, index: int) -> float:
    """Seconds for a byte that a rank sends in an all-to-all, the group's ranks in this tier being `fan_out`.

    Of it (n-1)/n leave the rank. On a torus what counts is the cut through the middle of the longest dimension: half
    of the ranks send half of their bytes across, n*S/4 over the wires that are cut, so S*L/8 for a ring of L and S*L/4
    for a line, divided by the rate of a wire (How to Scale Your Model, chapter "sharding", all-to-all).
    """
    ranks = group.fan_out(index)
    if tier.dims:
        return _torus_exchange(tier, group.reaches[index])
    hops = 1.0
    if tier.topology == "hypercube":
        hops = max(log2(max(ranks, 2)) / 2, 1.0)
    return (ranks - 1) / ranks / spread_rate(tier, group, index) * hops


def _torus_exchange(tier: Tier, reach: Reach) -> float:
    worst = 0.0
    for extent, spacing, length, wrap, link in zip(reach.extents, reach.spacing, tier.dims, tier.wrap, tier.links, strict=True):  # fmt: skip
        if extent > 1:
            closes = wrap and extent * spacing == length
            worst = max(worst, extent * spacing / (8 if closes else 4) / link)
    return worst


def pair_rate(tier: Tier, reach: Reach) -> float:
    """When every rank sends to one other: a message that takes k hops of a torus shares each wire with k - 1 others."""
    if not tier.dims:
        return tier.peer_bytes_per_s
    hops = 1
    for extent, spacing, length, wrap in zip(reach.extents, reach.spacing, tier.dims, tier.wrap, strict=True):
        if extent > 1:
            hops = max(hops, min(spacing, length - spacing) if wrap else spacing)
    return min(tier.links) / hops
