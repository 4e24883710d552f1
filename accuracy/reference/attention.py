"""Attention of a layer: heads split over the tensor group, sequences over the context group; fused or by products."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from accuracy.reference.layout import size
from accuracy.reference.linear import How, Linear

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


@dataclass(frozen=True)
class AttentionShape:
    """kind: "flash", "cudnn", or "products" for one that is not fused. hidden, heads, kv_heads and head_dim of the whole model; window: keys that a query sees at most (0: all)."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    rope: bool = True
    bias: bool = False
    kind: str = "flash"
    again: bool = False
    dropout: float = 0.0
    window: int = 0
    rank: int = 0  # of the first product's adapter
    out_rank: int = 0


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: [s, b, heads, d]; each pair of halves turned by its position's angle."""
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat((-right, left), -1) * sin


def softmax(scores: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Causal softmax of [b * h, q, k] scores in 32 bit."""
    return (scores * scale).masked_fill(mask, -10000.0).float().softmax(-1).to(scores.dtype)


class Attention(nn.Module):
    """[s, b, hidden] -> [s, b, hidden] before the bias; s may be this rank's part."""

    def __init__(self, shape: AttentionShape, how: How, context: dist.ProcessGroup | None, fuse: Any) -> None:
        super().__init__()
        self.shape, self.context = shape, context
        self.parts = size(how.group)
        width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        self.qkv = Linear(shape.hidden, width, how, "column", shape.bias, shape.rank)
        self.out = Linear(shape.heads * shape.head_dim, shape.hidden, how, "row", shape.bias, shape.out_rank)
        self.rotate, self.softmax = fuse(rotate), fuse(softmax)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        return self.from_projection(self.qkv(x), angles)

    def from_projection(self, mixed: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        shape = self.shape
        heads, kv = max(shape.heads // self.parts, 1), max(shape.kv_heads // self.parts, 1)
        mixed = mixed.view(*mixed.shape[:2], -1, shape.head_dim)
        q, k, v = mixed.split([heads, kv, mixed.shape[2] - heads - kv], 2)
        if angles is not None:
            q, k = self.rotate(q, *angles), self.rotate(k, *angles)
        if self.shape.again:
            mixed = checkpoint(self.core, q, k, v, use_reentrant=False)
        else:
            mixed = self.core(q, k, v)
        return self.out(mixed.reshape(*mixed.shape[:2], -1), finish=False)  # type: ignore[no-any-return]

    def core(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[s, b, heads, d] of each -> [s, b, heads, d]"""
        if self.shape.kind == "products":
            return self.unfused(q, k, v)
        q, k, v = (t.permute(1, 2, 0, 3) for t in (q, k, v))
        if self.context is not None:
            out = ring_attention(q, k, v, self.context)
        elif self.shape.window and self.shape.window < q.shape[2]:
            out = windowed(q, k, v, self.shape.window)
        else:
            with sdpa_kernel(BACKENDS[self.shape.kind]):
                out = nn.functional.scaled_dot_product_attention(
                    q, k, v, is_causal=True, dropout_p=self.shape.dropout if self.training else 0.0,
                    enable_gqa=q.shape[1] != k.shape[1],
                )  # fmt: skip
        return out.permute(2, 0, 1, 3)

    def unfused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """By two batched products and a softmax that is one kernel, as Megatron-LM without a fused attention."""
        length, batch, heads, dim = q.shape
        if k.shape[2] != heads:
            k, v = (t.repeat_interleave(heads // t.shape[2], 2) for t in (k, v))
        q, k, v = (t.reshape(t.shape[0], batch * heads, dim).transpose(0, 1) for t in (q, k, v))
        scores = torch.bmm(q, k.transpose(1, 2))
        shares = self.softmax(scores, causal_mask(length, q.device), dim**-0.5)
        if self.shape.dropout and self.training:
            shares = nn.functional.dropout(shares, self.shape.dropout)
        return torch.bmm(shares, v).transpose(0, 1).reshape(length, batch, heads, dim)


_masks: dict[int, Tensor] = {}


def causal_mask(length: int, device: torch.device) -> Tensor:
    if length not in _masks:
        _masks[length] = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
    return _masks[length]


def windowed(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention to the last `window` keys: blocks of queries, each with as many keys before it."""
    parts = []
    for begin in range(0, q.shape[2], window):
        end = min(begin + window, q.shape[2])
        first = max(begin - window // 2, 0)  # half of the keys before a block are seen by a query on average
        parts.append(
            torch.ops.aten._scaled_dot_product_flash_attention(
                q[:, :, begin:end], k[:, :, first:end], v[:, :, first:end], 0.0, False
            )[0]
        )
    return torch.cat(parts, 2)


class Exchange(torch.autograd.Function):
    """Sends a tensor to the next rank of the ring and takes the previous one's; gradients go the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return shift(x, group, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return shift(grad, ctx.group, -1), None


def shift(x: Tensor, group: dist.ProcessGroup, by: int) -> Tensor:
    ranks = dist.get_process_group_ranks(group)
    at = ranks.index(dist.get_rank())
    x = x.contiguous()
    out = torch.empty_like(x)
    works = dist.batch_isend_irecv([
        dist.P2POp(dist.isend, x, ranks[(at + by) % len(ranks)], group=group),
        dist.P2POp(dist.irecv, out, ranks[(at - by) % len(ranks)], group=group),
    ])  # fmt: skip
    for work in works:
        work.wait()
    return out


def ring_attention(q: Tensor, k: Tensor, v: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Causal attention of a sequence of which each rank has an early and a late piece, so that all have as much to do:
    its own keys causally, then those of each other rank, of which it sees half."""
    out, total = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True)[:2]
    both = torch.cat((k, v), 1)
    for _ in range(size(group) - 1):
        both = Exchange.apply(both, group)
        k, v = both.chunk(2, 1)
        half = k.shape[2] // 2
        part, sums = torch.ops.aten._scaled_dot_product_flash_attention(q, k[:, :, :half], v[:, :, :half], 0.0, False)[
            :2
        ]
        out, total = merge(out, total, part, sums)
    return out


@torch.compile
def merge(out: Tensor, total: Tensor, part: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Two attentions over different keys as one, by the logarithms of their sums."""
    both = torch.logaddexp(total, sums)
    weights = ((one - both).exp().unsqueeze(-1).to(out.dtype) for one in (total, sums))
    return out * next(weights) + part * next(weights), both
