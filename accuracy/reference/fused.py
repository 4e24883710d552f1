"""Fused attention as ops, where autograd's own way does not do: FP8, and a sequence split over ranks."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from accuracy.reference.layout import size
from accuracy.reference.linear import E4M3, E5M2, to_tensor_scaled_once

Attended = tuple[Any, ...]  # out, log of sums, and what the backward asks for


def attend(q: Tensor, k: Tensor, v: Tensor, kind: str, is_causal: bool) -> Attended:
    """kind: flash, cudnn, or cudnn8, which is cudnn given FP8."""
    if kind == "flash":
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal)  # type: ignore[no-any-return]
    return torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, is_causal, False)  # type: ignore[no-any-return]


def attend_back(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, done: Attended, kind: str,
                is_causal: bool) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    out, sums, *lengths, seed, offset, _ = done
    if kind == "flash":
        return torch.ops.aten._scaled_dot_product_flash_attention_backward(  # type: ignore[no-any-return]
            grad, q, k, v, out, sums, *lengths, 0.0, is_causal, seed, offset
        )
    return torch.ops.aten._scaled_dot_product_cudnn_attention_backward(  # type: ignore[no-any-return]
        grad, q, k, v, out, sums, seed, offset, None, *lengths, 0.0, is_causal
    )


class LowAttention(torch.autograd.Function):
    """Causal attention whose products are in FP8, forward and backward, as Transformer Engine's FP8 attention."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        low = [to_tensor_scaled_once(x, E4M3) for x in (q, k, v)]
        ctx.low, ctx.dtype = low, q.dtype
        ctx.done = attend(*low, "cudnn", True)
        return ctx.done[0].to(q.dtype)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        found = attend_back(to_tensor_scaled_once(grad, E5M2), *ctx.low, ctx.done, "cudnn", True)
        return tuple(one.to(ctx.dtype) for one in found)  # type: ignore[return-value]


def shift(x: Tensor, group: dist.ProcessGroup, by: int) -> tuple[Tensor, list[Any]]:
    """What the rank before (by = 1) or after has of x, once the works are waited for; it goes around a ring."""
    ranks = dist.get_process_group_ranks(group)
    at = ranks.index(dist.get_rank())
    x = x.contiguous()
    out = torch.empty_like(x)
    return out, dist.batch_isend_irecv([
        dist.P2POp(dist.isend, x, ranks[(at + by) % len(ranks)], group=group),
        dist.P2POp(dist.irecv, out, ranks[(at - by) % len(ranks)], group=group),
    ])  # fmt: skip


class RingAttention(torch.autograd.Function):
    """Causal attention of a sequence of which each rank has an early and a late piece, so that all have as much to do: its
    own keys causally, then those of each other rank, of which it sees half. The next keys travel meanwhile."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, kind: str, group: dist.ProcessGroup) -> Tensor:
        how = lowered if kind == "cudnn8" else as_is
        both, works = how(torch.cat((k, v), 1), E4M3), []
        done, turned = [], how(q, E4M3)
        out = sums = None
        for number in range(size(group)):
            for work in works:
                work.wait()
            own = both
            both, works = shift(own, group, 1) if number < size(group) - 1 else (own, [])
            done.append(attend(turned, *seen(own, number), kind, number == 0))
            part, logs = done[-1][0].to(q.dtype), done[-1][1].view(q.shape[:3])
            out, sums = (part, logs) if number == 0 else merge(out, sums, part, logs)
        ctx.save_for_backward(q, k, v)
        ctx.how = kind, group, done
        return out  # type: ignore[return-value]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        """Keys go around once more, and their gradients after them."""
        (q, k, v), (kind, group, done) = ctx.saved_tensors, ctx.how
        how = lowered if kind == "cudnn8" else as_is
        both, works = how(torch.cat((k, v), 1), E4M3), []
        grad, turned, wide = how(grad, E5M2), how(q, E4M3), q.dtype
        total = grad_q = None
        sent: list[Any] = []
        for number in range(size(group)):
            for work in works:
                work.wait()
            own = both
            both, works = shift(own, group, 1) if number < size(group) - 1 else (own, [])
            found = attend_back(grad, turned, *seen(own, number), done[number], kind, number == 0)
            part_q, *part = (one.to(wide) for one in found)
            for work in sent:
                work.wait()
            grad_q = part_q if grad_q is None else grad_q + part_q
            total = added(total, torch.cat(part, 1), number)
            total, sent = shift(total, group, 1)
        for work in sent:
            work.wait()
        assert total is not None
        return grad_q, *total.split((k.shape[1], v.shape[1]), 1), None, None


class ExchangedAttention(torch.autograd.Function):
    """Causal attention of a sequence split over ranks: before it each rank gets all tokens of its share of the heads, after it
    all heads of its tokens (DeepSpeed-Ulysses, arXiv 2309.14509; cp_comm_type a2a of Transformer Engine, whose FP8 attention
    sends FP8 both ways). [s, b, heads, d] of each -> [s, b, heads, d]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, kind: str, group: dist.ProcessGroup) -> Tensor:
        how = lowered if kind == "cudnn8" else as_is
        moved = to_heads([how(x, E4M3) for x in (q, k, v)], group)
        done = attend(*(x.permute(1, 2, 0, 3) for x in moved), kind, True)
        ctx.save_for_backward(*moved)
        ctx.how = kind, group, done, q.dtype
        (out,) = to_tokens([done[0].permute(2, 0, 1, 3)], group)
        return out.to(q.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        kind, group, done, wide = ctx.how
        how = lowered if kind == "cudnn8" else as_is
        moved = to_heads([how(grad, E5M2)], group) + list(ctx.saved_tensors)
        found = attend_back(*(x.permute(1, 2, 0, 3) for x in moved), done, kind, True)
        return *(x.to(wide) for x in to_tokens([x.permute(2, 0, 1, 3) for x in found], group)), None, None


def to_heads(tensors: list[Tensor], group: dist.ProcessGroup) -> list[Tensor]:
    """[s, b, heads, d] of this rank's tokens -> [n s, b, heads / n, d] in the sequence's order."""
    n = size(group)
    sent = exchange([x.unflatten(2, (n, -1)).movedim(2, 0).contiguous() for x in tensors], group)
    order = chunk_order(n, tensors[0].device)
    return [
        bytewise(one.view(2 * n, -1, *one.shape[2:]), lambda x: x.index_select(0, order)).flatten(0, 1) for one in sent
    ]


def to_tokens(tensors: list[Tensor], group: dist.ProcessGroup) -> list[Tensor]:
    """What `to_heads` did, undone."""
    n = size(group)
    order = chunk_order(n, tensors[0].device).argsort()
    chunks = [bytewise(x.unflatten(0, (2 * n, -1)), lambda x: x.index_select(0, order)) for x in tensors]
    sent = exchange([x.view(n, -1, *x.shape[2:]) for x in chunks], group)
    return [one.movedim(0, 2).flatten(2, 3) for one in sent]


def exchange(tensors: list[Tensor], group: dist.ProcessGroup) -> list[Tensor]:
    found = [torch.empty_like(x) for x in tensors]
    works = [dist.all_to_all_single(out, x, group=group, async_op=True) for out, x in zip(found, tensors, strict=True)]
    for work in works:
        work.wait()
    return found


def chunk_order(n: int, device: torch.device) -> Tensor:
    """Which of the chunks that came, an early and a late one of each rank, stands where in the sequence."""
    early = list(range(0, 2 * n, 2))
    return torch.tensor([*early, *(at + 1 for at in reversed(early))], device="cpu").to(device)


def bytewise(x: Tensor, move: Any) -> Tensor:
    """A move of elements, of FP8 as of bytes."""
    return move(x.view(torch.uint8)).view(x.dtype) if x.element_size() == 1 else move(x)  # type: ignore[no-any-return]


def lowered(x: Tensor, dtype: torch.dtype) -> Tensor:
    return to_tensor_scaled_once(x, dtype)  # type: ignore[no-any-return]


def as_is(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x


def seen(both: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Keys and values that a rank looks at in this turn of the ring."""
    k, v = both.chunk(2, 1)
    half = k.shape[2] if number == 0 else k.shape[2] // 2
    return k[:, :, :half], v[:, :, :half]


def added(total: Tensor | None, part: Tensor, number: int) -> Tensor:
    if total is None:
        return part
    total[:, :, : part.shape[2]].add_(part)
    return total


@torch.compile
def merge(out: Tensor, total: Tensor, part: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Two attentions over different keys as one, by the logarithms of their sums."""
    both = torch.logaddexp(total, sums)
    weights = ((one - both).exp().unsqueeze(-1).to(out.dtype) for one in (total, sums))
    return out * next(weights) + part * next(weights), both
