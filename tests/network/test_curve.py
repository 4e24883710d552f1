"""Curves through measured points, and what they lend."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anychip.network import Fabric
from anychip.network.curve import FIRST_S, START_S, Curve, curve_of, pooled, without_excess
from anychip.network.points import bus_factor, chips_with_points, points_of
from anychip.spec import load_chip

# A busy machine is no failure.
CALM = settings(deadline=None)
US = 1e-6


def test_the_largest_message_gives_the_level():
    # 100 us of wire take 125: 0.8 of the rate. The small one needs 10 / 0.8 = 12.5 us at that rate and takes 40.
    curve, level = curve_of([10 * US, 100 * US], [40 * US, 125 * US], 0.0, "x")
    assert level == pytest.approx(0.8)
    assert curve.moving_s == pytest.approx([12.5 * US, 125 * US])
    assert curve.at(12.5 * US, 0.0) == pytest.approx(40 * US)
    # above the last point the rate stays
    assert curve.at(1.0, 0.0) == pytest.approx(1.0)
    # between them a line in the logarithms: the middle of 12.5 and 125 takes the middle of 40 and 125
    assert curve.at(12.5 * math.sqrt(10) * US, 0.0) == pytest.approx(math.sqrt(40 * 125) * US)
    # below the first its overhead of 27.5 us stays
    assert curve.at(1 * US, 0.0) == pytest.approx(28.5 * US)


def test_a_smaller_message_never_takes_longer_than_a_larger():
    # 32 bytes that took 68 us when 64 took 15: the 15 stand.
    curve, _ = curve_of([1 * US, 2 * US, 1000 * US], [68 * US, 15 * US, 1000 * US], 0.0, "x")
    assert curve.time_s[0] == pytest.approx(15 * US)


def test_more_steps_add_their_latency_and_fewer_leave_out_their_share():
    curve = Curve((1 * US, 1.0), (51 * US, 1.0), 20 * US)
    assert curve.at(1 * US, 30 * US) == pytest.approx(61 * US)
    # 50 us of overhead, START_S of them whatever the steps; half of the steps cost half of the rest
    assert curve.at(1 * US, 10 * US) == pytest.approx(51 * US - (50 * US - START_S) / 2)
    assert curve.at(1 * US, 0.0) == pytest.approx(1 * US + START_S)


@CALM
@given(st.lists(st.tuples(st.floats(1e-7, 1.0), st.floats(1.0, 50.0)), min_size=2, max_size=20, unique_by=lambda p: p[0]),
       st.floats(1e-8, 10), st.floats(1e-8, 10), st.floats(0, 1e-3), st.floats(0, 1e-3))  # fmt: skip
def test_any_points_give_a_curve_that_never_falls(points, one, other, latency, measured_latency):
    wire = sorted(x for x, _ in points)
    times = [x * factor for x, (_, factor) in zip(wire, points, strict=True)]
    curve, level = curve_of(wire, times, measured_latency, "x")
    low, high = sorted((one, other))
    assert curve.at(low, latency) <= curve.at(high, latency) * (1 + 1e-9)
    assert curve.at(low, latency) >= max(low * (1 - 1e-9), latency)
    assert 0 < level <= 1


def test_a_pool_is_the_middle_of_its_curves():
    three = [Curve((1 * US, 1.0), (x * US, 1.0), x * US, (f"c{x}",)) for x in (20, 50, 90)]
    pool = pooled(three)
    assert pool.at(1 * US, 50 * US) == pytest.approx(50 * US)
    assert pool.chips == ("c20", "c50", "c90")
    assert not pool.own


def test_what_one_network_takes_to_begin_is_not_lent():
    # 120 us for nothing, of which FIRST_S and 20 us of steps are anybody's; the largest message stays as it is
    curve = Curve((0.01 * US, 1.0), (120.01 * US, 1.0), 20 * US)
    lent = without_excess(curve)
    assert lent.time_s[0] == pytest.approx(0.01 * US + FIRST_S + 20 * US)
    assert lent.time_s[1] == 1.0
    quick = Curve((1 * US, 1.0), (10 * US, 1.0), 20 * US)
    assert without_excess(quick) == quick


def test_bandwidths_become_times_as_nccl_tests_define_them():
    # 8 ranks, 7 GB of all-reduce at a bus bandwidth of 1.75 * 100: 0.07 s
    assert bus_factor("all_reduce", 8) == 1.75
    assert bus_factor("all_gather", 8) == bus_factor("all_to_all", 8) == 0.875
    assert bus_factor("broadcast", 8) == 1.0
    hccl = points_of("huawei-ascend-910b2")
    assert hccl[0].time_s == pytest.approx(8e9 / 18e9)  # algorithm bandwidth
    a100 = points_of("nvidia-a100-sxm-80gb")
    assert a100[0].time_s == pytest.approx(43.83 * US)  # 32 KiB, as printed


def test_a_chip_meets_its_own_points():
    # The curve goes through them: 1 GiB on 8 H100 took 4029.4 us, 8 A100 8203.9 us.
    for name, took_us in (("h100", 4029.4), ("a100", 8203.9)):
        cost = Fabric.of(load_chip(name), 8).cost("all_reduce", 2**30, range(8))
        assert cost.time_s == pytest.approx(took_us * US, rel=1e-3)
        assert cost.evidence == "interpolated"


def test_a_chip_without_points_says_that_it_is_modelled():
    assert "nvidia-h20" not in chips_with_points()
    assert Fabric.of(load_chip("h20"), 8).cost("all_reduce", 2**30, range(8)).evidence == "modelled"


def test_what_was_measured_in_one_cluster_is_a_shape_in_another():
    # The two-node curve of H100 is of GPUDirect-TCPXO; InfiniBand has its own level.
    chip = load_chip("h100")
    there, here = (Fabric.of(chip, 16, cluster) for cluster in ("gcp-a3-mega", "dgx-h100"))
    assert there.cost("all_reduce", 2**33, range(16)).evidence == "interpolated"
    assert here.cost("all_reduce", 2**33, range(16)).evidence == "modelled"


def test_points_of_ones_own():
    chip = load_chip("h20")
    points = points_of("nvidia-h100-sxm")
    assert Fabric.of(chip, 8, points=points).cost("all_reduce", 2**30, range(8)).evidence == "interpolated"
