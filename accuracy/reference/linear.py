"""Matrix products of a layer, split over the tensor group as Megatron-LM splits them, in 16 bit or FP8.

A column-parallel product gathers its input where the sequence is split; a row-parallel one reduces or scatters its
output. In the backward the communication runs beside the product that does not need it. Weight gradients are added to a
32-bit `main_grad` inside the product where the weight has one and nothing says otherwise.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from accuracy.reference.layout import size

ADAPTER_DROPOUT = 0.1  # of LoRA, as in MLPerf's benchmark
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
FP4 = torch.float4_e2m1fn_x2  # two values to a byte
LOW = (E4M3, E5M2, FP4)
BLOCK = 16  # values of NVFP4 that share a scale


class How(NamedTuple):
    """How products run. sequence: the sequence is split over the tensor group outside of them. low: "" for 16 bit,
    else the FP8 recipe: "tensor" (one scale, of the steps before), "current" (one, of the tensor as it is), "row", "block" or "mx" (scales along the inner dimension), or "nv" for NVFP4.
    plain: as PyTorch's own layer, whose gradients autograd keeps and whose dtype autocast may choose.
    pieces: above 1, into how many a product is cut to run beside its communication (`overlap`).
    adds_apart: a weight's gradient is written, then added to its buffer by a kernel of its own."""

    group: dist.ProcessGroup | None = None
    sequence: bool = False
    low: str = ""
    plain: bool = False
    pieces: int = 1
    adds_apart: bool = False

    @property
    def overlaps(self) -> bool:
        return self.pieces > 1 and self.sequence and self.group is not None

    def main_of(self, weight: nn.Parameter) -> Tensor | None:
        """What a product adds the weight's gradient to; None where autograd is to keep it."""
        return None if self.adds_apart else getattr(weight, "main_grad", None)

    def product(self, x: Tensor, weight: Tensor, gathers: bool) -> Tensor:
        if self.plain and self.group is None and not self.low:
            return nn.functional.linear(x, weight)
        return Product.apply(x, weight, self, gathers)  # type: ignore[no-any-return]


# Communication ---------------------------------------------------------------------------------------------------------


def all_gather(x: Tensor, group: dist.ProcessGroup, is_async: bool = False) -> tuple[Tensor, Any]:
    """[s, ...] of each rank -> [s * ranks, ...]"""
    out = x.new_empty((x.shape[0] * size(group), *x.shape[1:]))
    return out, dist.all_gather_into_tensor(out, x.contiguous(), group=group, async_op=is_async)


def reduce_scatter(x: Tensor, group: dist.ProcessGroup, is_async: bool = False) -> tuple[Tensor, Any]:
    """[s * ranks, ...] -> the sum's own [s, ...]"""
    out = x.new_empty((x.shape[0] // size(group), *x.shape[1:]))
    return out, dist.reduce_scatter_tensor(out, x.contiguous(), group=group, async_op=is_async)


class Scatter(torch.autograd.Function):
    """Forward reduces over the group and keeps the own part of the sequence (or all of it); backward gathers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, how: How) -> Tensor:
        ctx.how = how
        assert how.group is not None
        if how.sequence:
            return reduce_scatter(x, how.group)[0]
        x = x.clone() if x.is_leaf else x
        dist.all_reduce(x, group=how.group)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return (all_gather(grad, ctx.how.group)[0] if ctx.how.sequence else grad), None


class Gather(torch.autograd.Function):
    """Forward gathers the sequence (or copies); backward sums over the group."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, how: How) -> Tensor:
        ctx.how = how
        assert how.group is not None
        return all_gather(x, how.group)[0] if how.sequence else x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        if ctx.how.sequence:
            return reduce_scatter(grad, ctx.how.group)[0], None
        grad = grad.contiguous()
        dist.all_reduce(grad, group=ctx.how.group)
        return grad, None


class Exchange(torch.autograd.Function):
    """[s, b, h / ranks] -> [s / ranks, b, h] where the sequence is split, else [s, b, h]; the backward the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, how: How) -> Tensor:
        ctx.how = how
        assert how.group is not None
        ranks = size(how.group)
        if not how.sequence:
            return all_gather(x, how.group)[0].view(ranks, *x.shape).permute(1, 2, 0, 3).reshape(*x.shape[:2], -1)
        out = torch.empty_like(x)
        dist.all_to_all_single(out, x.contiguous(), group=how.group)
        s, b, h = x.shape
        return out.view(ranks, s // ranks, b, h).permute(1, 2, 0, 3).reshape(s // ranks, b, ranks * h)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        how, ranks = ctx.how, size(ctx.how.group)
        s, b, h = grad.shape
        if not how.sequence:
            return grad.chunk(ranks, -1)[dist.get_rank(how.group)].contiguous(), None
        parts = grad.view(s, b, ranks, h // ranks).permute(2, 0, 1, 3).contiguous()
        out = torch.empty_like(parts)
        dist.all_to_all_single(out, parts, group=how.group)
        return out.view(ranks * s, b, h // ranks), None


# FP8 and FP4 -----------------------------------------------------------------------------------------------------------


@torch.compile
def to_tensor_scaled(x: Tensor, dtype: torch.dtype, scale: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """Cast and its transpose by a scale that is known beforehand: one pass."""
    low = (x * scale).to(dtype)
    return low, low.t().contiguous()


@torch.compile
def to_tensor_scaled_once(x: Tensor, dtype: torch.dtype, scale: Tensor | float = 1.0) -> Tensor:
    """The cast alone."""
    return (x * scale).to(dtype)


@torch.compile
def scale_of(x: Tensor) -> Tensor:
    """By the largest value: a pass of its own."""
    return x.abs().amax().reciprocal()


@torch.compile
def to_row_scaled_once(x: Tensor) -> Tensor:
    return (x / x.abs().amax(1, keepdim=True)).to(E4M3)


@torch.compile
def to_row_scaled(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cast along rows and along columns, each with the largest value of its own line."""
    low = (x / x.abs().amax(1, keepdim=True)).to(dtype)
    across = (x / x.abs().amax(0, keepdim=True)).to(dtype).t().contiguous()
    return low, across


@torch.compile
def to_packed(x: Tensor) -> tuple[Tensor, Tensor]:
    """Values of 4 bits, two to a byte, along rows and along columns."""
    low = (x / x.abs().amax(1, keepdim=True)).unflatten(1, (-1, 2)).sum(2).to(torch.uint8)
    across = (x / x.abs().amax(0, keepdim=True)).unflatten(0, (-1, 2)).sum(1).to(torch.uint8).t().contiguous()
    return low, across


def cast(x: Tensor, dtype: torch.dtype, recipe: str, once: bool = False) -> tuple[Tensor, Tensor]:
    """(x, x transposed) in FP8 or FP4; `once`: the same tensor twice, where no weight's gradient needs the second. Tensors
    that are scaled by blocks take the dtype of the forward throughout."""
    if recipe == "nv":
        low, across = to_packed(x)
        return low.view(FP4), across.view(FP4)
    scale = scale_of(x) if recipe == "current" else 1.0
    has_one = recipe in ("tensor", "current")
    if once:
        low = to_tensor_scaled_once(x, dtype, scale) if has_one else to_row_scaled_once(x)
        return low, low
    if has_one:
        return to_tensor_scaled(x, dtype, scale)  # type: ignore[no-any-return]
    return to_row_scaled(x, E4M3)  # type: ignore[no-any-return]


@cache
def ones(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Scales: what they are decides nothing."""
    return torch.ones(shape, device=device).to(dtype)


def scales(x: Tensor, recipe: str, shape: tuple[int, ...]) -> Tensor:
    """Of an operand [rows, K]. shape: where each row has one. NVFP4's are padded to tiles of 128 x 4."""
    if recipe == "nv":
        count = -(-x.shape[0] // 128) * 128 * (-(-2 * x.shape[1] // (4 * BLOCK)) * 4)
        return ones((count,), x.device, E4M3)
    return ones(shape if recipe == "row" else (), x.device)


def low_mm(a: Tensor, b: Tensor, recipe: str, out: Tensor | None = None) -> Tensor:
    """[M, K] @ [N, K].T with FP8 or FP4 operands, both with K innermost."""
    one = scales(a, recipe, (a.shape[0], 1)), scales(b, recipe, (1, b.shape[0]))
    options = {"out_dtype": torch.bfloat16 if out is None else out.dtype, "use_fast_accum": recipe != "row"}
    if out is None:
        return torch._scaled_mm(a, b.t(), *one, **options)
    return torch._scaled_mm(a, b.t(), *one, **options, out=out)


# The product -----------------------------------------------------------------------------------------------------------


class Product(torch.autograd.Function):
    """y = x @ weight.T over the last dimension. x: [s, b, k]; with `gathers` x is this rank's part of the sequence."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: nn.Parameter, how: How, gathers: bool) -> Tensor:
        whole = all_gather(x, how.group)[0] if gathers and how.sequence and how.group else x
        flat = whole.reshape(-1, whole.shape[-1])
        ctx.how, ctx.gathers, ctx.weight = how, gathers, weight
        if how.low:
            x8, x8_t = cast(flat, E4M3, how.low, once=not weight.requires_grad)
            w8, ctx.w8_t = cached_cast(weight, how.low)
            # Gathered in the backward again, so that only the own part is kept.
            needed = x if gathers and how.sequence and how.group else x8_t
            ctx.save_for_backward(needed if weight.requires_grad else None)
            return low_mm(x8, w8, how.low).view(*whole.shape[:-1], -1)
        ctx.save_for_backward(x if weight.requires_grad else None)
        return (flat @ weight.t()).view(*whole.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[override]
        how, weight = ctx.how, ctx.weight
        (x,) = ctx.saved_tensors
        group = how.group if ctx.gathers else None
        needs_weight = weight.requires_grad
        pending = None
        if group and how.sequence and needs_weight:
            x, pending = all_gather(x, group, is_async=True)
        flat = grad.reshape(-1, grad.shape[-1])
        g8_t = None
        if how.low:
            g8, g8_t = cast(flat, E5M2, how.low, once=not needs_weight)
            grad_x = low_mm(g8, ctx.w8_t, how.low)
        else:
            grad_x = flat @ weight
        grad_x = grad_x.view(*grad.shape[:-1], -1)
        if pending is not None:
            pending.wait()
        waiting = None
        if group and ctx.needs_input_grad[0]:
            if how.sequence:
                grad_x, waiting = reduce_scatter(grad_x, group, is_async=True)
            else:
                waiting = dist.all_reduce(grad_x, group=group, async_op=True)
        grad_w = _weight_gradient(x, flat, g8_t, how, weight, bool(group and how.sequence)) if needs_weight else None
        if waiting is not None:
            waiting.wait()
        return grad_x, grad_w, None, None


def _weight_gradient(x: Tensor, grad: Tensor, g8_t: Tensor | None, how: How, weight: nn.Parameter,
                     is_whole: bool) -> Tensor | None:  # fmt: skip
    """grad.T @ x, into `main_grad` where there is one."""
    main = how.main_of(weight)
    flat = x.reshape(-1, x.shape[-1])
    if g8_t is not None:
        own = product_into(g8_t, cast(flat, E4M3, how.low)[1] if is_whole else x, how, main)
    else:
        own = product_into(grad, flat, how, main)
    if main is not None:
        weight.ready()  # type: ignore[operator]
    return own


def product_into(a: Tensor, b: Tensor, how: How, main: Tensor | None) -> Tensor | None:
    """A weight's gradient: a.T @ b of [rows, n] and [rows, k], or of FP8's [n, rows] and [k, rows]; added to main, if any.

    Transformer Engine adds inside the product in FP8 too (`accumulate_wgrad_into_param_main_grad`), which no product of torch's
    does: here it writes over what is there, in the same kernel's time.
    """
    if a.dtype in LOW:
        own = low_mm(a, b, how.low, main)
        if main is None:
            return own
    elif main is None:
        return a.t() @ b
    elif main.dtype == a.dtype:
        main.addmm_(a.t(), b)
    else:
        torch.addmm(main, a.t(), b, out_dtype=torch.float32, out=main)
    return None


def weight_gradient(x: Tensor, grad: Tensor, how: How, weight: nn.Parameter) -> Tensor | None:
    """Of whole tensors [s, b, ...], the gradient in 16 bit or FP8 already."""
    flat = grad.reshape(-1, grad.shape[-1])
    g8_t = None
    if how.low:
        is_low = flat.dtype in LOW
        g8_t = flat.t().contiguous() if is_low else cast(flat, E5M2, how.low)[1]
    return _weight_gradient(x, flat, g8_t, how, weight, True)


def cached_cast(weight: nn.Parameter, recipe: str) -> tuple[Tensor, Tensor]:
    """A weight [n, k] in FP8 or FP4, and [k, n]; or for groups [g, n, k] and [g, k, n]. Made once a step: whoever changes weights
    calls `forget_casts`."""
    *groups, n, k = weight.shape
    if weight.dtype in LOW:  # (and turned without a copy: what a transposition takes is a hundredth of its product)
        return weight, weight.view(*groups, 2 * k if weight.dtype == FP4 else k, -1)
    known = getattr(weight, "low", None)
    if known is None:
        low, turned = cast(weight.detach().view(-1, k), E4M3, recipe)
        known = low.view(*groups, n, -1), turned.view(*groups, k, -1)
        weight.low = known  # type: ignore[attr-defined]
    return known  # type: ignore[no-any-return]


def forget_casts(parameters: Any) -> None:
    for parameter in parameters:
        if getattr(parameter, "low", None) is not None:
            parameter.low = None


class Linear(nn.Module):
    """A product whose weight is split over the tensor group: "column" by its outputs, "row" by its inputs, "" not.

    rank: of a LoRA adapter beside it, whose base weight is then frozen.
    """

    def __init__(self, inputs: int, outputs: int, how: How, split: str = "", bias: bool = False, rank: int = 0) -> None:
        super().__init__()
        self.how, self.split = (how if split else how._replace(group=None)), split
        parts = size(self.how.group)
        rows, columns = (outputs // parts, inputs) if split == "column" else (outputs, inputs // parts)
        self.weight = nn.Parameter(torch.empty(rows, columns))
        self.bias = nn.Parameter(torch.zeros(rows)) if bias else None
        self.down, self.up = None, None
        if rank:
            self.weight.requires_grad_(False)
            plain = self.how._replace(low="")
            alone = plain._replace(group=None)
            self.down = Linear(columns, rank, alone)
            self.up = Linear(rank, rows // parts if split == "row" else rows, alone)

    def forward(self, x: Tensor, finish: bool = True, is_gathered: bool = False) -> Tensor:
        """finish: a row-parallel product adds up over the group, and the bias is added."""
        gathers = self.split == "column" and self.how.group is not None and not is_gathered
        low, beside = self.multiplied(x, gathers), None
        if self.down is not None and self.up is not None:
            # Of its narrow inside, not of its input, the adapter gathers the sequence.
            inside = self.down(nn.functional.dropout(x, ADAPTER_DROPOUT))
            beside = self.beside(inside, gathers)
        if self.split == "row" and self.how.group is not None and not self.how.overlaps:
            low = Scatter.apply(low, self.how)
        if beside is not None:
            low = low + beside
        if self.bias is not None and finish:
            low = low + self.bias
        return low

    def beside(self, inside: Tensor, gathers: bool) -> Tensor:
        """The adapter from its narrow inside [s, b, rank] on. A row-parallel one is summed there; its output's columns are
        split, and exchanged for parts of the sequence, which is an n-th of what a gather would move."""
        assert self.up is not None
        if self.how.group is None:
            return self.up(inside)  # type: ignore[no-any-return]
        if self.split == "column":
            return self.up(Gather.apply(inside, self.how) if gathers else inside)  # type: ignore[no-any-return]
        inside = Scatter.apply(inside, self.how._replace(sequence=False))
        return Exchange.apply(self.up(inside), self.how)  # type: ignore[no-any-return]

    def multiplied(self, x: Tensor, gathers: bool) -> Tensor:
        if not self.how.overlaps:
            return self.how.product(x, self.weight, gathers)
        from accuracy.reference.overlap import ColumnProduct, RowProduct

        if gathers:
            return ColumnProduct.apply(x, self.weight, self.how, gathers)  # type: ignore[no-any-return]
        return RowProduct.apply(x, self.weight, self.how)  # type: ignore[no-any-return]


def mark_partial(module: nn.Module, how: How) -> None:
    """With the sequence split, each rank's gradients of norms and products that are whole on it are of its part only: to be
    summed over the tensor group."""
    for parameter in module.parameters():
        parameter.is_partial = how.sequence  # type: ignore[attr-defined]


class Beside(nn.Module):
    """Column-parallel products of one input, each on its own, where programs do not join them. The input is gathered once."""

    def __init__(self, products: list[Linear]) -> None:
        super().__init__()
        self.products = nn.ModuleList(products)
        self.how = products[0].how

    def forward(self, x: Tensor, finish: bool = True) -> tuple[Tensor, ...]:
        if self.how.group is not None:
            x = Gather.apply(x, self.how)
        return tuple(one(x, finish, is_gathered=True) for one in self.products)


def joins(how: How) -> bool:
    """Whether products of one input run as one: user buffers gather for all of them, and a cast to FP8 is shared."""
    return how.overlaps or bool(how.low)
