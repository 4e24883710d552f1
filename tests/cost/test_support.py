"""A dtype that a chip lacks is said plainly, and never priced as if it had it."""

import numpy as np
import pytest

from anychip.cost import machine, price_op
from anychip.cost.support import unsupported
from anychip.forecast import forecast
from anychip.record import Kind, Op, Program, TensorMeta, word
from anychip.spec import load_chip
from tests.cost.ops import add, mm, op, t


def scaled_mm(size=1024, dtype="float8_e4m3fn"):
    a, scale = t(size, size, dtype=dtype), t(dtype="float32")
    return op("aten._scaled_mm.default", a, a, scale, scale, out=t(size, size))


def moved(name):
    x = t(64, dtype="float8_e4m3fn")
    return op(f"aten.{name}.default", x, out=x)


CASES = [
    (scaled_mm(), "a100", "nvidia-a100-sxm-80gb has no float8_e4m3fn matrix products: the program would fail there", "bf16"),
    (scaled_mm(dtype="float8_e5m2"), "a100", "nvidia-a100-sxm-80gb has no float8_e5m2 matrix products: the program would", "bf16"),
    (mm(64, 64, 64), "v100", "nvidia-v100-sxm2-32gb emulates bfloat16 matrix products", "fp32"),
    (mm(64, 64, 64, "float64"), "ascend-910b", "huawei-ascend-910b2 has no float64 matrix products", "an assumed rate"),
    (mm(64, 64, 64, "float64"), "tpu-v5p", "google-tpu-v5p emulates float64 matrix products", "an assumed rate"),
    (mm(64, 64, 64, "float32"), "tpu-v5p", "google-tpu-v5p emulates float32 matrix products", ""),
    (mm(64, 64, 64, "int8"), "a100", "nvidia-a100-sxm-80gb has no int8 matrix products: the program would fail there", ""),
    (add(10, dtype="float64"), "ascend-910b", "huawei-ascend-910b2 sends float64 arithmetic back to the host's CPU", ""),
    (mm(64, 64, 64, "float64"), "gaudi2", "intel-gaudi2 computes float64 matrix products in another dtype", "an assumed rate"),
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
                                            (moved("clone"), "h100"), (moved("zeros_like"), "h100")])  # fmt: skip
def test_what_is_native_is_not_mentioned(call, name):
    assert unsupported([call], load_chip(name)) == ()


def test_products_made_for_small_integers_are_native():
    a = t(64, 64, dtype="int8")
    assert unsupported([op("aten._int_mm.default", a, a, out=t(64, 64, dtype="int32"))], load_chip("a100")) == ()


def test_what_stays_on_the_host_is_nothing_to_the_chip():
    x = TensorMeta((64, 64), (64, 1), "float8_e4m3fn", on_chip=False)
    assert unsupported([op("aten.mm.default", x, x, out=x)], load_chip("a100")) == ()


def test_what_a_product_keeps_beside_its_result_is_no_product():
    """Attention in bfloat16 returns row sums in float32, which a TPU would have to emulate as a product."""
    q, sums = t(2, 4, 64, 32), t(2, 4, 64, dtype="float32")
    call = Op("aten._scaled_dot_product_flash_attention.default", (q, q, q), outputs=(q, sums))
    assert unsupported([call], load_chip("tpu-v5p")) == ()


def test_priced_in_the_dtype_that_it_runs_in():
    # V100 multiplies bfloat16 as fp32 on its vector engine: 15.7 TFLOP/s, an eighth of its fp16 peak
    v100 = load_chip("v100")
    assert machine(v100).runs_as("bf16") == "fp32"
    assert price_op(mm(8192, 8192, 8192), v100).time_s > 2 * 8192**3 / 15.7e12
    assert price_op(mm(8192, 8192, 8192, "float16"), v100).time_s < 2 * 8192**3 / 15.7e12


def test_double_precision_without_a_figure_is_slower_than_single():
    tpu = load_chip("tpu-v5p")
    single, double = (price_op(mm(4096, 4096, 4096, dtype), tpu).time_s for dtype in ("float32", "float64"))
    assert double > 10 * single


def test_a_forecast_carries_the_sentence():
    program = Program(np.array([word(Kind.OP, 0)], np.int64), [scaled_mm()], np.zeros(0, np.int64))
    assert any("has no float8_e4m3fn" in text for text in forecast(program, load_chip("a100")).warnings)
    assert not any("float8" in text for text in forecast(program, load_chip("h100")).warnings)
