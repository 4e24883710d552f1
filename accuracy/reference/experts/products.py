"""The two products of each of a rank's experts: one kernel for all of them, or one for each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from accuracy.reference.experts.shape import ExpertsShape
from accuracy.reference.linear import E4M3, E5M2, FP4, How, cached_cast, cast, low_mm, ones, product_into

# Of 4 us of a Xeon, which a product of a loop takes 33 us, of which it takes 13.5 anywhere (see `into`).
PRODUCT_OPS = 5


class GroupedProduct(torch.autograd.Function):
    """y = x @ weight[g].T for each group g of rows of x [rows, k]; weight: [groups, n, k]; ends: where each group's rows end.

    One kernel, as torch's own grouped product is; a weight's gradient is added to its 32-bit `main_grad` group by group.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: nn.Parameter, ends: Tensor, how: How) -> Tensor:
        ctx.how, ctx.weight, ctx.ends = how, weight, ends
        if how.low:
            x8, x8_t = cast(x, E4M3, how.low)
            w8, ctx.w8_t = cached_cast(weight, how.low)
            ctx.save_for_backward(x8_t)
            return low_grouped_mm(x8, w8, ends)
        ctx.save_for_backward(x)
        return torch._grouped_mm(x, weight.transpose(1, 2), offs=ends)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:  # type: ignore[override]
        how, weight, (x,) = ctx.how, ctx.weight, ctx.saved_tensors
        if how.low:
            g8, g8_t = cast(grad, E5M2, how.low)
            grad_x = low_grouped_mm(g8, ctx.w8_t, ctx.ends)
        else:
            grad_x = torch._grouped_mm(grad, weight, offs=ctx.ends)
        if not weight.requires_grad:
            return grad_x, None, None, None
        main = how.main_of(weight)
        if main is None and not how.low:
            return grad_x, torch._grouped_mm(grad.t(), x, offs=ctx.ends), None, None
        mains = [None] * len(weight) if main is None else list(main)
        own = gradients(g8_t if how.low else grad, x, how, [weight], mains)
        return grad_x, torch.stack([one for one in own if one is not None]) if main is None else None, None, None


def low_grouped_mm(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
    """[rows, K] @ [groups, N, K].T, K innermost in both."""
    scales = ones((a.shape[0],), a.device), ones((b.shape[0], b.shape[1]), b.device)
    return torch._scaled_grouped_mm(a, b.transpose(1, 2), *scales, offs=ends, out_dtype=torch.bfloat16)


class GroupedLinear(nn.Module):
    """A product for each of a number of experts, whole on this rank."""

    def __init__(self, groups: int, inputs: int, outputs: int, how: How) -> None:
        super().__init__()
        self.how = how
        self.weight = nn.Parameter(torch.empty(groups, outputs, inputs))

    def forward(self, x: Tensor, ends: Tensor | None) -> Tensor:
        weight = self.weight if self.weight.dtype == x.dtype else self.weight.to(x.dtype)  # under autocast
        return GroupedProduct.apply(x, weight, ends, self.how)  # type: ignore[no-any-return]


class Casts(NamedTuple):
    """Which casts to FP8 another product's kernel has made: of the input, of the output's gradient."""

    input: bool = False
    gradient: bool = False

    def of(self, x: Tensor, dtype: torch.dtype, recipe: str, is_gradient: bool) -> tuple[Tensor, Tensor]:
        if not (self.gradient if is_gradient else self.input):
            return cast(x, dtype, recipe)
        rows, width = x.shape
        if recipe == "nv":
            return x.new_empty(rows, width // 2, dtype=FP4), x.new_empty(width, rows // 2, dtype=FP4)
        return x.new_empty(rows, width, dtype=E4M3), x.new_empty(width, rows, dtype=E4M3)


class EachProduct(torch.autograd.Function):
    """The same of equal groups by a product for each, into its rows of one tensor, as Transformer Engine's grouped layer
    launches them: no copy joins them, one cast serves all. weights: [n, k] each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, how: How, known: Casts, *weights: nn.Parameter) -> Tensor:
        ctx.how, ctx.weights, ctx.known = how, weights, known
        out = x.new_empty(x.shape[0], weights[0].shape[0])
        if how.low:
            x8, kept = known.of(x, E4M3, how.low, False)
            casts = [cached_cast(weight, how.low) for weight in weights]
            ctx.turned = [turned for _, turned in casts]
            into(out, x8, [low for low, _ in casts], how)
        else:
            kept = x
            into(out, x, weights, how)
        ctx.save_for_backward(kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        how, weights, (x,) = ctx.how, ctx.weights, ctx.saved_tensors
        grad_x = grad.new_empty(grad.shape[0], weights[0].shape[1])
        turned = grad
        if how.low:
            low, turned = ctx.known.of(grad, E5M2, how.low, True)
            into(grad_x, low, ctx.turned, how)
        else:
            into(grad_x, grad, [weight.t() for weight in weights], how)
        mains = [how.main_of(weight) for weight in weights]
        own = gradients(turned, x, how, weights, mains, PRODUCT_OPS)
        return grad_x, None, None, *own


def into(out: Tensor, x: Tensor, weights: Sequence[Tensor], how: How) -> None:
    """Equal groups of rows of x by a weight [n, k] each, into their rows of `out`. 8 products of 2 x 128 x 2048 x 2048 take
    267 us where Transformer Engine launches them one by one, 69 in one kernel, of which the chip needs a few: 33 us of the
    host for each (https://github.com/NVIDIA/TransformerEngine/pull/3134), of a slower one more. In a captured step the host
    launches none."""
    count = len(weights)
    for place, rows, weight in zip(out.chunk(count), x.chunk(count), weights, strict=True):
        only_called(out, PRODUCT_OPS)
        low_mm(rows, weight, how.low, place) if how.low else torch.mm(rows, weight.t(), out=place)


def only_called(beside: Tensor, calls: int) -> None:
    """Ops on no elements, which take the host what ops take it and launch nothing: Python and C++ around a launch."""
    for _ in range(calls):
        beside.new_empty(0)


def gradients(
    grad: Tensor,
    x: Tensor,
    how: How,
    weights: Sequence[nn.Parameter],
    mains: Sequence[Tensor | None],
    calls: int = 0,
) -> list[Tensor | None]:
    """Of the weights of equal groups of rows (in FP8 both are [k, rows]); None of those that are added to a main_grad.
    calls: as PRODUCT_OPS."""
    count, axis = len(mains), 1 if how.low else 0
    parts = zip(grad.chunk(count, axis), x.chunk(count, axis), mains, strict=True)
    own = []
    for a, b, main in parts:
        only_called(a, calls)
        own.append(product_into(a, b, how, main))
    for weight in weights:
        if how.main_of(weight) is not None:
            weight.ready()  # type: ignore[operator]
    return own


class EachLinear(nn.Module):
    """As `GroupedLinear`, by a product for each expert."""

    def __init__(self, groups: int, inputs: int, outputs: int, how: How, known: Casts | None = None) -> None:
        super().__init__()
        self.how, self.known = how, known or Casts()
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(outputs, inputs)) for _ in range(groups))

    def forward(self, x: Tensor, ends: Tensor | None = None) -> Tensor:
        return EachProduct.apply(x, self.how, self.known, *self.weights)  # type: ignore[no-any-return]


def pair(
    routed: ExpertsShape, local: int, hidden: int, inner: int, wide: int, how: How
) -> "tuple[GroupedLinear, GroupedLinear] | tuple[EachLinear, EachLinear]":
    """A rank's experts' first products and second ones. Where they are fused, the kernel of the first writes what the second
    reads, and in the backward the other way round."""
    if routed.grouped:
        return GroupedLinear(local, hidden, wide, how), GroupedLinear(local, inner, hidden, how)
    known = (Casts(gradient=True), Casts(input=True)) if routed.is_fused else (Casts(), Casts())
    return EachLinear(local, hidden, wide, how, known[0]), EachLinear(local, inner, hidden, how, known[1])
