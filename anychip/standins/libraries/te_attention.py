"""Transformer Engine's attention: which fused kernel it takes, and sequences that are split over ranks.

Across ranks (`cp_group`) each holds an early and a late piece of the sequence, so that all have as much to do. Keys and
values go around the ring, and each rank attends to its own causally, to those of each other rank by half; the next keys
travel meanwhile. In the backward they go around once more, and their gradients after them.
"""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from anychip.standins.fused import fused
from anychip.standins.libraries.flash_attn import flash_attn_func

Tensor = torch.Tensor


def backend() -> str:
    """ "flash" or "cudnn", as the real one chooses: cuDNN's from compute capability 9.0 on, FlashAttention before, of those
    that NVTE_FLASH_ATTN and NVTE_FUSED_ATTN leave."""
    flash, fused_one = (os.environ.get(name, "1") != "0" for name in ("NVTE_FLASH_ATTN", "NVTE_FUSED_ATTN"))
    if flash and fused_one:
        return "cudnn" if torch.cuda.get_device_capability() >= (9, 0) else "flash"
    return "cudnn" if fused_one else "flash"


class DotProductAttention(torch.nn.Module):
    """Fused attention over "sbhd" or "bshd" tensors; the heads are flattened in the result."""

    def __init__(self, num_attention_heads: int, kv_channels: Any, num_gqa_groups: int | None = None,
                 attention_dropout: float = 0.0, qkv_format: str = "sbhd", attn_mask_type: str = "causal",
                 softmax_scale: float | None = None, cp_group: Any = None, cp_comm_type: str = "p2p",
                 window_size: tuple[int, int] | None = None, **options: Any) -> None:  # fmt: skip
        super().__init__()
        self.dropout, self.format, self.mask_type = attention_dropout, qkv_format, attn_mask_type
        self.scale, self.window = softmax_scale, window_size
        self.set_context_parallel_group(cp_group, None, None, cp_comm_type)

    def set_context_parallel_group(self, cp_group: Any, _ranks: Any, _stream: Any, cp_comm_type: str = "p2p") -> None:
        self.ring = cp_group if cp_group is not None and dist.get_world_size(cp_group) > 1 else None
        if self.ring is not None and (cp_comm_type or "p2p") != "p2p":
            raise NotImplementedError(
                f"anychip's stand-in for transformer_engine attends across ranks by p2p, not by {cp_comm_type}"
            )

    def forward(self, query_layer: Tensor, key_layer: Tensor, value_layer: Tensor, attention_mask: Any = None,
                qkv_format: str | None = None, attn_mask_type: str | None = None,
                window_size: tuple[int, int] | None = None, **_options: Any) -> Tensor:  # fmt: skip
        kind = qkv_format or self.format
        order = (1, 2, 0, 3) if kind == "sbhd" else (0, 2, 1, 3)
        q, k, v = (one.permute(order) for one in (query_layer, key_layer, value_layer))
        causal = "causal" in (attn_mask_type or self.mask_type)
        dropout = self.dropout if self.training else 0.0
        left, right = window_size or self.window or (-1, -1)
        is_windowed = left >= 0 or (right >= 0 and not causal)
        if self.ring is not None and is_windowed:
            raise NotImplementedError("transformer_engine has no sliding window across ranks by p2p")
        if self.ring is not None:
            out: Tensor = _Ring.apply(q, k, v, self.ring, causal, self.scale)  # type: ignore[no-untyped-call]
        elif is_windowed:
            # cuDNN's operator in torch knows no window: the kernel that does
            q, k, v = (one.transpose(1, 2) for one in (q, k, v))
            out = flash_attn_func(q, k, v, dropout, self.scale, causal, (left, 0 if causal else right)).transpose(1, 2)
        else:
            out = _whole(q, k, v, causal, dropout, self.scale)
        return out.permute((2, 0, 1, 3) if kind == "sbhd" else (0, 2, 1, 3)).flatten(2)


def _whole(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float, scale: float | None) -> Tensor:
    only = sdpa_kernel(SDPBackend.CUDNN_ATTENTION) if q.is_cuda and backend() == "cudnn" else nullcontext()
    with only:
        return F.scaled_dot_product_attention(
            q, k, v, None, dropout, causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )


# Across ranks -----------------------------------------------------------------------------------------------------------

Attended = tuple[Any, ...]  # out, log of sums, and what the backward asks for
aten = torch.ops.aten


def _attend(q: Tensor, k: Tensor, v: Tensor, kind: str, causal: bool, scale: float | None) -> Attended:
    if kind == "flash":
        return aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, scale=scale)  # type: ignore[no-any-return]
    return aten._scaled_dot_product_cudnn_attention(  # type: ignore[no-any-return]
        q, k, v, None, True, 0.0, causal, False, scale=scale
    )


def _attend_back(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, done: Attended, kind: str, causal: bool,
                 scale: float | None) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    out, sums, *lengths, seed, offset, _ = done
    if kind == "flash":
        return aten._scaled_dot_product_flash_attention_backward(  # type: ignore[no-any-return]
            grad, q, k, v, out, sums, *lengths, 0.0, causal, seed, offset, scale=scale
        )
    return aten._scaled_dot_product_cudnn_attention_backward(  # type: ignore[no-any-return]
        grad, q, k, v, out, sums, seed, offset, None, *lengths, 0.0, causal, scale=scale
    )


def _shift(x: Tensor, group: Any) -> tuple[Tensor, list[Any]]:
    """What the rank before has of x, once the works are waited for."""
    ranks = dist.get_process_group_ranks(group)
    at = ranks.index(dist.get_rank())
    x = x.contiguous()
    out = torch.empty_like(x)
    sent = dist.P2POp(dist.isend, x, ranks[(at + 1) % len(ranks)], group=group)
    return out, dist.batch_isend_irecv([sent, dist.P2POp(dist.irecv, out, ranks[at - 1], group=group)])


def _turns(both: Tensor, group: Any) -> Iterator[tuple[int, Tensor]]:
    """(turn of the ring, what the rank has in it): its own first; what comes next travels meanwhile."""
    ranks, works = dist.get_world_size(group), list[Any]()
    for number in range(ranks):
        for work in works:
            work.wait()
        own = both
        if number < ranks - 1:
            both, works = _shift(own, group)
        yield number, own


def _seen(both: Tensor, heads: int, number: int, causal: bool) -> tuple[Tensor, Tensor]:
    """Keys and values [B, H, S, D] that a rank looks at in this turn of the ring."""
    k, v = both.split((heads, both.shape[1] - heads), 1)
    half = k.shape[2] if number == 0 or not causal else k.shape[2] // 2
    return k[:, :, :half], v[:, :, :half]


@fused("transformer_engine.merge_attention", flop=lambda out, *_: 3 * out.numel(), backward=0.0)
def _merge(out: Tensor, total: Tensor, part: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Two attentions over different keys as one, by the logarithms of their sums."""
    both = torch.logaddexp(total, sums)
    one, two = (((x - both).exp().unsqueeze(-1)).to(out.dtype) for x in (total, sums))
    return out * one + part * two, both


class _Ring(torch.autograd.Function):
    """q [B, H, S, D], k and v [B, G, S, D] of this rank -> [B, H, S, D]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, group: Any, causal: bool, scale: float | None) -> Tensor:
        kind, done = backend(), list[Attended]()
        out = total = None
        for number, own in _turns(torch.cat((k, v), 1), group):
            done.append(_attend(q, *_seen(own, k.shape[1], number, causal), kind, causal and number == 0, scale))
            part, sums = done[-1][0], done[-1][1].view(q.shape[:3])
            out, total = (part, sums) if out is None else _merge(out, total, part, sums)
        ctx.save_for_backward(q, k, v)
        ctx.how = kind, group, done, causal, scale
        return out  # type: ignore[return-value]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (q, k, v), (kind, group, done, causal, scale) = ctx.saved_tensors, ctx.how
        heads, sent = k.shape[1], list[Any]()
        total = grad_q = None
        for number, own in _turns(torch.cat((k, v), 1), group):
            keys = _seen(own, heads, number, causal)
            part_q, *parts = _attend_back(grad, q, *keys, done[number], kind, causal and number == 0, scale)
            for work in sent:
                work.wait()
            grad_q = part_q if grad_q is None else grad_q + part_q
            part = torch.cat(parts, 1)
            if total is None:
                total = part
            else:
                total[:, :, : part.shape[2]].add_(part)
            total, sent = _shift(total, group)
        for work in sent:
            work.wait()
        assert total is not None
        return grad_q, *total.split((heads, total.shape[1] - heads), 1), None, None, None
