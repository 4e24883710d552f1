"""Attention of a layer: heads split over the tensor group, sequences over the context group; fused or by products."""

from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from accuracy.reference.fused import ExchangedAttention, LowAttention, RingAttention
from accuracy.reference.layout import size
from accuracy.reference.linear import Beside, Gather, How, Linear, joins, mark_partial

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


@dataclass(frozen=True)
class AttentionShape:
    """kind: "flash", "cudnn", "cudnn8" (in FP8), or "products" for one that is not fused. hidden, heads, kv_heads and head_dim of the whole model; window: keys that a query sees at most (0: all)."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_complex: bool = False
    bias: bool = False
    kind: str = "flash"
    again: bool = False
    again_up: bool = False  # heads are made of the latents again
    dropout: float = 0.0
    window: int = 0
    rank: int = 0  # of the first product's adapter
    out_rank: int = 0
    separate: bool = False
    norm: Any = None  # of latents: makes one of a width
    q_rank: int = 0  # widths of the latents that queries, and keys and values, are made from; 0: from the input
    kv_rank: int = 0
    rope_dim: int = 0  # with latents: what of a key its position turns, the same for all heads, beside its head_dim
    exchanges: bool = False  # of a split sequence: heads are exchanged for tokens, instead of keys in a ring


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: [s, b, heads, d]; each pair of halves turned by its position's angle."""
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat((-right, left), -1) * sin


def rotate_complex(x: Tensor, angles: Tensor, _: Tensor) -> Tensor:
    """As Llama's own code: neighbours as one complex number in 32 bit, which no compiler fuses."""
    turned = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2)) * angles
    return torch.view_as_real(turned).flatten(3).type_as(x)


def softmax(scores: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Causal softmax of [b * h, q, k] scores in 32 bit."""
    return (scores * scale).masked_fill(mask, -10000.0).float().softmax(-1).to(scores.dtype)


class Attention(nn.Module):
    """[s, b, hidden] -> [s, b, hidden] before the bias; s may be this rank's part."""

    def __init__(self, shape: AttentionShape, how: How, context: dist.ProcessGroup | None, fuse: Any) -> None:
        super().__init__()
        self.shape, self.context = shape, context
        self.parts = size(how.group)
        self.qkv: nn.Module = Latents(shape, how) if shape.kv_rank else projection(shape, how)
        self.heads = Heads(shape, how, fuse) if shape.kv_rank else None
        self.out = Linear(shape.heads * shape.head_dim, shape.hidden, how, "row", shape.bias, shape.out_rank)
        self.rotate, self.softmax = fuse(rotate_complex if shape.rope_complex else rotate), fuse(softmax)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        return self.from_projection(self.qkv(x), angles)

    def split(self, mixed: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Queries, keys and values as [s, b, heads, d]."""
        shape = self.shape
        if isinstance(mixed, tuple):
            return tuple(one.view(*one.shape[:2], -1, shape.head_dim) for one in mixed)
        heads, kv = max(shape.heads // self.parts, 1), max(shape.kv_heads // self.parts, 1)
        mixed = mixed.view(*mixed.shape[:2], -1, shape.head_dim)
        return mixed.split([heads, kv, mixed.shape[2] - heads - kv], 2)

    def from_projection(self, mixed: Tensor | tuple[Tensor, ...], angles: tuple[Tensor, Tensor] | None) -> Tensor:
        if self.heads is None:
            q, k, v = self.split(mixed)
            if angles is not None:
                q, k = self.rotate(q, *angles), self.rotate(k, *angles)
        elif self.shape.again_up:
            q, k, v = checkpoint(self.heads, *mixed, angles, use_reentrant=False)
        else:
            q, k, v = self.heads(*mixed, angles)
        if self.shape.again:
            mixed = checkpoint(self.core, q, k, v, use_reentrant=False)
        else:
            mixed = self.core(q, k, v)
        return self.out(mixed.reshape(*mixed.shape[:2], -1), finish=False)  # type: ignore[no-any-return]

    def core(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[s, b, heads, d] of each -> [s, b, heads, d]"""
        if self.shape.kind == "products":
            return self.unfused(q, k, v)
        if q.shape[3] != v.shape[3] and (self.context is not None or self.shape.kind == "flash"):
            # FlashAttention knows one width of heads; the ring sends keys and values as one
            wide = nn.functional.pad(v, (0, q.shape[3] - v.shape[3]))
            return self.fused(q, k, wide)[..., : v.shape[3]]
        return self.fused(q, k, v)

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.context is not None and self.shape.exchanges:
            # Each rank has a share of the heads; of fewer key heads than ranks each is given to several (as MindSpeed and verl do).
            n = size(self.context)
            k, v = (t.repeat_interleave(n // gcd(n, t.shape[2]), 2) for t in (k, v)) if k.shape[2] % n else (k, v)
            return ExchangedAttention.apply(q, k, v, self.shape.kind, self.context)  # type: ignore[no-any-return]
        q, k, v = (t.permute(1, 2, 0, 3) for t in (q, k, v))
        if self.context is not None:
            out = RingAttention.apply(q, k, v, self.shape.kind, self.context)
        elif self.shape.kind == "cudnn8":
            out = LowAttention.apply(q, k, v)
        elif self.shape.window and self.shape.window < q.shape[2]:
            out = (near if self.shape.kind == "cudnn" else windowed)(q, k, v, self.shape.window)
        else:
            if self.shape.kind == "efficient":  # knows no groups of heads
                k, v = (
                    (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
                    if k.shape[1] != q.shape[1]
                    else (k, v)
                )
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
        q, k, v = (t.reshape(t.shape[0], batch * heads, -1).transpose(0, 1) for t in (q, k, v))
        scores = torch.bmm(q, k.transpose(1, 2))
        shares = self.softmax(scores, causal_mask(length, q.device), dim**-0.5)
        if self.shape.dropout and self.training:
            shares = nn.functional.dropout(shares, self.shape.dropout)
        return torch.bmm(shares, v).transpose(0, 1).reshape(length, batch, heads, -1)


def projection(shape: AttentionShape, how: How) -> nn.Module:
    """Queries, keys and values of the input: by one product, or by three."""
    q, kv = (heads * shape.head_dim for heads in (shape.heads, shape.kv_heads))
    is_joined = joins(how) or not shape.separate
    widths = (q + 2 * kv,) if is_joined else (q, kv, kv)
    products = [Linear(shape.hidden, width, how, "column", shape.bias, shape.rank) for width in widths]
    return products[0] if is_joined else Beside(products)


class Latents(nn.Module):
    """[s, b, hidden] -> normed latents of queries (the input itself where they have none) and of keys and values, and the
    keys' turned part [s, b, rope_dim]: DeepSeek-V2's attention (arXiv 2405.04434, section 2.1). Not split over ranks, as
    in Megatron-LM; each rank does its part of the sequence."""

    def __init__(self, shape: AttentionShape, how: How) -> None:
        super().__init__()
        self.kv_rank = shape.kv_rank
        self.q = Linear(shape.hidden, shape.q_rank, how) if shape.q_rank else None
        self.kv = Linear(shape.hidden, shape.kv_rank + shape.rope_dim, how)
        self.q_norm = shape.norm(shape.q_rank) if shape.q_rank else None
        self.kv_norm = shape.norm(shape.kv_rank)
        mark_partial(self, how)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        latent, turned = self.kv(x).split([self.kv_rank, self.kv.weight.shape[0] - self.kv_rank], -1)
        query = x if self.q is None or self.q_norm is None else self.q_norm(self.q(x))
        return query, self.kv_norm(latent), turned


class Heads(nn.Module):
    """Latents -> queries and keys [s, b, heads, head_dim + rope_dim], values [s, b, heads, head_dim]; heads of this rank."""

    def __init__(self, shape: AttentionShape, how: How, fuse: Any) -> None:
        super().__init__()
        self.shape, self.how = shape, how._replace(pieces=1)
        self.q = Linear(
            shape.q_rank or shape.hidden, shape.heads * (shape.head_dim + shape.rope_dim), self.how, "column"
        )
        self.kv = Linear(shape.kv_rank, shape.heads * 2 * shape.head_dim, self.how, "column")
        self.join = fuse(with_turned)

    def forward(
        self, query: Tensor, latent: Tensor, turned: Tensor, angles: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, kv = self.q(query), self.kv(latent)
        if self.how.group is not None:
            turned = Gather.apply(turned, self.how)
        q, kv = (one.view(*one.shape[:2], -1, width) for one, width in ((q, self.wide), (kv, 2 * self.shape.head_dim)))
        k, v = kv.chunk(2, -1)
        own, moved = q.split([self.shape.head_dim, self.shape.rope_dim], -1)
        once = turned.unsqueeze(2)
        return self.join(own, moved, angles), self.join(k, once.expand(-1, -1, k.shape[2], -1), angles), v

    @property
    def wide(self) -> int:
        return self.shape.head_dim + self.shape.rope_dim


def with_turned(own: Tensor, turned: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
    """A head's own part, and beside it the part that its position turns."""
    return torch.cat((own, turned if angles is None else rotate(turned, *angles)), -1)


_masks: dict[int, Tensor] = {}


def causal_mask(length: int, device: torch.device) -> Tensor:
    if length not in _masks:
        _masks[length] = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
    return _masks[length]


def near(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention to the last `window` keys, by one kernel of a GPU."""
    q, k, v = (one.transpose(1, 2) for one in (q, k, v))
    out = torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, q.shape[1], k.shape[1], 0.0, True, False, window_size_left=window - 1, window_size_right=0
    )[0]
    return out.transpose(1, 2)  # type: ignore[no-any-return]


def windowed(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """The same by blocks of as many queries, each with as many keys before it, which are what a TPU's kernel takes at once."""
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
