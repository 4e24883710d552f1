"""Transformer Engine's permutation kernels for mixtures of experts: each is one pass over the tokens.

Where a token went is kept as positions in the routing map, expert by expert; the real kernels keep a table of their own.
"""

from typing import Any

import torch

from anychip.standins.fused import fused
from anychip.standins.libraries.te_products import FP8GlobalStateManager

Tensor = torch.Tensor


def _taken(routing_map: Tensor, count: int) -> Tensor:
    """routing_map [tokens, experts] -> positions [count] in its transpose that are chosen, expert by expert."""
    return routing_map.t().reshape(-1).argsort(descending=True, stable=True)[:count]


def _none(*_: Any) -> int:
    return 0


@fused("transformer_engine.moe_permute", flop=_none, saves=())
def _permute(x: Tensor, routing_map: Tensor, count: int) -> tuple[Tensor, Tensor]:
    taken = _taken(routing_map, count)
    return x.index_select(0, taken % x.shape[0]), taken


@fused("transformer_engine.moe_permute_with_probs", flop=_none, saves=())
def _permute_with_probs(x: Tensor, probs: Tensor, routing_map: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    taken = _taken(routing_map, count)
    return x.index_select(0, taken % x.shape[0]), probs.t().reshape(-1).index_select(0, taken), taken


@fused("transformer_engine.moe_unpermute", flop=lambda x, taken, probs, tokens: x.numel(), saves=(1, 2), backward=1.0)
def _unpermute(x: Tensor, taken: Tensor, probs: Tensor | None, tokens: int) -> Tensor:
    parts = x if probs is None else x * probs.t().reshape(-1).index_select(0, taken).unsqueeze(-1)
    return x.new_zeros((tokens, x.shape[1])).index_add(0, taken % tokens, parts)


def _rows(sizes: Tensor, order: Tensor, count: int) -> Tensor:
    """Rows of chunks of these sizes, the chunks put into this order."""
    chunk = torch.bucketize(torch.arange(count, device=sizes.device), sizes.cumsum(0), right=True)
    return order.argsort().index_select(0, chunk.clamp(max=order.shape[0] - 1)).argsort(stable=True)


@fused("transformer_engine.moe_sort_chunks", flop=_none, saves=())
def _sort(x: Tensor, sizes: Tensor, order: Tensor) -> Tensor:
    return x.index_select(0, _rows(sizes, order, x.shape[0]))


@fused("transformer_engine.moe_sort_chunks_with_probs", flop=_none, saves=())
def _sort_with_probs(x: Tensor, probs: Tensor, sizes: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    rows = _rows(sizes, order, x.shape[0])
    return x.index_select(0, rows), probs.index_select(0, rows)


def _by_mask(map_type: str) -> None:
    if map_type != "mask":
        raise NotImplementedError("anychip's stand-in for transformer_engine permutes tokens by mask only")


def moe_permute(inp: Tensor, routing_map: Tensor, num_out_tokens: int = -1, max_token_num: int = -1,
                map_type: str = "mask") -> Any:  # fmt: skip
    """inp [tokens, hidden], routing_map [tokens, experts] -> ([num_out_tokens, hidden], where they went)."""
    _by_mask(map_type)
    return _permute(inp, routing_map, num_out_tokens)


def moe_permute_with_probs(inp: Tensor, probs: Tensor, routing_map: Tensor, num_out_tokens: int = -1) -> Any:
    """The same with probs [tokens, experts] -> (tokens, their probabilities [num_out_tokens], where they went)."""
    return _permute_with_probs(inp, probs, routing_map, num_out_tokens)


def moe_unpermute(inp: Tensor, row_id_map: Tensor, merging_probs: Tensor | None = None, restore_shape: Any = None,
                  map_type: str = "mask", probs: Tensor | None = None) -> Tensor:  # fmt: skip
    """inp [n, hidden] -> [tokens, hidden], the copies of a token summed up."""
    _by_mask(map_type)
    tokens = inp.shape[0] if restore_shape is None else restore_shape[0]
    result: Tensor = _unpermute(inp, row_id_map, merging_probs if merging_probs is not None else probs, tokens)
    return result


def moe_sort_chunks_by_index(inp: Tensor, split_sizes: Tensor, sorted_index: Tensor) -> Tensor:
    result: Tensor = _sort(inp, split_sizes, sorted_index)
    return result


def moe_sort_chunks_by_index_with_probs(inp: Tensor, probs: Tensor, split_sizes: Tensor, sorted_index: Tensor) -> Any:
    return _sort_with_probs(inp, probs, split_sizes, sorted_index)


ALIGNED = 16  # rows of each expert's product in FP8; 32 where blocks of 32 share a scale


def _aligned(sizes: Any, to: int) -> list[int]:
    return [-(-size // to) * to for size in sizes]


@fused("transformer_engine.multi_padding", flop=_none, saves=())
def _padded(x: Tensor, before: tuple[int, ...], after: tuple[int, ...]) -> Tensor:
    """Chunks of `before` rows each -> of `after`: filled up with zeros, or cut."""
    parts = [
        torch.nn.functional.pad(part, (0, 0, 0, many - part.shape[0]))
        for part, many in zip(x.split(before), after, strict=True)
    ]
    return torch.cat(parts)


class Fp8Padding(torch.nn.Module):
    """inp [tokens, hidden] and rows of each expert -> the same with every expert's rows filled up, for FP8 products."""

    def __init__(self, num_gemms: int, align_size: int | None = None) -> None:
        super().__init__()
        self.num_gemms, self.align_size = num_gemms, align_size

    def rows(self, m_splits: Any) -> list[int]:
        recipe = FP8GlobalStateManager.get_fp8_recipe()
        return _aligned(m_splits, self.align_size or (2 * ALIGNED if recipe.mxfp8() else ALIGNED))

    def forward(self, inp: Tensor, m_splits: list[int]) -> tuple[Tensor, list[int]]:
        wanted = self.rows(m_splits)
        return (inp if wanted == list(m_splits) else _padded(inp, tuple(m_splits), tuple(wanted))), wanted


class Fp8Unpadding(Fp8Padding):
    """The way back."""

    def forward(self, inp: Tensor, m_splits: list[int]) -> Tensor:  # type: ignore[override]
        had = self.rows(m_splits)
        return inp if had == list(m_splits) else _padded(inp, tuple(had), tuple(m_splits))


PERMUTATION: dict[str, Any] = {
    one.__name__: one
    for one in (
        moe_permute, moe_permute_with_probs, moe_unpermute, moe_sort_chunks_by_index, moe_sort_chunks_by_index_with_probs,
    )
}  # fmt: skip
