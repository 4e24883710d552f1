"""Products cut into pieces so that their tensor-parallel communication runs beside them, as user buffers do in Transformer
Engine: a piece of the sequence is gathered while the piece before it is multiplied, or scattered while the next one is.

Inside a layer the tokens of a sequence stand by piece and rank, in another order than outside; no cost depends on it.
FP8 tensors are cast before they are gathered, so half the bytes travel.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from accuracy.reference.layout import size
from accuracy.reference.linear import E4M3, E5M2, How, Product, cached_cast, cast, low_mm, weight_gradient


def gather_mm(x: Tensor, weight: Tensor, how: How, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(gathered x @ weight.T, gathered x). x: [s / ranks, b, k]; weight: [n, k], in FP8 where `how.low` says so."""
    group = how.group
    assert group is not None
    flat = cast(x.reshape(-1, x.shape[-1]), dtype, how.low, once=True)[0].view(x.shape) if how.low else x
    pieces = flat.chunk(how.pieces, 0)
    whole = flat.new_empty((x.shape[0] * size(group), *x.shape[1:]))
    parts = whole.chunk(len(pieces), 0)
    works = [
        dist.all_gather_into_tensor(part, piece.contiguous(), group=group, async_op=True)
        for part, piece in zip(parts, pieces, strict=True)
    ]
    out = x.new_empty((whole.shape[0], x.shape[1], weight.shape[0]))
    for work, part, made in zip(works, parts, out.chunk(len(pieces), 0), strict=True):
        work.wait()
        multiply(part, weight, made, how)
    return out, whole


def mm_scatter(x: Tensor, weight: Tensor, how: How, dtype: torch.dtype) -> Tensor:
    """The own part of the sum over ranks of x @ weight.T. x: [s, b, k], of which each rank has other columns."""
    group = how.group
    assert group is not None
    flat = cast(x.reshape(-1, x.shape[-1]), dtype, how.low, once=True)[0].view(x.shape) if how.low else x
    made = x.new_empty((*x.shape[:2], weight.shape[0]))
    out = x.new_empty((x.shape[0] // size(group), x.shape[1], weight.shape[0]))
    works = []
    for piece, product, own in zip(*(one.chunk(how.pieces, 0) for one in (flat, made, out)), strict=True):
        multiply(piece, weight, product, how)
        works.append(dist.reduce_scatter_tensor(own, product, group=group, async_op=True))
    for work in works:
        work.wait()
    return out


def multiply(piece: Tensor, weight: Tensor, out: Tensor, how: How) -> None:
    flat, into = piece.reshape(-1, piece.shape[-1]), out.view(-1, out.shape[-1])
    if how.low:
        low_mm(flat, weight, how.low, out=into)
    else:
        torch.mm(flat, weight.t(), out=into)


def operand(weight: nn.Parameter, how: How, turned: bool) -> Tensor:
    """The weight as [n, k], or turned as [k, n], in the dtype of the product."""
    if how.low:
        return cached_cast(weight, how.low)[int(turned)]
    return weight.t() if turned else weight


class ColumnProduct(Product):
    """Gathers its input, piece by piece. Its backward communicates whole tensors beside the product that does not need
    them, as Transformer Engine's "bulk" overlap does by default."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: nn.Parameter, how: How, gathers: bool) -> Tensor:
        ctx.how, ctx.weight, ctx.gathers = how, weight, gathers
        if how.low:
            ctx.w8_t = cached_cast(weight, how.low)[1]
        ctx.save_for_backward(x if weight.requires_grad else None)
        return gather_mm(x, operand(weight, how, False), how, E4M3)[0]


class RowProduct(torch.autograd.Function):
    """Scatters its output, piece by piece; the gradient of it is gathered so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: nn.Parameter, how: How) -> Tensor:
        ctx.how, ctx.weight = how, weight
        ctx.save_for_backward(x if weight.requires_grad else None)
        return mm_scatter(x, operand(weight, how, False), how, E4M3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:  # type: ignore[override]
        how, weight = ctx.how, ctx.weight
        (x,) = ctx.saved_tensors
        grad_x, whole = gather_mm(grad, operand(weight, how, True), how, E5M2)
        return grad_x, weight_gradient(x, whole, how, weight) if x is not None else None, None
