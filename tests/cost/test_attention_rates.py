"""What a fused attention takes where a chip has no curve of it."""

import pytest

from anychip.cost import machine, price_op
from anychip.cost.price import Prices
from anychip.cost.rates import defaults
from anychip.spec import load_chip
from tests.cost.ops import op, t


@pytest.mark.parametrize("chip", ["h100", "a100", "mi300x", "l40s", "t4", "v100"])
def test_one_query_against_many_keys_takes_little_longer_than_reading_them(chip):
    # a step of decoding: 4 sequences, 32 heads, 2,048 keys of 64
    query, keys = t(4, 32, 1, 64, dtype="float16"), t(4, 32, 2048, 64, dtype="float16")
    name = "aten._scaled_dot_product_efficient_attention.default"
    priced = Prices([op(name, query, keys, keys, None, False, 0.0, False, out=query)], load_chip(chip))
    read_s = 2 * keys.nbytes / load_chip(chip).memory_bandwidth_bytes_per_s
    assert read_s < priced.body_s[0] < 2.5 * read_s


def test_narrow_heads_are_slower_where_no_curve_tells():
    def level(chip, head_dim):
        return machine(load_chip(chip)).attention_rate("cudnn", False, True, head_dim, 4096).value

    share = defaults().need("attention.narrow").value
    assert level("b200", 64) == pytest.approx(share * level("b200", 128))
    assert level("b200", 32) == pytest.approx(share**2 * level("b200", 128))
    assert level("b200", 96) == pytest.approx(share**0.415 * level("b200", 128), rel=1e-3)
    assert level("b200", 192) == level("b200", 128)
    assert level("h100", 64) / level("h100", 128) == pytest.approx(363 / 518, rel=0.1)  # its own curve


@pytest.mark.parametrize("chip", ["h100", "a100", "mi300x", "b200", "tpu-v5p", "trn2", "gaudi3", "ascend-910b"])
@pytest.mark.parametrize(
    ("batch", "heads", "shared", "keys", "width"), [(1, 32, 32, 2048, 128), (1, 32, 8, 4096, 128), (8, 32, 8, 1024, 64)]
)
def test_one_query_is_limited_by_the_keys_that_it_reads(chip, batch, heads, shared, keys, width):
    """Few sequences were to leave most cores idle, and a TPU to multiply 64 rows for one: both were named compute."""
    query, cache = t(batch, heads, 1, width), t(batch, shared, keys, width)
    name = "aten._scaled_dot_product_flash_attention.default"
    cost = price_op(op(name, query, cache, cache, 0.0, False, out=query), load_chip(chip))
    read_s = 2 * cache.nbytes / load_chip(chip).memory_bandwidth_bytes_per_s
    assert cost.limit == "memory"
    assert read_s < cost.body_s < 2.5 * read_s
