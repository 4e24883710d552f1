"""Chips whose ops run in the thread that calls them, by measured points: sums by hand on a made-up CPU."""

import pytest

from anychip.cost.machine import build
from anychip.cost.points import SizeCurve, plain, strided
from anychip.cost.price import as_called, host_work_s, price_call
from anychip.cost.rates import COLUMNS, Rates, defaults, parse
from anychip.cost.work import layout, work
from anychip.record import Op
from anychip.spec import load_chip
from tests.cost.ops import mm, op, t

ROWS = """\
kernel.floor,,,1,us
host.op,,,10,us
gemm.sustained,,,1,ratio
gemm.overhead,fp32,,1,us
gemm.k0,fp32,,1,elements
gemm,fp32,64x64x64 nn,0.01,TFLOP/s
gemm,fp32,64x64x64 nt,0.002,TFLOP/s
gemm,fp32,1x1024x1024 nt,0.004,TFLOP/s
conv,fp32,64x64x64,0.008,TFLOP/s
conv,fp32,64x64x64 channels_last,0.012,TFLOP/s
memory.copy,,1000,20,GB/s
memory.copy,,1000000,20,GB/s
memory.copy,,100000000,10,GB/s
aten.mul,fp32,12000,12,GB/s
aten.mul,fp32,12000000,6,GB/s
aten.exp,fp32,8000000,2,GB/s
aten.clone,fp32,8000000,8,GB/s
aten.clone,fp32,8000000 strided,1,GB/s
"""


@pytest.fixture(scope="module")
def cpu():
    lines = [f"{line},measured,,,a test," for line in ROWS.splitlines()]
    return build(load_chip("generic-cpu"), Rates(parse("\n".join([",".join(COLUMNS), *lines]), "test"), defaults()))


def vector(name, n, dtype="float32", inputs=2):
    x = t(n, dtype=dtype)
    return op(f"aten.{name}.Tensor", *[x] * inputs, out=x)


def test_a_measured_op_takes_its_bytes_at_its_rate(cpu):
    # 1,000 elements: 2 read, 1 written, 4 bytes: 12,000 bytes at 12 GB/s are 1 us, after a call of 1 us
    cost = price_call(vector("mul", 1000), cpu)
    assert (cost.time_s, cost.evidence) == (pytest.approx(2e-6), "measured")


def test_between_sizes_the_rate_goes_with_the_log_of_the_size(cpu):
    # 120,000 bytes are a third of the way from 12e3 to 12e6 in powers of ten: 12 - 6/3 = 10 GB/s, 12 us
    cost = price_call(vector("mul", 10_000), cpu)
    assert (cost.body_s, cost.evidence) == (pytest.approx(12e-6), "interpolated")


def test_smaller_than_measured_takes_as_long_and_larger_the_same_rate():
    curve = SizeCurve(((1e3, 1e9), (1e6, 2e9)))
    assert 10 / curve.at(10) == pytest.approx(1e-6)
    assert 1e9 / curve.at(1e9) == pytest.approx(0.5)


def test_what_was_not_measured_takes_one_like_it(cpu):
    # tanh is a function, as exp: 8e6 bytes at 2 GB/s; sub is arithmetic, as mul: 12e6 bytes at 6 GB/s
    assert price_call(vector("tanh", 10**6, inputs=1), cpu).body_s == pytest.approx(4e-3)
    cost = price_call(vector("sub", 10**6), cpu)
    assert (cost.body_s, cost.evidence) == (pytest.approx(2e-3), "modelled")


def test_nothing_like_it_was_measured_copies_by_size_stand_in(cpu):
    # a softmax of 125,000 elements reads and writes 1e6 bytes: at the copy's 20 GB/s
    x = t(125, 1000, dtype="float32")
    assert price_call(op("aten._softmax.default", x, 1, False, out=x), cpu).body_s == pytest.approx(50e-6)


def test_a_transpose_is_told_from_a_copy(cpu):
    # [1000, 1000] fp32: 8e6 bytes; rows onto rows at 8 GB/s, columns onto rows at 1 GB/s
    target = t(1000, 1000, dtype="float32")
    for source, seconds in ((target, 1e-3), (t(1000, 1000, dtype="float32", stride=[1, 1000]), 8e-3)):
        call = op("aten.clone.default", source, out=target)
        assert strided(call) == (seconds > 1e-3)
        assert price_call(call, cpu).body_s == pytest.approx(seconds)


def test_products_keep_apart_how_their_operands_lie(cpu):
    # 2*64^3 flop at 10 or 2 GFLOP/s, the measured times; pricing takes the overhead off and puts it on again
    wide = t(64, 64, dtype="float32", stride=[1, 64])
    plain_mm = mm(64, 64, 64, dtype="float32")
    turned = op("aten.mm.default", plain_mm.args[0], wide, out=plain_mm.outputs[0])
    assert (layout(*plain_mm.args), layout(*turned.args)) == ("nn", "nt")
    assert price_call(plain_mm, cpu).time_s == pytest.approx(2 * 64**3 / 10e9, rel=0.01)
    assert price_call(turned, cpu).time_s == pytest.approx(2 * 64**3 / 2e9, rel=0.01)


def test_beyond_the_points_the_nearest_decides(cpu):
    # one row, eight times as wide as measured: the rate of the one-row point, not of the cube
    seconds, evidence = cpu.gemm("fp32", "nt").time_s(1, 1, 8192, 1024)
    assert 2 * 8192 * 1024 / seconds == pytest.approx(4e9, rel=0.1)
    assert evidence == "modelled"


def test_tf32_is_computed_as_what_the_chip_has(cpu):
    assert cpu.gemm("tf32", "nt").points == cpu.gemm("fp32", "nt").points


def test_convolutions_take_their_own_points(cpu):
    # 1x1 over [1, 64, 8, 8]: 64 positions x 64 x 64, first at 8, last at 12 GFLOP/s
    weight = t(64, 64, 1, 1, dtype="float32")
    for stride, rate in (([4096, 64, 8, 1], 8e9), ([4096, 1, 512, 64], 12e9)):
        maps = t(1, 64, 8, 8, dtype="float32", stride=stride)
        call = op("aten.convolution.default", maps, weight, None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1, out=maps)
        cost = price_call(call, cpu)
        assert cost.evidence == "measured"
        assert cost.time_s == pytest.approx(2 * 64**3 / rate, rel=0.05)


def test_moving_to_the_chip_is_nothing_and_casting_is_a_copy(cpu):
    host, here = t(10**6, dtype="float32", on_chip=False), t(10**6, dtype="float32")
    assert price_call(op("aten._to_copy.default", host, out=here), cpu).time_s == 0
    cast = op("aten._to_copy.default", host, out=t(10**6))
    assert as_called(cast, work(cast)).host_bytes == 0
    assert price_call(cast, cpu).time_s > 1e-4


def test_a_list_of_tensors_is_a_call_each(cpu):
    some = tuple(t(100, dtype="float32") for _ in range(7))
    call = op("aten._foreach_mul_.Scalar", some, 2.0, mutates=range(7))
    task = as_called(call, work(call))
    assert task.kernels == 7
    assert host_work_s(task, cpu) == pytest.approx(70e-6)
    assert plain("aten._foreach_mul_") == "aten.mul"


def test_other_chips_are_priced_as_ever():
    # no row of the standard's files names an op or a layout: nothing of this file applies to them
    for chip in ("h100", "mi300x", "tpu-v5p"):
        on = build(load_chip(chip), Rates((), defaults()))
        assert not on.op_rates
        assert on.gemm("bf16", "nt").how == ""
        assert on.memory_s(1e9) == 1e9 / on.memory_bytes_per_s


def test_a_call_without_tensors_has_no_layout():
    assert not strided(Op("aten.clone.default"))
