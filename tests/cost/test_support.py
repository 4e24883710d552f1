"""A dtype that a chip lacks is said plainly, and never priced as if it had it."""

from math import log
from statistics import median, pstdev

import numpy as np
import pytest

from anychip import api
from anychip.cost import machine, price_op
from anychip.cost.rates import defaults
from anychip.cost.support import unsupported
from anychip.forecast import forecast
from anychip.record import Kind, Op, Program, TensorMeta, word
from anychip.spec import load_chip
from anychip.spec.pages import all_chips
from anychip.spec.validated import errors
from tests.cost.ops import add, mm, op, t


def scaled_mm(size=1024, dtype="float8_e4m3fn"):
    a, scale = t(size, size, dtype=dtype), t(dtype="float32")
    return op("aten._scaled_mm.default", a, a, scale, scale, out=t(size, size))


def moved(name):
    x = t(64, dtype="float8_e4m3fn")
    return op(f"aten.{name}.default", x, out=x)


def tf32(size):
    a = t(size, size, dtype="float32")
    return op("aten.mm.default", a, a, out=a, allow_tf32=True)


CASES = [
    (scaled_mm(), "a100", "nvidia-a100-sxm-80gb has no float8_e4m3fn matrix products: the program would fail there", "bf16"),
    (scaled_mm(dtype="float8_e5m2"), "a100", "nvidia-a100-sxm-80gb has no float8_e5m2 matrix products: the program would", "bf16"),
    (mm(64, 64, 64), "v100", "nvidia-v100-sxm2-32gb emulates bfloat16 matrix products", "fp32"),
    (mm(64, 64, 64, "float64"), "ascend-910b", "huawei-ascend-910b2 has no float64 matrix products", "an assumed peak of 635 GFLOP/s: each number is two of fp32"),
    (mm(64, 64, 64, "float64"), "tpu-v5p", "google-tpu-v5p emulates float64 matrix products", "an assumed peak of 775 GFLOP/s"),
    (mm(64, 64, 64, "float32"), "tpu-v5p", "google-tpu-v5p computes float32 matrix products in another dtype", "as bf16"),
    (mm(64, 64, 64, "int8"), "a100", "nvidia-a100-sxm-80gb has no int8 matrix products: the program would fail there", ""),
    (add(10, dtype="float64"), "ascend-910b", "huawei-ascend-910b2 sends float64 arithmetic back to the host's CPU", ""),
    (mm(64, 64, 64, "float64"), "gaudi2", "intel-gaudi2 computes float64 matrix products in another dtype", "as fp32"),
    (mm(64, 64, 64, "float32"), "ascend-910c", "huawei-ascend-910c publishes no rate of float32 matrix products", "27% of its 16-bit peak"),
    (tf32(64), "ascend-910c", "huawei-ascend-910c publishes no rate of float32 matrix products", "27% of its 16-bit peak"),
    (mm(64, 64, 64, "float32"), "ascend-910", "huawei-ascend-910 publishes no rate of float32", "25% of its 16-bit peak, as the median"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "name", "says", "priced"), CASES)
def test_said_in_one_sentence_with_how_it_was_priced(call, name, says, priced):
    (sentence,) = unsupported([call], load_chip(name))
    assert sentence.text.startswith(says)
    assert call.name.rpartition(".")[0] in sentence.text
    assert priced in sentence.text
    assert sentence.fails == (" has no " in says)


@pytest.mark.parametrize(("call", "name"), [(mm(64, 64, 64), "h100"), (scaled_mm(), "h100"), (add(10), "v100"),
                                            (scaled_mm(dtype="float8_e5m2"), "h100"), (scaled_mm(dtype="float8_e5m2"), "b200"),
                                            (mm(8, 8, 8, "float64"), "a100"), (mm(8, 8, 8, "float32"), "mi300x"),
                                            (tf32(64), "v100"), (mm(8, 8, 8, "float32"), "ascend-910b"),
                                            (tf32(64), "gaudi2"), (moved("clone"), "h100"), (moved("zeros_like"), "h100")])  # fmt: skip
def test_what_is_native_is_not_mentioned(call, name):
    assert unsupported([call], load_chip(name)) == ()


def test_products_made_for_small_integers_are_native():
    a = t(64, 64, dtype="int8")
    assert unsupported([op("aten._int_mm.default", a, a, out=t(64, 64, dtype="int32"))], load_chip("a100")) == ()


def test_what_stays_on_the_host_is_nothing_to_the_chip():
    x = TensorMeta((64, 64), (64, 1), "float8_e4m3fn", on_chip=False)
    assert unsupported([op("aten.mm.default", x, x, out=x)], load_chip("a100")) == ()


KERNELS = [op("triton.softmax_kernel", t(64), out=t(64)), op("custom.triton.scan", t(64), out=t(64), flop=64)]
EXTENSION = op("extension.scan.forward", t(64), out=t(64))


@pytest.mark.parametrize(("name", "language"), [("tpu-v5p", "Pallas"), ("gaudi3", "TPC-C")])
def test_kernels_in_triton_fail_where_the_platform_has_none(name, language):
    """They had a price by bytes on a TPU and on Gaudi, and not a word."""
    chip = load_chip(name)
    (sentence,) = unsupported(KERNELS, chip)
    assert sentence.fails
    assert sentence.text == (
        f"{chip.id} does not compile Triton: the program would fail there, at kernels of its own (custom.triton.scan, "
        f"triton.softmax_kernel). Kernels are written in {language} there."
    )


def test_kernels_of_the_programs_own_run_where_their_language_is_compiled():
    for name in ("h100", "mi300x"):
        assert unsupported([*KERNELS, EXTENSION], load_chip(name)) == ()
    assert unsupported(KERNELS, load_chip("ascend-910b")) == ()
    (sentence,) = unsupported([EXTENSION], load_chip("ascend-910b"))  # its shim is of Python
    assert sentence.text.startswith("huawei-ascend-910b2 does not compile CUDA C++")
    assert unsupported([*KERNELS, EXTENSION], load_chip("biren-br104")) == ()  # nobody says


def test_a_target_that_does_not_compile_a_programs_kernels_would_not_run_it():
    tape = np.array([word(Kind.OP, 0)] * 3, np.int64)
    answer = api.forecast(Program(tape, KERNELS[:1], np.zeros(0, np.int64)), on=["h100", "tpu-v5p"])
    assert [bool(one.would_fail) for one in answer.forecasts] == [False, True]
    assert (answer.outcome, answer.exit_code) == ("would_fail", 1)


def test_what_a_product_keeps_beside_its_result_is_no_product():
    """Attention in bfloat16 returns row sums in float32, which a TPU would have to emulate as a product."""
    q, sums = t(2, 4, 64, 32), t(2, 4, 64, dtype="float32")
    call = Op("aten._scaled_dot_product_flash_attention.default", (q, q, q), outputs=(q, sums))
    assert unsupported([call], load_chip("tpu-v5p")) == ()


def test_priced_in_the_dtype_that_it_runs_in():
    # V100 multiplies bfloat16 as fp32 on its vector engine: 15.7 TFLOP/s, an eighth of its fp16 peak
    v100 = load_chip("v100")
    assert machine(v100).products("bf16").dtype == "fp32"
    assert price_op(mm(8192, 8192, 8192), v100).time_s > 2 * 8192**3 / 15.7e12
    assert price_op(mm(8192, 8192, 8192, "float16"), v100).time_s < 2 * 8192**3 / 15.7e12


def test_a_measured_product_tells_the_rate_of_a_dtype_without_a_peak():
    # Ascend 910B2: 82.92 TFLOP/s measured in fp32, no peak published; it has no tf32, which runs as fp32
    for dtype in ("fp32", "tf32"):
        assert machine(load_chip("ascend-910b")).products(dtype)[:4] == ("fp32", 82.92e12, None, "measured")
    assert price_op(tf32(8192), load_chip("ascend-910b")).time_s > 2 * 8192**3 / 82.92e12


def test_single_precision_of_which_nothing_is_known_has_its_share_of_16_bit():
    # Ascend 910C, of 910B2's dies: 0.27 of 752 TFLOP/s; Ascend 910: a quarter of 256, as other chips
    assert machine(load_chip("ascend-910c")).products("fp32").peak == pytest.approx(0.27 * 752e12)
    found = machine(load_chip("ascend-910")).products("fp32")
    assert (found.dtype, found.peak, found.published, found.known) == ("fp32", pytest.approx(64e12), None, "assumed")


def test_a_platform_that_casts_is_priced_in_what_it_casts_to():
    assert machine(load_chip("tpu-v4")).products("fp32").dtype == "bf16"
    assert machine(load_chip("gaudi2")).products("fp64") == machine(load_chip("gaudi2")).products("fp32")


def test_the_share_of_single_precision_is_the_median_of_what_is_published():
    """One vote a generation of chips: NVIDIA's many would outvote the others."""
    found = {}
    for chip in all_chips():
        half = max(chip.peak_flop_per_s("bf16") or 0, chip.peak_flop_per_s("fp16") or 0)
        single = chip.peak_flop_per_s("fp32") or chip.peak_flop_per_s("fp32", "vector")
        if half and single:
            found.setdefault((chip.vendor, chip.generation), []).append(single / half)
    shares = [median(shares) for shares in found.values()]
    (row,) = [row for row in defaults().all("gemm.peak") if not row.shape]
    assert row.value == round(median(shares), 2)
    spread = pstdev([log(share / median(shares)) for share in shares])
    assert errors()["rate", "assumed"] == pytest.approx(spread, abs=0.1)
    assert f"{len(shares)} generations" in row.source


def wide_program(dtype):
    return Program(np.array([word(Kind.OP, 0)], np.int64), [mm(4096, 4096, 4096, dtype)], np.zeros(0, np.int64))


def test_products_that_no_compared_run_has_widen_the_error():
    half, single = (forecast(wide_program(dtype), load_chip("h100")) for dtype in ("bfloat16", "float32"))
    assert single.step_time_error**2 == pytest.approx(half.step_time_error**2 + 0.15**2, rel=0.1)
    assumed = forecast(wide_program("float32"), load_chip("ascend-910c"))
    assert assumed.step_time_error > 0.8


def test_utilization_is_of_the_published_peak_of_what_the_chip_computes_in():
    single = wide_program("float32")
    assert forecast(single, load_chip("ascend-910b")).mfu is None
    assert forecast(single, load_chip("ascend-910c")).hfu is None
    v100 = forecast(wide_program("bfloat16"), load_chip("v100"))
    assert v100.matrix_dtype == "fp32"
    assert v100.mfu == pytest.approx(2 * 4096**3 / v100.step_time_s / 15.7e12)


def test_double_precision_without_a_figure_is_slower_than_single():
    tpu = load_chip("tpu-v5p")
    single, double = (price_op(mm(4096, 4096, 4096, dtype), tpu).time_s for dtype in ("float32", "float64"))
    assert double > 10 * single


def test_a_forecast_carries_the_sentence():
    program = Program(np.array([word(Kind.OP, 0)], np.int64), [scaled_mm()], np.zeros(0, np.int64))
    assert any("has no float8_e4m3fn" in text for text in forecast(program, load_chip("a100")).warnings)
    assert not any("float8" in text for text in forecast(program, load_chip("h100")).warnings)


def test_weights_of_few_bits_are_no_products_of_integers():
    call = op("aten._weight_int8pack_mm.default", t(4, 64), t(64, 64, dtype="int8"), t(64), out=t(4, 64))
    for chip in ("h100", "mi300x", "gaudi2", "tpu-v5e", "v100"):
        assert not any("int8 matrix products" in one.text for one in unsupported([call], load_chip(chip))), chip
