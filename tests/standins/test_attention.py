"""FLOP of attention over packed sequences and within a window, by hand."""

from anychip.cost import work
from anychip.record import Op, TensorMeta


def packed(tokens: int, lengths: int | None, window: int | None = None) -> Op:
    """Eight heads of 64, `lengths` sequences of equal length."""
    x = TensorMeta((tokens, 8, 64), (512, 64, 1), "bfloat16")
    starts = None if lengths is None else TensorMeta((lengths + 1,), (1,), "int32")
    longest = tokens // (lengths or 1)
    kwargs = (("scale", 0.125), ("window_size_left", window), ("window_size_right", 0 if window is not None else None))
    args = (x, x, x, starts, starts, longest, longest, 0.0, True, False)
    return Op("aten._flash_attention_forward.default", args, kwargs, (x,))


def test_packed_sequences_do_not_see_one_another() -> None:
    # two products of 2 * 8 heads * length**2 * 64, half of it under the mask: 1 x 512 against 4 x 128 tokens
    assert work(packed(512, None)).flop == 2 * 2 * 8 * 512 * 512 * 64 // 2
    assert work(packed(512, 4)).flop == 4 * (2 * 2 * 8 * 128 * 128 * 64 // 2)


def test_a_window_keeps_its_width_of_keys() -> None:
    # each of 512 queries sees itself and 31 keys to the left
    assert work(packed(512, None, window=31)).flop == 2 * 2 * 8 * 512 * 32 * 64
    # a window wider than the triangle changes nothing
    assert work(packed(512, None, window=511)).flop == work(packed(512, None)).flop
