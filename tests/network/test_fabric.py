"""A fabric as a whole: laws that hold for any sizes, networks of the standard's files, bad input."""

import random
import time as clock
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anychip.errors import BadNetwork, UnknownCluster
from anychip.network import KINDS, Fabric
from anychip.network.algorithms import ALGORITHMS
from anychip.spec import list_chips, load_chip, load_cluster
from tests.network.nets import GB, fabric, outer, tier

ISLANDS = Path(__file__).resolve().parents[2] / "examples" / "clusters" / "islands-8x1024-h100.toml"
NETS = {
    name: Fabric.of(load_chip(name), 64) for name in ("h100", "mi300x", "tpu-v5p", "ascend-910b2", "trn2", "gaudi3")
}
# A busy machine is no failure.
CALM = settings(deadline=None)
nets = st.sampled_from(sorted(NETS)).map(NETS.__getitem__)
kinds = st.sampled_from([kind for kind in KINDS if kind != "barrier"])
sizes = st.integers(1, 1 << 36)


def ranks_of(kind, picked):
    return picked[:2] if kind in ("send", "recv") else picked


groups = st.lists(st.integers(0, 63), min_size=2, max_size=64, unique=True)


@CALM
@given(nets, kinds, groups, sizes, sizes)
def test_more_bytes_never_take_less_time(net, kind, picked, one, other):
    ranks = ranks_of(kind, picked)
    low, high = sorted((one, other))
    assert net.cost(kind, low, ranks).time_s <= net.cost(kind, high, ranks).time_s * (1 + 1e-12)


@settings(CALM, max_examples=40)
@given(st.sampled_from(["h100", "mi300x", "tpu-v5p", "ascend-910b2"]), st.sampled_from(["scale_up", "scale_out"]), kinds,
       groups, sizes, st.floats(1.0, 100.0))  # fmt: skip
def test_more_bandwidth_is_never_slower(name, role, kind, picked, nbytes, times):
    chip, ranks = load_chip(name), ranks_of(kind, picked)
    rates = [f"links.{role}.{rate}" for rate in ("one_way", "peer_one_way") if chip.get(f"links.{role}.{rate}")]
    faster = chip.with_figures({rate: chip.need(rate) * times for rate in rates})
    before = Fabric.of(chip, 64).cost(kind, nbytes, ranks).time_s
    assert Fabric.of(faster, 64).cost(kind, nbytes, ranks).time_s <= before * (1 + 1e-9)


def test_twice_the_bandwidth_halves_a_large_message():
    # What was measured belongs to the chip as it is, not to the one of a "what if".
    chip = load_chip("h100")
    faster = chip.with_figures({"links.scale_up.one_way": 2 * chip.need("links.scale_up.one_way")})
    before, after = (Fabric.of(c, 8).cost("all_gather", 64 * GB, range(8)).time_s for c in (chip, faster))
    assert after == pytest.approx(before / 2, rel=0.02)


@CALM
@given(nets, kinds, st.integers(0, 8), sizes, st.randoms())
def test_which_ranks_of_a_switched_or_meshed_node_makes_no_difference(net, kind, start, nbytes, rng):
    if net.tiers[0].dims:
        return  # on a torus it does
    node = list(range(8))
    rng.shuffle(node)
    count = 2 if kind in ("send", "recv") else rng.randint(2, 8)
    assert net.cost(kind, nbytes, node[:count]) == net.cost(kind, nbytes, tuple(range(count)))


@CALM
@given(nets, kinds, st.integers(0, 63), sizes)
def test_a_group_of_one_costs_nothing(net, kind, rank, nbytes):
    assert net.cost(kind, nbytes, (rank,)).time_s == 0


def test_a_barrier_takes_the_time_of_its_steps():
    net = NETS["h100"]
    assert net.cost("barrier", 0, range(64)).time_s == net.cost("all_reduce", 8, range(64)).time_s > 0


def test_the_order_of_ranks_and_the_kind_of_sequence_make_no_difference():
    net = NETS["h100"]
    shuffled = random.Random(0).sample(range(64), 64)
    costs = {net.cost("all_reduce", GB, ranks) for ranks in (range(64), shuffled, tuple(shuffled), np.arange(64))}
    assert len(costs) == 1


def test_placement_moves_ranks():
    # 16 ranks alternating between two nodes: neighbours are apart
    spread = np.arange(16).reshape(2, 8).T.reshape(-1)
    near, far = (fabric(tier(), outer(), num_chips=16, placement=place) for place in (None, spread))
    assert near.cost("all_reduce", GB, (0, 1)).tier == "node"
    assert far.cost("all_reduce", GB, (0, 1)).tier == "network"
    chip = load_chip("h100")
    with pytest.raises(BadNetwork, match="chips 0 to 7 once"):
        Fabric.of(chip, 8, placement=[0] * 8)
    assert Fabric.of(chip, 16, placement=spread.tolist()).cost("send", GB, (0, 1)).tier == "network"


def test_sixteen_thousand_ranks_are_looked_at_once():
    net = Fabric.of(load_chip("h100"), 16384)
    ranks = tuple(range(16384))
    net.cost("all_reduce", GB, ranks)
    took = []
    for turn in range(3):
        start = clock.process_time()
        for nbytes in range(1000 * turn, 1000 * (turn + 1)):
            net.cost("all_reduce", nbytes, ranks)
        took.append(clock.process_time() - start)
    # 1,000 prices of fresh sizes: some 20 us each here; a loop over the ranks would take a millisecond
    assert min(took) < 0.3
    assert len(net._looks) == 1


def test_degraded():
    net = fabric(tier(), outer())
    worn = net.degraded("network", 0.5)
    assert worn.cost("all_reduce", GB, range(16)).time_s == pytest.approx(
        2 * net.cost("all_reduce", GB, range(16)).time_s
    )
    assert worn.cost("all_reduce", GB, range(8)) == net.cost("all_reduce", GB, range(8))
    with pytest.raises(BadNetwork, match="tiers here are node, network"):
        net.degraded("spine", 0.5)


def test_islands_cost_what_leaves_them():
    chip = load_chip("h100")
    one, eight = Fabric.of(chip, 8192), Fabric.of(chip, 8192, ISLANDS)
    assert [t.name for t in eight.tiers] == ["scale_up", "island", "between"]
    # Inside an island the two are the same network.
    inside = [net.cost("all_gather", GB, range(1024)).time_s for net in (one, eight)]
    assert inside[0] == pytest.approx(inside[1], rel=0.1)
    # A group with one rank in each island has 12.5 Gbit/s: 2 * 7/8 * 1 GB / 1.5625 GB/s / efficiency, at least 1.1 s;
    # on one fabric 400 Gbit/s, 32 times as fast.
    ranks = range(0, 8192, 1024)
    apart = eight.cost("all_reduce", GB, ranks)
    assert apart.tier == "between"
    assert apart.time_s > 1.1
    assert apart.time_s / one.cost("all_reduce", GB, ranks).time_s == pytest.approx(32, rel=0.1)
    # Everybody at once: a ring leaves an island by 1,024 chips' worth of wires.
    assert eight.cost("all_reduce", GB, range(8192)).time_s < 0.1


def test_pods_of_a_cluster_file():
    llama = Fabric.of(load_chip("h100"), 16384, "llama3")
    assert [(t.name, t.chips) for t in llama.tiers] == [("scale_up", 8), ("pod", 3072), ("aggregation", 24576)]
    assert llama.tiers[2].one_way_bytes_per_s == pytest.approx(50e9 / 7)


def test_racks_are_shared_out_in_equal_parts():
    assert Fabric.of(load_chip("gb200"), 16384).tiers[0].chips == 64
    assert Fabric.of(load_chip("gb200"), 144).tiers[0].chips == 72
    assert Fabric.of(load_chip("gb200"), 72).tiers[0].chips == 72


def test_every_chip_has_a_fabric_or_says_what_is_missing():
    costs, refusals = [], []
    for entry in list_chips():
        try:
            net = Fabric.of(load_chip(entry.id), 64)
        except BadNetwork as error:
            refusals.append(str(error))
            continue
        costs += [net.cost(kind, GB, range(64)).time_s for kind in ("all_reduce", "all_to_all", "all_gather")]
    assert len(costs) >= 3 * 40
    assert min(costs) > 0
    assert [text for text in refusals if "unknown" not in text or ".toml" not in text] == []


def test_one_chip_needs_no_network():
    assert Fabric.of(load_chip("l40s"), 1).cost("all_reduce", GB, (0,)).time_s == 0


def test_chips_without_a_link_of_their_own_meet_across_their_host():
    host = Fabric.of(load_chip("l40s"), 8)
    assert [(tier.name, tier.chips, tier.one_way_bytes_per_s) for tier in host.tiers] == [("host", 8, 31 * GB)]
    assert host.assumptions == (
        "nvidia-l40s: its chips have no link of their own; 8 of one host are taken to meet across its PCIe, at 31 GB/s each.",
    )
    with pytest.raises(BadNetwork, match="--on nvidia-l40s:COUNT@NAME with ethernet-100-pod or "):
        Fabric.of(load_chip("l40s"), 64)
    pod = Fabric.of(load_chip("l40s"), 64, "ethernet-200")
    assert [(tier.name, tier.chips) for tier in pod.tiers] == [("host", 8), ("network", 1 << 40)]
    # What the user said is no assumption, and a link that nobody knows may be left aside.
    assert pod.assumptions == ()
    assert [tier.name for tier in Fabric.of(load_chip("metax-c550"), 8, "pcie-host").tiers] == ["host"]


def test_a_cluster_that_is_built_of_other_chips_is_told():
    """It was taken silently; that a chip of another maker stands there is the user's assumption."""
    (told,) = Fabric.of(load_chip("mi300x"), 64, "llama3").assumptions
    assert told.startswith("amd-mi300x: cluster meta-24k-roce is built of nvidia-h100-sxm; ")
    assert Fabric.of(load_chip("h100"), 64, "llama3").assumptions == ()
    # Its own file says that it is built as that cluster is, asked for or not; others are built of any chip.
    for asked in (None, "dgx-h100", "ethernet-400"):
        assert Fabric.of(load_chip("h20"), 64, asked).assumptions == ()


def test_two_boards_of_one_node_are_no_tree():
    node = Fabric.of(load_chip("a100"), 384, "jean-zay")
    # Four rings cross from board to board, each over one chip's PCIe: 2(n-1)/n S/4 over 31 GB/s.
    found = node.cost("all_reduce", GB, range(8))
    assert found.algorithm == "ring"
    assert found.time_s > 2 * 7 / 8 / 4 / 31
    assert node.cost("all_reduce", GB, range(16)).tier == "network"


@pytest.mark.parametrize("cluster", [None, "bridge-host"])
def test_a_bridge_joins_two_cards_and_the_host_joins_the_pairs(cluster):
    # No switch, so nothing adds up on the way, whatever NVLink 4 can do elsewhere.
    cards = Fabric.of(load_chip("h100-nvl"), 4, cluster)
    found = [(tier.name, tier.chips, tier.one_way_bytes_per_s, tier.in_switch) for tier in cards.tiers]
    assert found == [("scale_up", 2, 300 * GB, False), ("host", 8, 63 * GB, False)]
    assert [tier.name for tier in Fabric.of(load_chip("h100-nvl"), 4, "pcie-host").tiers] == ["host"]


@pytest.mark.parametrize("cluster", [None, "frontier-gcd"])
def test_a_tier_inside_a_node_takes_the_hosts_place(cluster):
    # Two dies of a package: 4 links of 50 GB/s; dies of other packages: 3; 4 network cards of 25 GB/s for 8 dies.
    node = Fabric.of(load_chip("mi250x-gcd"), 16, cluster)
    found = [(tier.name, tier.role, tier.one_way_bytes_per_s) for tier in node.tiers]
    assert found == [
        ("scale_up", "scale_up", 200 * GB),
        ("node", "scale_up", 150 * GB),
        ("network", "scale_out", 12.5 * GB),
    ]
    assert [tier.chips for tier in node.tiers][:2] == [2, 8]


def test_a_cluster_that_is_too_small_says_what_to_try():
    with pytest.raises(BadNetwork) as error:
        Fabric.of(load_chip("h100"), 16384, "dgx-h100")
    text = str(error.value)
    assert "at most 1016 chips, 16384 are asked for" in text
    assert "--on nvidia-h100-sxm:1016@nvidia-dgx-h100-superpod" in text
    assert "meta-24k-roce" in text
    # A cluster that was given as a file is suggested as that file.
    with pytest.raises(BadNetwork, match=r"--on nvidia-h100-sxm:8192@\S*islands-8x1024-h100\.toml"):
        Fabric.of(load_chip("h100"), 16384, ISLANDS)


def test_a_link_without_figures_says_which_and_what_to_try():
    with pytest.raises(BadNetwork, match=r"links\.scale_out\.one_way.* unknown"):
        Fabric.of(load_chip("biren-br100"), 64)
    with pytest.raises(BadNetwork, match=r"scale_up.*unknown.*\[scale_up\] one_way_per_chip: --on \S*@FILE\.toml"):
        Fabric.of(load_chip("metax-c550"), 8)
    with pytest.raises(BadNetwork, match=r"scale_out\.one_way, as is \[scale_out\] one_way_per_chip of \S*groq-rack"):
        Fabric.of(load_chip("groq-lpu-v1"), 1024, "groq-rack")


def test_a_cluster_file_can_give_what_the_chips_file_lacks(tmp_path):
    file = tmp_path / "guess.toml"
    figure = '{ value = %d, unit = "%s", src = "me" }'
    file.write_text(
        'schema_version = 1\nid = "guess"\nname = "A guess"\nchips = ["metax-c550"]\n'
        '[sources.me]\ntitle = "a guess"\nkind = "estimated"\ndate = "2026-11-26"\n'
        f'[scale_up]\ndomain_chips = {figure % (8, "count")}\ntopology = "mesh"\n'
        f"one_way_per_chip = {figure % (210, 'GB/s')}\n[scale_out]\none_way_per_chip = {figure % (200, 'Gbit/s')}\n"
    )
    node, network = Fabric.of(load_chip("metax-c550"), 64, file).tiers
    assert (node.one_way_bytes_per_s, node.peer_bytes_per_s, node.topology) == (210e9, 30e9, "mesh")  # seven peers
    assert network.one_way_bytes_per_s == 25e9


@pytest.mark.parametrize(
    ("chip", "cluster"), [("a100", "perlmutter"), ("a100", "jean-zay"), ("gh200", "alps"), ("gh200", None)]
)
def test_on_a_board_without_a_switch_two_chips_have_their_own_wires_alone(chip, cluster):
    board = Fabric.of(load_chip(chip), 64, cluster).tiers[0]
    assert (board.chips, board.topology) == (4, "mesh")
    assert board.peer_bytes_per_s == board.one_way_bytes_per_s / 3
    assert Fabric.of(load_chip("a100"), 64).tiers[0].peer_bytes_per_s == 300e9  # a switch gives all to one


def test_a_rack_of_gb300_is_its_own_cluster():
    found = Fabric.of(load_chip("gb300"), 144)
    assert found.cluster.id == "nvidia-gb300-nvl72-rack"
    assert next(tier.chips for tier in found.tiers) == 72
    assert found.cluster.node_chips == 4


def test_unknown_clusters_ranks_and_kinds():
    chip = load_chip("h100")
    with pytest.raises(UnknownCluster, match="Did you mean 'dgx-h100'"):
        Fabric.of(chip, 8, "dgxh100")
    with pytest.raises(BadNetwork, match="rank 8, but there are 8 chips"):
        Fabric.of(chip, 8).cost("all_reduce", 1, (0, 8))
    with pytest.raises(ValueError, match="no such collective"):
        Fabric.of(chip, 8).cost("allreduce", 1, (0, 1))


def test_libraries_have_their_own_algorithms():
    used = {
        name: {NETS[name].cost("all_reduce", 1 << size, range(64)).algorithm for size in range(36)} for name in NETS
    }
    assert used["h100"] <= {"ring", "tree", "in_switch"}
    assert used["tpu-v5p"] == {"torus"}
    assert "pipeline" in used["ascend-910b2"]
    assert "in_switch" not in used["mi300x"]
    assert set().union(*used.values()) <= set(ALGORITHMS)


def test_cores_that_a_collective_occupies_are_the_chips_own():
    assert NETS["h100"].cost("all_gather", GB, range(64)).cores == 16
    assert NETS["tpu-v5p"].cost("all_gather", GB, range(64)).cores == 0


def test_a_cluster_value_works_as_well_as_its_name():
    chip = load_chip("h100")
    by_name, by_value = (Fabric.of(chip, 64, cluster) for cluster in ("dgx-h100", load_cluster("dgx-h100")))
    assert by_name.tiers == by_value.tiers


def test_a_cluster_that_is_not_built_so_large_is_told():
    """The report named it beside the count, and the pair was refused as a target."""
    (told,) = Fabric.of(load_chip("h100"), 16384).assumptions
    assert told.startswith("cluster nvidia-dgx-h100-superpod has 1,016 chips at most; 16,384 are taken")
    assert Fabric.of(load_chip("h100"), 1016).assumptions == ()
