"""Products whose 16-bit operands have rows that no kernel can load 16 bytes at a time."""

from dataclasses import replace

import pytest

from anychip.cost import machine, price_op, work
from anychip.cost.kernels import fuse_words
from anychip.record import Kind, TensorMeta, word
from anychip.spec import load_chip
from tests.cost.ops import op, t

T, K, EVEN, ODD = 16384, 768, 50304, 50257


def turned(rows, columns, dtype="bfloat16"):
    return TensorMeta((rows, columns), (1, rows), dtype)


def product(a, b, **more):
    return op("aten.mm.default", a, b, out=t(a.shape[0], b.shape[1], dtype=a.dtype), **more)


def head(vocab, dtype="bfloat16"):
    """A head's forward, and its backward by input and by weight."""
    x, weight, logits = t(T, K, dtype=dtype), t(vocab, K, dtype=dtype), t(T, vocab, dtype=dtype)
    return (product(x, turned(K, vocab, dtype)), product(logits, weight), product(turned(vocab, T, dtype), x))


@pytest.mark.parametrize(
    ("name", "share"),
    [("a100", 0.4), ("rtx-4090", 0.74), ("h100", 0.28), ("h200", 0.28), ("b200", 0.28), ("mi300x", 1)],
)
def test_ragged_operands_are_slow_by_generation(name, share):
    chip = load_chip(name)
    assert machine(chip).ragged_share == share
    even, odd = ([price_op(one, chip).body_s for one in head(vocab)] for vocab in (EVEN, ODD))
    assert odd[0] == pytest.approx(even[0], rel=0.01)  # the weight's rows are of 768, only the result's are ragged
    for slow, fast in zip(odd[1:], even[1:], strict=True):
        assert slow == pytest.approx(fast / share, rel=0.02)


@pytest.mark.parametrize(
    ("one", "is_ragged"),
    [
        (product(t(64, 588), t(588, 64)), True),
        (product(t(64, 592), t(592, 64)), False),
        (product(t(64, 588, dtype="float32"), t(588, 64, dtype="float32")), False),
        (product(t(1, 587), t(587, 64)), False),  # a vector's kernels are their own
        (product(TensorMeta((64, 64), (100, 1), "bfloat16"), t(64, 64)), True),  # columns of a wider matrix
        (op("aten.bmm.default", t(8, 64, 108), t(8, 108, 64), out=t(8, 64, 64)), True),
        (op("aten.addmm.default", t(63), t(64, 64), turned(64, 63), out=t(64, 63)), False),
    ],
)  # fmt: skip
def test_which_operands_are_ragged(one, is_ragged):
    assert (work(one).ragged_bytes > 0) is is_ragged


def test_a_compiler_pads_them_where_that_is_faster():
    chip = load_chip("h100")
    _, by_input, _ = head(ODD)
    words = [word(Kind.USE, 0), word(Kind.OP, 0), word(Kind.DEF, 1)]
    fused, ops = fuse_words(words, [by_input], [T * ODD * 2, T * K * 2])
    (launched,) = (ops[entry >> 5] for entry in fused if entry & 31 == Kind.OP)
    eager, padded = price_op(by_input, chip), price_op(launched, chip)
    aligned = price_op(head(EVEN)[1], chip)
    copies = machine(chip).memory_s(2 * T * ODD * 2)
    assert padded.body_s == pytest.approx(aligned.body_s + copies, rel=0.01)
    assert padded.body_s < eager.body_s
    # on a chip where it makes little difference it does not
    few = replace(by_input, kwargs=(("padded", True),))
    assert price_op(few, load_chip("rtx-4090")).body_s <= price_op(by_input, load_chip("rtx-4090")).body_s
