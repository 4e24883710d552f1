"""Seconds: sums by hand on a made-up chip, and relations that hold on every chip."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anychip.cost import host_op_s, machine, price_op, work
from anychip.cost.gemm import GemmCurve
from anychip.cost.kernels import _taken
from anychip.cost.machine import build
from anychip.cost.rates import Rates, defaults, parse, rates_of
from anychip.errors import BadChipFile
from anychip.spec import UnknownFigure, list_chips, load_chip
from tests.cost.ops import add, mm, op, t


def can_be_priced(name):
    """Its file knows a bandwidth and a peak; of others pricing says which figure is missing."""
    try:
        return machine(load_chip(name)).peak("bf16") > 0
    except UnknownFigure:
        return False


CHIPS = [entry.id for entry in list_chips() if can_be_priced(entry.id)]


def attention(batch, heads, length, dim, causal=True, kind="flash", dtype="bfloat16"):
    q, lse = t(batch, heads, length, dim, dtype=dtype), t(batch, heads, length, dtype="float32")
    rest = (None, True, 0.0, causal) if kind != "flash" else (0.0, causal)
    return op(f"aten._scaled_dot_product_{kind}_attention.default", q, q, q, *rest, out=(q, lse))


def curve(**changes):
    plain = {"rate": 100e12, "peak": 120e12, "k0": 0.0, "wave": 0.5, "overhead_s": 0.0, "sustained": 1.0, "cores": 100,
             "tile": (128, 128), "padding": (1, 1), "measured": False}  # fmt: skip
    return GemmCurve(**(plain | changes))


def test_a_full_wave_runs_at_the_rate():
    # 10 x 10 tiles on 100 cores: 2 * 1280 * 1280 * 1000 / 100e12
    assert curve().model_s(1, 1280, 1280, 1000) == pytest.approx(2 * 1280 * 1280 * 1000 / 100e12)


def test_a_tile_more_than_a_wave_costs():
    full, one_more = curve().model_s(1, 1280, 1280, 1000), curve().model_s(1, 1280 + 128, 1280, 1000)
    # 110 tiles take two waves of 100: used 0.55, to the power 0.5; smaller tiles win some of it back
    assert full * 1.1 < one_more <= full * 1.1 / 0.55**0.5


def test_half_rate_inner_dimension():
    # k = k0 doubles the time
    assert curve(k0=256.0).model_s(1, 1280, 1280, 256) == pytest.approx(2 * curve().model_s(1, 1280, 1280, 256))


def test_a_systolic_array_pads_to_its_unit():
    padded = curve(padding=(128, 128), cores=1)
    # 129 costs as 256 does, in each dimension
    assert padded.model_s(1, 129, 128, 128) == padded.model_s(1, 256, 128, 128)
    assert padded.model_s(1, 129, 129, 129) == padded.model_s(1, 256, 256, 256)
    assert padded.model_s(1, 128, 128, 128) * 2 == pytest.approx(padded.model_s(1, 129, 128, 128))


def test_a_measured_point_is_met_exactly_and_its_neighbours_lean_to_it():
    # 100 cores; one point at 2,048 cubed measured at 50 TFLOP/s
    shape = (2048, 2048, 2048)
    with_point = curve(points=((shape, 50e12),), overhead_s=1e-6)
    seconds, evidence = with_point.time_s(1, *shape)
    assert (seconds + 1e-6, evidence) == (pytest.approx(2 * 2048**3 / 50e12), "measured")
    near, far = with_point.time_s(1, 2048, 2048, 3072), with_point.time_s(1, 2048, 2048, 65536)
    assert (near[1], far[1]) == ("interpolated", "modelled")
    without = curve(overhead_s=1e-6)
    assert near[0] / without.time_s(1, 2048, 2048, 3072)[0] > far[0] / without.time_s(1, 2048, 2048, 65536)[0] > 1


@pytest.mark.parametrize("chip", CHIPS)
def test_published_best_shapes_are_met(chip):
    """A chip's own measured products come out as measured, before the long-run derate."""
    chip = load_chip(chip)
    on = machine(chip)
    for row in on.rates.all("gemm"):
        m, n, k = (int(size) for size in row.shape.split("x"))
        gemm = on.gemm(row.dtype)
        seconds = gemm.time_s(1, m, n, k)[0] * gemm.sustained + gemm.overhead_s
        if row.value < gemm.peak:
            assert 2 * m * n * k / seconds == pytest.approx(row.value, rel=1e-6)


# FlashAttention-2 on H100, arXiv 2407.08608: head 128, full mask, 16k tokens in all: 309 at 512, 370 at 16,384 TFLOP/s.
@pytest.mark.parametrize(("length", "measured"), [(512, 309e12), (16384, 370e12)])
def test_attention_meets_its_curve(length, measured):
    chip = load_chip("h100")
    level = machine(chip).attention_rate("flash", False, False, 128, length)
    assert level.value == pytest.approx(measured * 0.867)  # the long-run derate of its rates file
    assert level.evidence == "measured"


def test_attention_between_and_beyond_points():
    on = machine(load_chip("h100"))
    at = {n: on.attention_rate("flash", False, True, 128, n).value for n in (64, 512, 700, 1024, 16384, 65536)}
    assert at[64] < at[512] < at[700] < at[1024] < at[16384] <= at[65536] * 1.001


def test_a_chip_without_a_curve_borrows_shape_not_level():
    a100, h100 = machine(load_chip("a100")), machine(load_chip("h100"))
    ratio = [on.attention_rate("flash", False, True, 128, 512).value / on.attention_rate("flash", False, True, 128, 16384).value
             for on in (a100, h100)]  # fmt: skip
    assert ratio[0] == pytest.approx(ratio[1])
    level = a100.attention_rate("flash", False, True, 128, 10**9)
    # 0.6 of 312 TFLOP/s is its own level
    assert level.value == pytest.approx(0.6 * 312e12, rel=0.05)
    assert level.evidence == "modelled"


def test_a_memory_bound_op_by_hand():
    # A100 80GB: floor 2.5 us + 3 * 256 MiB at the measured 1610 GB/s
    chip = load_chip("a100")
    cost = price_op(add(128 * 2**20), chip)
    assert cost.time_s == pytest.approx(2.5e-6 + 3 * 2**28 / 1610e9)
    assert (cost.limit, cost.evidence) == ("memory", "interpolated")


def test_a_small_op_is_its_launch():
    cost = price_op(add(10), load_chip("a100"))
    assert cost.limit == "launch"
    assert cost.time_s == pytest.approx(2.5e-6, rel=1e-3)
    # 8 us to reach the launch, 4 us for it
    assert host_op_s(add(10), load_chip("a100")) == pytest.approx(12e-6)


def test_a_library_chooses_once_for_the_steps_of_an_lstm():
    x, hx = t(35, 20, 200, dtype="float32"), t(1, 20, 200, dtype="float32")
    w = (t(800, 200, dtype="float32"), t(800, 200, dtype="float32"))
    lstm = op("aten._cudnn_rnn.default", x, w, 2, None, hx, hx, 2, 200, 0, 1, False, 0.0, True, False, (), None,
              out=(x, hx, hx))  # fmt: skip
    chip = load_chip("a100")
    # 8 us to reach the launch, 4 us a launch, 1.5 us for a product
    assert host_op_s(mm(64, 64, 64), chip) == pytest.approx(13.5e-6)
    # 71 launches; two products, that of all inputs and that of a step: the 36 that there are took 198 us
    assert host_op_s(lstm, chip) == pytest.approx(8e-6 + 71 * 4e-6 + 2 * 1.5e-6)


@pytest.mark.parametrize(
    ("name", "times"), [("gh200", 33.17 / 13.48), ("gb200", 37.08 / 13.48), ("gb300", 37.08 / 13.48)]
)
def test_a_grace_takes_longer_to_issue_an_op(name, times):
    assert host_op_s(add(10), load_chip(name)) == pytest.approx(times * host_op_s(add(10), load_chip("h100")), rel=0.01)


def test_a_copy_to_the_chip_takes_the_link():
    chip = load_chip("a100")
    host = t(2**20, dtype="float32", on_chip=False)
    cost = price_op(op("aten._to_copy.default", host, device="cuda:0", out=t(2**20, dtype="float32")), chip)
    # 4 MiB at 26.09 GB/s, and into memory, overlapped by neither here
    assert cost.time_s == pytest.approx(2.5e-6 + 2**22 / 26.09e9 + 2**22 / 1610e9)
    assert cost.limit == "host_link"
    staged = op("aten._to_copy.default", host, out=t(2**20, dtype="float32"), staged=True)
    assert price_op(staged, chip).time_s - cost.time_s == pytest.approx(2**22 / 9.8e9)
    for name in ("gh200", "gb10", "mi300a", "generic-cpu"):  # which read memory as it is
        assert price_op(staged, load_chip(name)).time_s < 2**22 / 20e9
    # Where the host waits it changes the dtype, else the chip does.
    halved = {"out": t(2**20, dtype="float16"), "dtype": "torch.float16"}
    waits, goes_on = (
        price_op(op("aten._to_copy.default", host, **halved, **more), chip) for more in ({}, {"non_blocking": True})
    )
    assert waits.time_s == pytest.approx(2.5e-6 + 2**21 / 26.09e9 + 2**21 / 1610e9)
    assert goes_on.time_s > 2**22 / 26.09e9


def test_an_unknown_op_is_priced_by_bytes_and_says_so():
    cost = price_op(op("mylib.mystery.default", t(2**20), out=t(2**20)), load_chip("h100"))
    assert cost.evidence == "bytes_only"
    assert cost.time_s > 2**22 / 3.35e12


def test_a_graph_chip_has_no_host_cost():
    assert host_op_s(add(10), load_chip("tpu-v5p")) == 0.0


SIZES = st.integers(1, 20000)


@st.composite
def any_op(draw):
    kind = draw(st.sampled_from(["mm", "add", "attention", "softmax", "conv"]))
    dtype = draw(st.sampled_from(["bfloat16", "float16", "float32"]))
    if kind == "mm":
        return mm(draw(SIZES), draw(SIZES), draw(SIZES), dtype)
    if kind == "add":
        return add(draw(SIZES), draw(SIZES), dtype=dtype)
    if kind == "softmax":
        x = t(draw(st.integers(1, 500)), draw(SIZES), dtype=dtype)
        return op("aten._softmax.default", x, -1, False, out=x)
    if kind == "conv":
        n, c, o, s = (draw(st.integers(1, 64)) for _ in range(4))
        x, w, y = t(n, c, s, s, dtype=dtype), t(o, c, 3, 3, dtype=dtype), t(n, o, s, s, dtype=dtype)
        return op("aten.convolution.default", x, w, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, out=y)
    return attention(draw(st.integers(1, 8)), draw(st.integers(1, 32)), draw(st.integers(1, 4000)),
                     draw(st.sampled_from([64, 80, 128, 256])), draw(st.booleans()), dtype=dtype)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(any_op(), st.sampled_from(CHIPS))
def test_never_faster_than_the_bounds(call, name):
    chip = load_chip(name)
    task, cost, on = work(call), price_op(call, chip), machine(chip)
    assert cost.time_s >= task.bytes_moved / chip.memory_bandwidth_bytes_per_s
    if task.unit == "matrix":
        assert cost.time_s >= task.flop / on.peak(task.dtype) * (1 - 1e-9)
    assert cost.time_s > 0


@settings(max_examples=60, deadline=None)
@given(any_op(), st.sampled_from(CHIPS), st.floats(1.0, 8.0))
def test_never_slower_with_more_bandwidth_or_more_flop_per_s(call, name, factor):
    chip = load_chip(name)
    base = price_op(call, chip).time_s
    wider = chip.with_figures({"memory.main.bandwidth": chip.memory_bandwidth_bytes_per_s * factor})
    assert price_op(call, wider).time_s <= base * (1 + 1e-9)
    # All peaks: a dtype that the chip has not takes the lowest of them, and its share from a measured one's.
    peaks = {path: one.value for path, one in chip.figures.items() if path.startswith("peaks.") and one.value}
    faster = chip.with_figures({path: value * factor for path, value in peaks.items()})
    assert price_op(call, faster).time_s <= base * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, SIZES, st.sampled_from([0, 1, 2]), st.floats(1.0, 4.0), st.sampled_from(CHIPS))
def test_a_larger_product_is_not_faster_than_the_tile_effect(m, n, k, axis, factor, name):
    chip = load_chip(name)
    shape = [
        -(-size // 8) * 8 for size in (m, n, k)
    ]  # rows of 16 bytes: others are slower, as tests/cost/test_matrix_ragged.py says
    small = price_op(mm(*shape), chip).time_s
    shape[axis] = int(shape[axis] * factor) // 8 * 8
    # At worst the smaller product leaves half of a wave and the edge of a tile empty; measured points pull as far.
    assert price_op(mm(*shape), chip).time_s >= small * 0.5


def test_rates_files_parse_and_name_their_sources():
    for name in CHIPS:
        for row in rates_of(name).rows:
            assert row.source
            assert row.kind in ("measured", "derived", "assumed")


def test_all_problems_of_a_rates_file_at_once_with_their_lines():
    text = "op,dtype,shape,value,unit,kind,stack,date,source,note\ngemm,bf16,1x1x1,fast,GB/s,measured,,,x,\na,b\n" \
           "gemm,bf16,,1,furlong,measured,,,x,\nmemory.rate,,,-1,GB/s,guessed,,,,\n"  # fmt: skip
    with pytest.raises(BadChipFile) as caught:
        parse(text, "x.csv")
    message = str(caught.value)
    for part in ("x.csv:2: value 'fast'", "x.csv:3: 2 cells", "x.csv:4: unit 'furlong'", "x.csv:5: kind 'guessed'",
                 "x.csv:5: value '-1'", "x.csv:5: a rate needs a source"):  # fmt: skip
        assert part in message
    with pytest.raises(BadChipFile, match="first line"):
        parse("a,b\n", "x.csv")


def test_a_product_one_wider_than_the_matrix_unit_costs_the_next_tile():
    """TPU v5p multiplies 128 x 128 at a time: 1,025 columns are 9 tiles as 1,152 are, an eighth more than the 8 of 1,024."""
    chip = load_chip("tpu-v5p")
    assert chip.matrix_unit == (128, 128)
    fixed = machine(chip).gemm("bf16").overhead_s
    body = {n: price_op(mm(8192, n, 4096), chip).time_s - fixed for n in (1024, 1025, 1152)}
    assert body[1025] == pytest.approx(body[1152])
    assert body[1152] == pytest.approx(9 / 8 * body[1024])
    on = machine(chip).gemm("bf16")
    assert on.model_s(1, 129, 129, 129) == on.model_s(1, 256, 256, 256)


def test_a_product_measured_in_a_long_run_is_met_in_a_long_run():
    # A100, fp16, 8,192 cubed: 253.7 TFLOP/s after 10,000 iterations, so no derate comes on top; steps of training, which take
    # power for more than products, run theirs 3.3% faster (gemm.warm.sustained)
    chip = load_chip("a100")
    cost = price_op(mm(8192, 8192, 8192, "float16"), chip)
    assert 2 * 8192**3 / cost.time_s == pytest.approx(1.033 * 253.7e12, rel=0.01)
    assert cost.evidence == "measured"
    # The other 16-bit type runs at the same rate, but was not measured there itself.
    twin = price_op(mm(8192, 8192, 8192), chip)
    assert twin.time_s == pytest.approx(cost.time_s)
    assert twin.evidence == "interpolated"


def test_evidence_between_many_points_and_away_from_all():
    on = curve(points=tuple(((n, n, n), 80e12) for n in (1024, 2048, 4096, 8192, 16384)))
    # more than an octave from each point, but between them in each dimension
    assert on.time_s(1, 16384, 1200, 1200)[1] == "interpolated"
    assert on.time_s(1, 65536, 1200, 1200)[1] == "modelled"


def test_variants_of_one_die_share_its_products_but_not_its_memory():
    whole, cut = machine(load_chip("a100")), machine(load_chip("a100-40gb"))
    assert cut.gemm("fp16").points == whole.gemm("fp16").points
    assert (cut.memory_bytes_per_s, whole.memory_bytes_per_s) == (1328.25e9, 1610e9)
    # the same die at 500 W: its own long-run derate, also of products that were measured in long runs at 700
    full, capped = machine(load_chip("h100")).gemm("fp8"), machine(load_chip("nvidia-h100-sxm-96gb")).gemm("fp8")
    assert [rate for _, rate in capped.points] == pytest.approx([rate for _, rate in full.points])
    assert full.time_s(1, 8192, 8192, 8192)[0] / capped.time_s(1, 8192, 8192, 8192)[0] == pytest.approx(
        capped.sustained / full.sustained
    )


def test_a_step_of_training_slows_a_product_that_was_measured_alone():
    """gemm.warm has gemm.sustained in it, so that cancels; gemm.warm.sustained does not."""
    chip = load_chip("gb200")
    plain = Rates(tuple(row for row in rates_of(chip.id).rows if row.op != "gemm.warm.sustained"), defaults())
    (level,) = (row.value for row in rates_of(chip.id).rows if row.op == "gemm.warm.sustained")
    square = (1, 8192, 8192, 8192)
    alone, there = build(chip, plain).gemm("fp8").time_s(*square)[0], machine(chip).gemm("fp8").time_s(*square)[0]
    assert 2 * 8192**3 / alone == pytest.approx(2848.0e12, rel=0.02)  # as it was measured
    assert alone / there == pytest.approx(level, rel=0.01)


def test_a_cast_by_rows_and_columns_is_slower_than_one_by_rows():
    """As Transformer Engine's on B200: 52.34 us for both, 34.84 for one."""
    wide, low = t(8192, 8192), t(8192, 8192, dtype="float8_e4m3fn")
    chip, flop = load_chip("b200"), 3 * 8192**2
    for name in ("custom.transformer_engine.cast_transpose", "anychip.fused"):
        both = price_op(op(name, wide, out=(low, low), flop=flop), chip)
        assert both.time_s == pytest.approx(52.34e-6, rel=0.08)
    assert price_op(op("anychip.fused", wide, out=(low,), flop=flop), chip).time_s == pytest.approx(34.84e-6, rel=0.08)
    # a mask of as many bytes beside the one cast
    one = Counter({(low.nbytes, low.dtype): 1})
    assert [_taken(one, low.nbytes) for _ in range(2)] == [low.dtype, "uint8"]
    # two results that are no casts of one tensor
    plain = op("anychip.fused", wide, out=(wide, wide), flop=flop)
    assert price_op(plain, chip).body_s == pytest.approx(3 * 8192**2 * 2 / machine(chip).memory_bytes_per_s, rel=0.01)


def test_a_kernel_of_its_own_multiplies_slower_and_its_backward_slower_still():
    def time_s(name):
        small = op(name, t(8, 8), out=t(8, 8), flop=1, products=((64, 2048, 2048, 2048),))
        return price_op(small, load_chip("h100")).body_s

    need = defaults().need
    assert time_s("custom.lib.scan") < time_s("custom.lib.scan_bwd") == time_s("custom.lib.scan_backward")
    assert time_s("custom.lib.scan") / time_s("custom.lib.scan_bwd_dx.out") == pytest.approx(
        need("gemm.custom.backward").value / need("gemm.custom").value, rel=1e-3
    )


def test_grouped_products_are_slower_than_equal_dense_ones():
    chip = load_chip("b200")
    grouped = op(
        "aten._grouped_mm.default", t(131072, 2048), t(8, 2048, 4096), t(8, dtype="int32"), out=t(131072, 4096)
    )
    batched = op("aten.bmm.default", t(8, 16384, 2048), t(8, 2048, 4096), out=t(8, 16384, 4096))
    assert work(grouped).flop == work(batched).flop
    assert price_op(grouped, chip).time_s == pytest.approx(price_op(batched, chip).time_s / 0.47, rel=0.01)


def test_a_point_wise_op_of_16_bit_is_slower_where_its_operands_do_not_lie_alike():
    """A bias, a half of each row, and neither where the elements are wide, where one is a number, or in a copy."""
    chip = load_chip("h200")
    share = machine(chip).share("memory.scattered")
    x, half = t(8192, 8192), t(8192, 8192)._replace(stride=(16384, 1))

    def body_s(name, *args, out=x):
        return price_op(op(name, *args, out=(out,)), chip).body_s

    plain = body_s("aten.add.Tensor", x, x)
    assert body_s("aten.add.Tensor", x, t(8192)) == pytest.approx(plain * 2 / 3 / share, rel=1e-3)
    assert body_s("aten.mul.Tensor", x, t(8192, 1)) == pytest.approx(plain * 2 / 3 / share, rel=1e-3)
    assert body_s("aten.clamp.default", half, None, 7.0) == pytest.approx(plain * 2 / 3 / share)
    assert body_s("aten.clamp.default", x, None, 7.0) == pytest.approx(plain * 2 / 3)
    turned = x._replace(stride=(1, 8192))
    assert body_s("aten.add.Tensor", turned, turned, out=turned) == pytest.approx(plain)
    wide = t(8192, 8192, dtype="float32")
    assert body_s("aten.add.Tensor", wide, t(8192, dtype="float32"), out=wide) == pytest.approx(plain * 4 / 3, rel=1e-3)
    assert body_s("aten.clone.default", half) == pytest.approx(plain * 2 / 3)


def test_a_product_of_few_terms_in_a_slow_dtype_is_written_as_fast_as_memory_takes_it():
    """An outer product in 32 bit was priced as 300 terms of each element: ten times what writing it takes."""
    h100 = load_chip("h100")
    cost = price_op(mm(30000, 30000, 1, "float32"), h100)
    written = 30000 * 30000 * 4 / h100.memory_bandwidth_bytes_per_s
    assert written < cost.time_s < 1.5 * written


@pytest.mark.parametrize("shape", [(1, 16384, 2048), (16384, 1, 2048)])
def test_a_vector_times_a_matrix_takes_as_long_as_reading_the_matrix(shape):
    """A program that decodes in float32 was limited by products of 31 rows that there are not: half as slow again."""
    cost = price_op(mm(*shape, "float32"), load_chip("h100"))
    # 16384 x 2048 numbers of 4 bytes by 3.35 TB/s, of which a kernel reaches most
    least = 16384 * 2048 * 4 / 3.35e12
    assert cost.limit == "memory"
    assert least < cost.body_s < 1.4 * least


def test_heads_that_share_keys_are_rows_of_one_block():
    """A token of each of 750 sequences of Llama 2 70B: each head of queries alone would multiply 64 rows for its one."""

    def decode(kv_heads, queries=1):
        q, k = t(750, 16, queries, 128), t(750, kv_heads, 1152, 128)
        return price_op(
            op("aten._scaled_dot_product_flash_attention.default", q, k, k, 0.0, False, out=q), load_chip("gaudi2")
        )

    alone, shared = decode(16), decode(2)
    assert alone.time_s > 3 * shared.time_s
    assert decode(2, queries=128).time_s == pytest.approx(
        decode(16, queries=128).time_s, rel=0.3
    )  # many need no packing


@pytest.mark.parametrize(("heads", "kv_heads", "keys"), [(32, 4, 4096), (32, 8, 32768), (8, 1, 100)])
def test_fewer_queries_never_take_longer_than_more(heads, kv_heads, keys):
    """63 queries whose heads were packed left half of the cores idle that 64 kept busy, one head to a block."""

    def decode_s(queries, chip):
        q, k = t(1, heads, queries, 128), t(1, kv_heads, keys, 128)
        return price_op(op("aten._scaled_dot_product_flash_attention.default", q, k, k, 0.0, False, out=q), chip).time_s

    for name in ("h100", "mi300x", "gaudi2"):
        times = [round(decode_s(queries, load_chip(name)) * 1e9) for queries in (1, 8, 16, 32, 48, 63, 64)]
        assert times == sorted(times), name
