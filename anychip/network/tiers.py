"""The tiers of a fabric: from a chip's links and a cluster's file to rates, latencies and domain sizes.

In: `Chip`, how many, `Cluster` or None. Out: tuple of `Tier`, the innermost first; chips with numbers below `chips` of
each other's multiple share a domain. A figure that nobody knows raises BadNetwork: which, of which file, what to try.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from anychip.cost.rates import rates_of_chip
from anychip.errors import BadNetwork
from anychip.network.torus import slice_chips, slice_shape, wraps
from anychip.spec import Chip, Cluster, ClusterTier, Wire, list_clusters, load_wire

TORUS_DIMS = {"ring": 1, "torus2d": 2, "torus3d": 3}
UNLIMITED = 1 << 40
USUAL_NODE = 8  # chips of one host, where no file says
_NIC = "[scale_out] one_way_per_chip"


@dataclass(frozen=True)
class Tier:
    """One tier. chips: of one domain. one_way: what one chip can send across it while all others do the same. peer:
    what it can send to one other. All rates are the wire's, in bytes per second; efficiency is the share of them that
    large collectives reach (known: whether the link's or chip's file says so, or it is assumed), and in_switch_efficiency
    and exchange_efficiency are shares of that share: of reductions in the switch, of all-to-all through a switch.

    dims, wrap, links: of a torus, its lengths, which of them close to a ring, and the rate of one link along each.
    assumed: what stands here in place of a figure that nobody knows, "" for nothing.
    """

    name: str
    role: str
    chips: int
    topology: str
    one_way_bytes_per_s: float
    peer_bytes_per_s: float
    latency_s: float
    hop_latency_s: float
    efficiency: float
    efficiency_known: bool
    in_switch: bool = False
    in_switch_efficiency: float = 1.0
    exchange_efficiency: float = 1.0
    dims: tuple[int, ...] = ()
    wrap: tuple[bool, ...] = ()
    links: tuple[float, ...] = ()
    assumed: str = ""

    def at(self, share: float) -> "Tier":
        """The same at a share of its rates."""
        return replace(
            self,
            one_way_bytes_per_s=self.one_way_bytes_per_s * share,
            peer_bytes_per_s=self.peer_bytes_per_s * share,
            links=tuple(link * share for link in self.links),
        )


def tiers_of(chip: Chip, num_chips: int, cluster: Cluster | None, *, bounded: bool) -> tuple[Tier, ...]:
    """All tiers that `num_chips` chips of a kind reach across. bounded: the cluster is as large as its file says, not
    as large as is asked for. Raises BadNetwork."""
    if bounded and cluster is not None:
        _check_size(chip, num_chips, cluster)
    found = list(_inner(chip, num_chips, cluster, bounded))
    if num_chips > max((tier.chips for tier in found), default=1):
        found += _outer(chip, num_chips, cluster, bounded)
    return tuple(found)


def _inner(chip: Chip, num_chips: int, cluster: Cluster | None, bounded: bool) -> Iterator[Tier]:
    """The scale-up domain, and the node where that is larger. Where chips have neither a link of their own nor a known
    network, the usual number of them shares a host and meets across it."""
    domain, topology = _domain(chip, cluster, bounded)
    if domain > 1 and topology != "none":
        yield _scale_up(chip, num_chips, domain, topology, cluster, bounded)
    node, assumed = (cluster.node_chips if cluster else None) or 1, ""
    link = chip.links.get("host")
    wire = _wire(link.wire if link else None)
    rate = (link.one_way_bytes_per_s if link else None) or (wire.link_bytes_per_s if wire else None)
    if domain == node == 1 and topology == "none" and rate and _nic_rate(chip, cluster, bounded) is None:
        node = USUAL_NODE
        assumed = (
            f"{chip.id}: its chips have no link of their own; {node} of one host are taken to meet across its PCIe, at "
            f"{rate / 1e9:.0f} GB/s each."
        )
    if node > domain and num_chips > domain and not (cluster and _in_node(cluster, domain)):
        tier = _tier(
            chip, "host", "host", node, "switch", _needed(chip, num_chips, rate, "links.host.one_way", ""), None, wire
        )
        yield replace(tier, assumed=assumed)


def _in_node(cluster: Cluster, domain: int) -> bool:
    """Do links of a tier of its own join the domains of one node, rather than the host?"""
    return any(tier.chips is not None and domain < tier.chips <= (cluster.node_chips or 1) for tier in cluster.tiers)


def _domain(chip: Chip, cluster: Cluster | None, bounded: bool) -> tuple[int, str]:
    """Chips that the scale-up link joins, and how: as the cluster says that was asked for, else as the chip's file."""
    link = chip.scale_up
    own = (link.domain_chips, link.topology) if link else (None, "none")
    other = (cluster.domain_chips, cluster.topology) if cluster else (None, "unknown")
    first, second = (other, own) if bounded else (own, other)
    return first[0] or second[0] or 1, first[1] if first[1] != "unknown" else second[1]


def _equal_parts(num_chips: int, domain: int) -> int:
    """Jobs are placed in equal parts: 16,384 chips in racks of 72 take 64 of each."""
    if num_chips <= domain or num_chips % domain == 0:
        return domain
    part = next(size for size in range(domain, 0, -1) if num_chips % size == 0)
    return part if 2 * part >= domain else domain


def _scale_up(chip: Chip, num_chips: int, domain: int, topology: str, cluster: Cluster | None,
              bounded: bool) -> Tier:  # fmt: skip
    link = chip.scale_up
    assert link is not None
    both = link.bidirectional_bytes_per_s
    own = link.one_way_bytes_per_s or (both / 2 if both else None)
    given = cluster.scale_up_bytes_per_s if cluster else None
    rate = given or own if bounded else own or given
    one_way = _needed(chip, num_chips, rate, "links.scale_up.one_way", "[scale_up] one_way_per_chip")
    if topology == "unknown":
        missing = "links.scale_up.topology", "[scale_up] topology"
        raise BadNetwork(
            f"{chip.id}: how its chips are joined is unknown ({missing[0]}). {_remedy(chip, num_chips, missing[1])}"
        )
    # A switch's rate between two chips is not that of a board of wires.
    peer = link.peer_one_way_bytes_per_s if topology == link.topology else None
    if cluster and given and rate == given:
        peer = cluster.peer_bytes_per_s
    if peer is None and topology == "mesh":
        peer = one_way / (domain - 1)
    part = _equal_parts(num_chips, domain)
    tier = _tier(chip, "scale_up", "scale_up", part, topology, one_way, peer, _wire(link.wire))
    if topology in TORUS_DIMS:
        limit = cluster.torus_shape if cluster else ()
        used = slice_chips(num_chips, TORUS_DIMS[topology], domain, limit)
        dims = slice_shape(used, TORUS_DIMS[topology], limit)
        wrap = wraps(dims, cluster.wrap_multiple if cluster else 1)
        return replace(tier, chips=prod(dims), dims=dims, wrap=wrap, links=_torus_links(one_way, tier, len(dims)))
    return tier


def _torus_links(one_way: float, tier: Tier, num_dims: int) -> tuple[float, ...]:
    """Rate of one link along each dimension: the pair's where the file knows it; the last dimension gets what is left
    of the whole, since some machines join it by thinner links."""
    pair = tier.peer_bytes_per_s if tier.peer_bytes_per_s < one_way else one_way / (2 * num_dims)
    left = (one_way - 2 * (num_dims - 1) * pair) / 2
    return (pair,) * (num_dims - 1) + (min(pair, left) if left > 0 else pair,)


def _outer(chip: Chip, num_chips: int, cluster: Cluster | None, bounded: bool) -> list[Tier]:
    """Scale-out tiers, the smallest domain first."""
    rate = _nic_rate(chip, cluster, bounded)
    wire = chip.scale_out.wire if chip.scale_out else None
    listed = (
        cluster.tiers if cluster and cluster.tiers else (ClusterTier("network", None, None, None, 1.0, None, False),)
    )
    found: list[Tier] = []
    for at in listed:
        rate = at.one_way_bytes_per_s or rate
        where = "links.scale_out.one_way" + (f", as is {_NIC} of {cluster.file}," if bounded and cluster else "")
        rate = _needed(chip, num_chips, rate, where, _NIC) / at.oversubscription
        wire = at.wire or wire
        last = at is listed[-1] and not bounded
        chips = UNLIMITED if last or at.chips is None else at.chips
        role = "scale_up" if chips <= ((cluster.node_chips if cluster else None) or 1) else "scale_out"
        tier = _tier(chip, at.name, role, chips, "switch", rate, None, _wire(wire))
        found.append(replace(tier, in_switch=at.in_network_reduction, latency_s=at.latency_s or tier.latency_s))
        if num_chips <= chips:
            break
    return found


def _nic_rate(chip: Chip, cluster: Cluster | None, bounded: bool) -> float | None:
    """What one chip can send into the network, in bytes per second."""
    own = chip.scale_out.one_way_bytes_per_s if chip.scale_out else None
    other = cluster.nic_bytes_per_s if cluster else None
    return other or own if bounded else own or other


def _tier(
    chip: Chip, name: str, role: str, chips: int, topology: str, one_way: float, peer: float | None, wire: Wire | None
) -> Tier:
    rates = rates_of_chip(chip)
    default = {what: next(row.value for row in rates.default.all(f"collective.{what}") if row.shape == role)
               for what in ("efficiency", "latency", "exchange")} if rates.default else {}  # fmt: skip
    own = next((row.value for row in rates.all("collective.efficiency") if row.shape == role), None)
    known = own or (wire.efficiency if wire else None)
    latency = (wire.latency_s if wire else None) or (wire.hop_latency_s if wire else None) or default["latency"]
    return Tier(
        name=name,
        role=role,
        chips=chips,
        topology=topology,
        one_way_bytes_per_s=one_way,
        peer_bytes_per_s=peer or one_way,
        latency_s=latency,
        hop_latency_s=(wire.hop_latency_s if wire else None) or latency,
        efficiency=known or default["efficiency"],
        efficiency_known=known is not None,
        in_switch=wire is not None and wire.in_network_reduction and role == "scale_up" and topology == "switch",
        in_switch_efficiency=(wire.in_network_efficiency if wire else None) or 1.0,
        exchange_efficiency=default["exchange"],
    )


def _wire(name: str | None) -> Wire | None:
    return load_wire(name) if name else None


def _needed(chip: Chip, num_chips: int, rate: float | None, path: str, field: str) -> float:
    if rate is None:
        raise BadNetwork(
            f"{chip.id}: {path} is unknown, and a job of several chips needs it. {_remedy(chip, num_chips, field)}"
        )
    return rate


def _remedy(chip: Chip, num_chips: int, field: str) -> str:
    """What to try where the chip's file lacks a figure; field: of a cluster's file that can give it, "" for none."""
    add = f"Add the figure with its source to {chip.file}"
    if not field:
        return add
    table, key = field.strip("[").split("] ")
    built = [cluster for cluster in list_clusters() if chip.id in cluster.chips]
    known = [cluster.id for cluster in built if _gives(cluster, table, key)]
    clusters = f"Known clusters of it: {', '.join(known)}. " if known else ""
    usual = [
        one.asked for one in list_clusters()
        if not one.chips and (one.max_chips or num_chips) >= num_chips and _gives(one, table, key)
    ]  # fmt: skip
    say = f"If theirs is as usual, say so: --on {chip.id}:COUNT@NAME with {' or '.join(usual)}. " if usual else ""
    return f"{clusters}{say}{add}, or give a cluster file with {field}: --on {chip.id}:COUNT@FILE.toml"


def _gives(cluster: Cluster, table: str, key: str) -> bool:
    return cluster.raw.get(table, {}).get(key, "unknown") != "unknown" or (
        # A host is joined by what its chips have to it, whatever the links between them are.
        table == "scale_up" and cluster.topology == "none"
    )


def most_chips(cluster: Cluster) -> int | None:
    """As many as a cluster is built of at most; None where it grows."""
    return min(
        (limit for limit in (cluster.max_chips, *(tier.chips for tier in cluster.tiers[-1:])) if limit), default=None
    )


def _check_size(chip: Chip, num_chips: int, cluster: Cluster) -> None:
    largest = most_chips(cluster)
    if largest is None or num_chips <= largest:
        return
    others = [other.id for other in list_clusters() if chip.id in other.chips and (other.max_chips or 0) >= num_chips]
    fits = f"; large enough: {', '.join(others)}" if others else ""
    raise BadNetwork(f"cluster {cluster.id} has at most {largest} chips, {num_chips} are asked for. "
                     f"Try --on {chip.id}:{largest}@{cluster.asked}, or --on {chip.id}:{num_chips} for a network that is as "
                     f"large as needed{fits}")  # fmt: skip
