"""Attention as Mistral's own inference calls it: prompts packed with a window, then one query of each over its cache."""

import json
import sys

import torch
from xformers.ops.fmha import memory_efficient_attention
from xformers.ops.fmha.attn_bias import (
    BlockDiagonalCausalMask,
    BlockDiagonalCausalWithOffsetPaddedKeysMask,
    BlockDiagonalMask,
)

prompts = [100, 60, 40]
x = torch.randn(1, sum(prompts), 8, 64, device="cuda", dtype=torch.bfloat16)
whole = memory_efficient_attention(x, x, x, BlockDiagonalCausalMask.from_seqlens(prompts).make_local_attention(512))
later = BlockDiagonalMask.from_seqlens(prompts, [2 * one for one in prompts]).make_local_attention_from_bottomright(512)
more = torch.randn(1, 2 * sum(prompts), 8, 64, device="cuda", dtype=torch.bfloat16)
again = memory_efficient_attention(x, more, more, later)
cache = torch.randn(1, 3 * 512, 8, 64, device="cuda", dtype=torch.bfloat16)
mask = BlockDiagonalCausalWithOffsetPaddedKeysMask.from_seqlens([1, 1, 1], 512, [101, 61, 41])
decoded = memory_efficient_attention(x[:, :3], cache, cache, mask)
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump([list(one.shape) for one in (whole, again, decoded)], file)
