"""Dtypes that a chip lacks: told once for each dtype and use, and only where it matters."""

import numpy as np
import pytest

from anychip.dtypes import unlike
from anychip.record import Kind, Op, Program, TensorMeta, word
from anychip.spec import load_chip


def program(name, dtype, on_chip=True):
    x = TensorMeta((64, 64), (64, 1), dtype, on_chip)
    ops = [Op(name, (x, x), outputs=(x,)), Op(name, (x, x), outputs=(x, x))]
    return Program(np.array([word(Kind.OP, 0), word(Kind.OP, 1)], dtype=np.int64), ops, np.array([1], dtype=np.int64))


@pytest.mark.parametrize(
    ("chip", "name", "dtype", "said"),
    [
        ("h100", "aten.mm.default", "bfloat16", []),
        ("v100", "aten.mm.default", "bfloat16", ["bfloat16 products (aten.mm) are emulated there."]),
        ("a100", "aten.mm.default", "float8_e4m3fn", ["float8_e4m3fn products (aten.mm) end in an error there."]),
        ("ascend-910b", "aten.mul.Tensor", "float64",
         ["float64 elementwise operations (aten.mul.Tensor) run on the host there, which is slower than this forecast says."]),
        ("a100", "aten._int_mm.default", "int8", []),
        ("a100", "aten.mm.default", "int8", ["int8 products (aten.mm) end in an error there."]),
        ("tpu-v5p", "aten.mul.Tensor", "float64", []),  # emulated element by element: no news
    ],
)  # fmt: skip
def test_what_is_said(chip, name, dtype, said):
    chip = load_chip(chip)
    assert unlike(program(name, dtype), chip) == [f"{chip.id}: {text}" for text in said]


def test_what_stays_on_the_host_is_nothing_to_the_chip():
    assert unlike(program("aten.mm.default", "float8_e4m3fn", on_chip=False), load_chip("a100")) == []


def test_what_a_product_keeps_beside_its_result_is_no_product():
    """Attention in bfloat16 returns row sums in float32, which a TPU would have to emulate as a product."""
    q = TensorMeta((2, 4, 64, 32), (8192, 2048, 32, 1), "bfloat16")
    sums = TensorMeta((2, 4, 64), (256, 64, 1), "float32")
    op = Op("aten._scaled_dot_product_flash_attention.default", (q, q, q), outputs=(q, sums))
    recorded = Program(np.array([word(Kind.OP, 0)], dtype=np.int64), [op], np.array([1], dtype=np.int64))
    assert unlike(recorded, load_chip("tpu-v5p")) == []
