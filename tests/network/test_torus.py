"""Tori: shapes, what closes, all-gather and all-to-all."""

import pytest

from anychip.network import Fabric
from anychip.network.geometry import Reach
from anychip.network.ports import torus_rate
from anychip.network.torus import slice_chips, slice_shape, wraps
from anychip.spec import load_chip
from tests.network.nets import GB, fabric, outer, tier

S = 8 * GB


def torus(dims, wrap, link=100 * GB):
    count = 1
    for length in dims:
        count *= length
    return tier(chips=count, topology="torus3d", rate=2 * len(dims) * link, peer=link, dims=dims,
                wrap=tuple(wrap), links=(link,) * len(dims))  # fmt: skip


@pytest.mark.parametrize(
    ("count", "num_dims", "shape"),
    [(256, 2, (16, 16)), (32, 2, (8, 4)), (8, 2, (4, 2)), (4, 2, (2, 2)), (4, 3, (2, 2, 1)), (16, 3, (4, 2, 2)),
     (64, 3, (4, 4, 4)), (128, 3, (8, 4, 4)), (4096, 3, (16, 16, 16)), (8, 1, (8,)), (1, 3, (1, 1, 1))],
)  # fmt: skip
def test_slices_are_as_cubic_as_can_be(count, num_dims, shape):
    assert slice_shape(count, num_dims) == shape


def test_what_does_not_fit_is_cut_into_equal_slices():
    # 8,960 chips of 28 x 20 x 16 at most: two slices of 8,192 have no box that fits, four of 4,096 do
    assert slice_chips(16384, 3, 8960, (28, 20, 16)) == 4096
    assert slice_chips(512, 2, 256, (16, 16)) == 256


def test_what_closes():
    assert wraps((16, 16), 16) == (True, True)
    assert wraps((16, 8), 16) == (True, False)
    assert wraps((4, 4, 2), 4) == (False, False, False)  # not of whole cubes
    assert wraps((8, 4, 4), 4) == (True, True, True)
    assert wraps((4, 4), 1) == (True, True)
    assert wraps((2, 2), 1) == (False, False)  # one link either way


@pytest.mark.parametrize(
    ("dims", "wrap", "peak"),
    # What src/benchmark_collectives.py of AI-Hypercomputer/accelerator-microbenchmarks (9a6567b) prints as the peak of
    # an all-to-all with links of 100 GB/s: 4 * 100 * (product of the shorter dimensions) * (2 if it closes) / chips.
    [((4, 4), False, 100), ((8, 8), False, 50), ((16, 16), True, 50), ((2, 2, 1), False, 200), ((2, 2, 2), False, 200),
     ((4, 4, 2), False, 100), ((4, 4, 4), True, 200), ((8, 4, 4), True, 100)],
)  # fmt: skip
def test_all_to_all_is_cut_in_the_middle(dims, wrap, peak):
    count = 1
    for length in dims:
        count *= length
    net = fabric(torus(dims, [wrap and length > 2 for length in dims]), algorithms=("torus",))
    assert S / net.cost("all_to_all", S, range(count)).time_s == pytest.approx(peak * GB)


def test_a_long_and_a_short_dimension_cut_all_to_all_alike():
    # 16 closed and 8 open: 16/8 = 8/4
    net = fabric(torus((16, 8), (True, False)), algorithms=("torus",))
    assert S / net.cost("all_to_all", S, range(128)).time_s == pytest.approx(50 * GB)


def test_rings_of_all_dimensions_work_at_once():
    # A closed dimension has two links, an open one carries (n-1)/n of the data through one: 63/64 * 8 / 600,
    # 15/16 * 8 / 200
    closed = fabric(torus((4, 4, 4), (True,) * 3), algorithms=("torus",))
    assert closed.cost("all_gather", S, range(64)).time_s == pytest.approx(63 / 64 * 8 / 600)
    opened = fabric(torus((4, 4), (False, False)), algorithms=("torus",))
    assert opened.cost("all_gather", S, range(16)).time_s == pytest.approx(15 / 16 * 8 / 200)


def test_a_group_along_one_dimension_has_its_links_only():
    net = fabric(torus((4, 4, 4), (True,) * 3), algorithms=("torus",))
    # ranks 0-3 lie along the last dimension, 0, 16, 32, 48 along the first: a ring of two links, 3/4 * 8 / 200
    assert net.cost("all_gather", S, range(4)).time_s == pytest.approx(0.03)
    assert net.cost("all_gather", S, range(0, 64, 16)).time_s == pytest.approx(0.03)
    # half of a ring is a line: one link
    assert net.cost("all_gather", S, range(2)).time_s == pytest.approx(1 / 2 * 8 / 100)


def test_groups_that_interleave_share_the_ring():
    # 0, 2, 4, 6 of a ring of 8: the odd ones go round on the same links
    reach = Reach(4, 4, 1, (4,), (2,))
    assert torus_rate(torus((8,), (True,)), reach) == pytest.approx(100 * GB)


def test_messages_share_the_links_on_their_way():
    net = fabric(torus((8,), (True,)), algorithms=("torus",))
    assert net.cost("send", S, (0, 1)).time_s == pytest.approx(0.08)
    assert net.cost("send", S, (0, 3)).time_s == pytest.approx(0.24)  # three of everybody's messages on each link
    assert net.cost("send", S, (0, 7)).time_s == pytest.approx(0.08)  # the other way round


def test_slices_meet_over_the_data_centre_network():
    # 2 slices of 4 x 4: inside 2 * 15/16 * 8 / 400, across 2 * 1/2 * 8/16 / 10
    net = fabric(torus((4, 4), (True, True)), outer(), algorithms=("torus", "hierarchical"))
    assert net.cost("all_reduce", S, range(32)).time_s == pytest.approx(2 * 15 / 16 * 8 / 400 + 0.05)


def test_a_pod_of_tpu_v4_has_the_rates_that_its_maker_prints():
    # https://cloud.google.com/tpu/docs/v4: all-reduce 1.1 PB/s, bisection 24 TB/s for 4,096 chips. 6 links of 45 GB/s
    # each: 1.106 PB/s. Half of the chips send half of their bytes across the cut: 2 * 256 links, 23 TB/s.
    net = Fabric.of(load_chip("tpu-v4"), 4096)
    assert torus_rate(net.tiers[0], net.look(range(4096)).reaches[0]) * 4096 == pytest.approx(1.1e15, rel=0.02)
    cut = fabric(net.tiers[0], num_chips=4096, algorithms=("torus",))
    each = S / cut.cost("all_to_all", S, range(4096)).time_s * net.tiers[0].efficiency ** -1
    assert each * 4096 / 2 / 2 == pytest.approx(24e12, rel=0.06)
