"""Masks of xformers for packed sequences and caches: what is seen on the CPU, what is read on a chip."""

from pathlib import Path

import pytest
import torch

from anychip.standins.libraries.xformers import MODULES, memory_efficient_attention
from tests.standins.recorded import Recorded

MASKS = MODULES["xformers.ops.fmha.attn_bias"]


def test_a_cache_is_read_as_far_as_its_sequences_go(tmp_path: Path) -> None:
    recorded = Recorded(Path(__file__).parent / "programs" / "cache.py", tmp_path / "said.json")
    assert recorded.said == [[1, 200, 8, 64], [1, 200, 8, 64], [1, 3, 8, 64]]
    keys = [op.args[1].shape for op in recorded.ops if op.name.startswith("aten._flash_attention_forward")]
    # prompts; 2 * 200 keys of the second round; of three slots of 512 rows 101 + 61 + 41
    assert keys == [(200, 8, 64), (400, 8, 64), (203, 8, 64)]


def expected(q: torch.Tensor, k: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """One head's attention, written out; q [rows, dim], k [columns, dim]."""
    scores = (q @ k.t() / q.shape[1] ** 0.5).masked_fill(~seen, float("-inf"))
    return scores.softmax(-1) @ k


@pytest.mark.parametrize(
    ("name", "window", "first"),
    [
        # of 4 queries and 6 keys: the key that the first query sees last
        ("BlockDiagonalCausalMask", None, 0),
        ("BlockDiagonalCausalFromBottomRightMask", None, 2),
        ("BlockDiagonalCausalLocalAttentionMask", 2, 0),
        ("BlockDiagonalCausalLocalAttentionFromBottomRightMask", 2, 2),
    ],
)
def test_queries_see_the_keys_of_their_sequence_up_to_their_own(name: str, window: int | None, first: int) -> None:
    mask = MASKS["BlockDiagonalMask"].from_seqlens([4, 3], [6, 3])
    made = {
        "BlockDiagonalCausalMask": mask.make_causal,
        "BlockDiagonalCausalFromBottomRightMask": mask.make_causal_from_bottomright,
        "BlockDiagonalCausalLocalAttentionMask": lambda: mask.make_local_attention(2),
        "BlockDiagonalCausalLocalAttentionFromBottomRightMask": lambda: mask.make_local_attention_from_bottomright(2),
    }[name]()
    assert type(made) is MASKS[name]
    q, k = torch.randn(7, 8), torch.randn(9, 8)
    out = memory_efficient_attention(q.view(1, 7, 1, 8), k.view(1, 9, 1, 8), k.view(1, 9, 1, 8), made)
    for rows, columns, last in ((slice(0, 4), slice(0, 6), first), (slice(4, 7), slice(6, 9), 0)):
        queries, keys = q[rows], k[columns]
        far = torch.arange(len(keys))[None] - (torch.arange(len(queries))[:, None] + last)
        seen = (far <= 0) & (far > -(window or 99))
        torch.testing.assert_close(out[0, rows, 0], expected(queries, keys, seen))


def test_keys_of_a_cache_begin_where_their_slot_does() -> None:
    mask = MASKS["BlockDiagonalCausalWithOffsetPaddedKeysMask"].from_seqlens([1, 1], 5, [3, 4])
    q, k = torch.randn(2, 8), torch.randn(10, 8)
    out = memory_efficient_attention(q.view(1, 2, 1, 8), k.view(1, 10, 1, 8), k.view(1, 10, 1, 8), mask)
    whole = torch.ones(1, 4, dtype=torch.bool)
    torch.testing.assert_close(out[0, :1, 0], expected(q[:1], k[:3], whole[:, :3]))
    torch.testing.assert_close(out[0, 1:, 0], expected(q[1:], k[5:9], whole))
