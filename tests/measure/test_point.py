"""What a timing becomes: values, floors, families; the stopwatch on calls whose time is known."""

import time

import pytest
import torch

from anychip.measure.device import Device
from anychip.measure.point import Point, Timing, value_of
from anychip.measure.stopwatch import Stopwatch


def point(op="gemm", shape="64x64x64 nt", unit="TFLOP/s", amount=0.0, **more):
    return Point(op, "fp32", shape, unit, lambda: lambda: None, amount=amount, **more)


def test_a_rate_is_the_amount_over_the_median_without_the_floor():
    # samples 1, 3, 2 us: median 2 us; less a floor of 1 us: 1 us for 5000 bytes: 5 GB/s
    timing = Timing((1e-6, 3e-6, 2e-6))
    assert value_of(point(unit="GB/s", amount=5000.0), timing, 1e-6) == pytest.approx(5e9)


def test_a_floor_never_takes_more_than_nine_tenths():
    # a call of 2 us with a floor of 5 us: 0.2 us are left
    assert value_of(point(unit="us", calls=1), Timing((2e-6,) * 3), 5e-6) == pytest.approx(0.2e-6)


def test_a_time_is_of_one_of_its_calls():
    assert value_of(point(unit="us", calls=100), Timing((1e-3,) * 3), 0.0) == pytest.approx(10e-6)


def test_spread_is_half_the_middle_range():
    # ordered 8 9 10 11 12: without a quarter (1) on each side 9..11, half of it over 10 = 0.1
    assert Timing((12.0, 8.0, 10.0, 9.0, 11.0)).spread == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("shape", "family"),
    [("64x64x64 nt", "nt"), ("4096", ""), ("4096 strided", "strided"), ("flash d64 causal s128", "flash d64 causal"),
     ("8x16x27 channels_last", "channels_last")],
)  # fmt: skip
def test_points_of_a_family_differ_in_size_only(shape, family):
    assert point(shape=shape).family == ("gemm", "fp32", family)


def test_a_short_call_is_repeated_and_a_long_one_is_sampled_less():
    watch = Stopwatch(Device("cpu"), samples=9, most_s=0.05)
    calls = []
    timing = watch.time(lambda: calls.append(1))
    assert len(timing.samples_s) == 9
    assert len(calls) > 1000
    assert len(watch.time(lambda: time.sleep(0.02)).samples_s) == 3
    # one that takes more than twice the budget is called twice: to warm up and to be timed
    counted = []
    assert len(watch.time(lambda: (time.sleep(0.11), counted.append(1))).samples_s) == 1
    assert len(counted) == 2


def test_the_process_clock_does_not_count_sleep():
    torch.set_num_threads(1)
    assert Stopwatch(Device("cpu"), clock="cpu").once(lambda: time.sleep(0.05)) < 0.04
