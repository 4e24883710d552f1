"""Closed forms, each worked by hand: S bytes among n ranks."""

import pytest

from anychip.network.algorithms import ALGORITHMS, algorithm
from tests.network.nets import GB, US, fabric, outer, tier

S = 8 * GB


def time(net, kind, ranks, nbytes=S):
    return net.cost(kind, nbytes, ranks).time_s


def test_ring_all_reduce_sends_twice_n_minus_one_nths():
    # 2 * 7/8 * 8 GB / 100 GB/s = 0.14 s; 14 steps of 1 us
    net = fabric(tier(latency=US))
    assert time(net, "all_reduce", range(8)) == pytest.approx(0.14 + 14 * US)
    # 7/8 * 8 GB / 100 GB/s = 0.07 s; 7 steps
    assert time(net, "all_gather", range(8)) == pytest.approx(0.07 + 7 * US)
    assert time(net, "reduce_scatter", range(8)) == pytest.approx(0.07 + 7 * US)


def test_a_ring_over_nodes_is_as_slow_as_the_cards_that_carry_it():
    # 2 * 15/16 * 8 GB = 15 GB go along every edge. Inside 15 / 100 = 0.15 s; eight rings leave the node by eight cards:
    # 15 / 8 / 10 = 0.1875 s.
    net = fabric(tier(), outer())
    assert time(net, "all_reduce", range(16)) == pytest.approx(0.1875)
    # One rank a node has one card: 2 * 1/2 * 8 GB / 10 = 0.8 s, though its seven neighbours' groups run as well.
    assert time(net, "all_reduce", range(0, 16, 8)) == pytest.approx(0.8)


def test_steps_of_a_ring_over_nodes():
    # 2 * 15 rounds; of 16 edges 14 lie in a node and 2 between: 30 * (14/16 * 1 + 2/16 * 5) us = 45 us
    net = fabric(tier(latency=US), outer(latency=5 * US))
    assert time(net, "all_reduce", range(16), 8) == pytest.approx(45 * US, rel=0.01)


def test_hierarchical_sends_a_share_across():
    # Inside 2 * 7/8 * 8 GB / 100 = 0.14 s, across 2 * 1/2 * 1 GB / 10 = 0.1 s, one after the other.
    net = fabric(tier(), outer(), algorithms=("hierarchical",))
    assert time(net, "all_reduce", range(16)) == pytest.approx(0.24)
    # In pieces, all wires busy at once: the slower of both.
    assert time(fabric(tier(), outer(), algorithms=("pipeline",)), "all_reduce", range(16)) == pytest.approx(0.14)


def test_three_tiers():
    # 4 nodes in 2 pods. Cards: 2 * 3/4 * 1 GB / 10 = 0.15 s. Out of a pod of 16 with 16 ranks: 2 * 1/2 * 8/16 GB / 1
    # GB/s = 0.5 s. Inside 0.14 s.
    net = fabric(tier(), outer("pod", 16), outer("core", rate=GB), algorithms=("hierarchical",))
    assert time(net, "all_reduce", range(32)) == pytest.approx(0.14 + 0.15 + 0.5)
    cost = net.cost("all_reduce", S, range(32))
    assert (cost.tier, cost.algorithm, cost.limit) == ("core", "hierarchical", "bandwidth")


def test_two_trees():
    # Two nodes: each sends its 8 GB once, by eight cards: 0.1 s. Four: the busiest sends 2S, at 0.85 of the rate that a
    # chain reaches: 0.2 / 0.85 s.
    net = fabric(tier(rate=1000 * GB), outer(), algorithms=("tree",))
    assert time(net, "all_reduce", range(16)) == pytest.approx(0.1)
    assert time(net, "all_reduce", range(32)) == pytest.approx(0.2 / 0.85)
    assert time(net, "broadcast", range(32)) == pytest.approx(0.1 / 0.85)


def test_a_tree_takes_as_many_steps_as_the_logarithm():
    # 1,024 nodes: 2 * (7 * 0 + 10 * 5 us) = 100 us; the ring 2 * 8191 / 8192 * 1024 * 5 us = 10 ms
    net = fabric(tier(), outer(latency=5 * US), num_chips=8192, algorithms=("ring", "tree"))
    cost = net.cost("all_reduce", 8, range(8192))
    assert cost.algorithm == "tree"
    assert cost.time_s == pytest.approx(100 * US, rel=0.01)
    assert cost.limit == "latency"


def test_halving_and_doubling_wants_powers_of_two():
    # 2 * 3 steps of 1 us and 0.14 s
    net = fabric(tier(latency=US), algorithms=("halving_doubling",))
    assert time(net, "all_reduce", range(8)) == pytest.approx(0.14 + 6 * US)
    # Six ranks cannot: what a library has for them instead is any that can.
    assert net.cost("all_reduce", S, range(6)).algorithm != "halving_doubling"


def test_in_switch_reduction_passes_the_wire_rate():
    # A rank sends 8 GB to be added and 1 GB to be copied: 0.09 s. As a bus bandwidth 2 * 7/8 * 8 / 0.09 = 155.6 GB/s
    # over wires of 100.
    net = fabric(tier(in_switch=True), algorithms=("ring", "in_switch"))
    cost = net.cost("all_reduce", S, range(8))
    assert cost.algorithm == "in_switch"
    assert cost.time_s == pytest.approx(0.09)
    # Only all-reduce, and not for two.
    assert net.cost("all_gather", S, range(8)).algorithm == "ring"
    assert net.cost("all_reduce", S, range(2)).algorithm == "ring"
    # Across four nodes trees of the parts, 2 * 1 GB / 10 / 0.85; once where those switches add up as well.
    net = fabric(tier(in_switch=True), outer(), algorithms=("in_switch",))
    assert time(net, "all_reduce", range(32)) == pytest.approx(0.2 / 0.85)
    assert time(net, "all_reduce", range(16)) == pytest.approx(0.1)
    both = fabric(tier(in_switch=True), outer(in_switch=True), algorithms=("in_switch",))
    assert time(both, "all_reduce", range(32)) == pytest.approx(0.1)


def mesh(**more):
    return tier(topology="mesh", rate=70 * GB, peer=10 * GB, **more)


def test_a_mesh_has_one_wire_for_each_peer():
    # Two ranks share one wire of 10: 2 * 1/2 * 8 / 10 = 0.8 s. Eight have seven: 2 * 7/8 * 8 / 70 = 0.2 s, four times
    # as fast. Four: 2 * 3/4 * 8 / 30 = 0.4 s.
    net = fabric(mesh(), algorithms=("direct",))
    assert [time(net, "all_reduce", range(n)) for n in (2, 4, 8)] == pytest.approx([0.8, 0.4, 0.2])
    # The pairs that a group is made of do not matter.
    assert time(net, "all_reduce", (1, 6)) == pytest.approx(0.8)


def test_all_to_all_over_a_switch_a_mesh_and_nodes():
    # 7/8 of 8 GB leave a rank: 7 / 100, 7 / 70
    assert time(fabric(tier()), "all_to_all", range(8)) == pytest.approx(0.07)
    assert time(fabric(mesh()), "all_to_all", range(8)) == pytest.approx(0.1)
    # Of 16 ranks, 8 are elsewhere: 4 GB / 10 = 0.4 s by the rank's own card
    assert time(fabric(tier(), outer()), "all_to_all", range(16)) == pytest.approx(0.4)


def test_messages_between_two_ranks():
    net = fabric(mesh(latency=US), outer(latency=5 * US))
    assert time(net, "send", (0, 1)) == pytest.approx(0.8 + US)  # one wire of 10
    assert time(net, "recv", (7, 8)) == pytest.approx(0.8 + 5 * US)  # one card of 10
    assert net.cost("send", S, (7, 8)).tier == "network"


def test_gather_and_scatter_fill_the_roots_wires():
    # Seven pieces of 1 GB arrive at one rank
    assert time(fabric(tier()), "gather", range(8), GB) == pytest.approx(0.07)
    # and eight more through its card
    assert time(fabric(tier(), outer()), "scatter", range(16), GB) == pytest.approx(0.8)


def test_broadcast_is_a_chain_of_pieces():
    assert time(fabric(tier()), "broadcast", range(8)) == pytest.approx(0.08)


def test_bytes_of_a_step_of_sharded_data_parallelism():
    # ZeRO-3 (Rajbhandari et al. 2020, section 7): parameters are gathered for forward and for backward and gradients
    # scattered once: 3 * (n-1)/n of the parameters' bytes. 16 GB over 16 ranks: 15 * 3 / 8 cards / 10 = 0.5625 s
    net = fabric(tier(), outer())
    step = 2 * time(net, "all_gather", range(16), 16 * GB) + time(net, "reduce_scatter", range(16), 16 * GB)
    assert step == pytest.approx(0.5625)


def test_what_passes_memory():
    # all-reduce: reduce-scatter reads both terms and writes (3), all-gather reads and writes (2)
    net = fabric(tier())
    assert net.cost("all_reduce", S, range(8)).memory_bytes == 5 * S
    assert net.cost("all_gather", S, range(8)).memory_bytes == 2 * S


def test_algorithms_have_one_name_and_a_source_each():
    with pytest.raises(AssertionError, match="two algorithms"):
        algorithm("ring")(lambda *_: None)
    for name, function in ALGORITHMS.items():
        assert any(word in function.__doc__ for word in ("20", "19", "user guide", "root's own")), name
