"""A layer's feed-forward part of experts that tokens are routed to. Imported by models that have some.

Routing is balanced by force, as in the published benchmarks: every expert gets as many tokens.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from accuracy.reference.feedforward import FeedForward, FeedForwardShape, gelu, swiglu
from accuracy.reference.layout import size
from accuracy.reference.linear import E4M3, E5M2, Gather, How, Linear, Scatter, cached_cast, cast, ones, product_into


@dataclass(frozen=True)
class ExpertsShape:
    """experts: number of routed ones, each of inner width `ffn`, `chosen` per token; shared_ffn: width of what every token
    passes beside them."""

    experts: int
    chosen: int
    ffn: int
    shared_ffn: int = 0
    is_split: bool = False  # over the tensor group
    grouped: bool = False  # products of all experts are one kernel, else one each


class AllToAll(torch.autograd.Function):
    """Equal parts to all ranks of the group."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        out = torch.empty_like(x)
        dist.all_to_all_single(out, x.contiguous(), group=group)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        out = torch.empty_like(grad)
        dist.all_to_all_single(out, grad.contiguous(), group=ctx.group)
        return out, None


class Experts(nn.Module):
    """Router, dispatch to the expert group, each expert's products, and the way back."""

    def __init__(
        self, shape: FeedForwardShape, routed: ExpertsShape, how: How, group: dist.ProcessGroup | None, fuse: Any
    ) -> None:
        super().__init__()
        self.shape, self.group = routed, group
        self.local = routed.experts // size(group)
        self.router = Linear(shape.hidden, routed.experts, How(plain=how.plain))
        self.how = how if routed.is_split and how.sequence else how._replace(group=None, sequence=False)
        self.parts = size(self.how.group)
        inner = routed.ffn // self.parts
        products = GroupedLinear if routed.grouped else EachLinear
        self.first = products(self.local, shape.hidden, inner * (1 + shape.gated), how)
        self.second = products(self.local, inner, shape.hidden, how)
        self.act = fuse(swiglu if shape.gated else gelu)
        self.weigh = fuse(weigh)
        for parameter in (*self.first.parameters(), *self.second.parameters()):
            parameter.is_expert = True  # type: ignore[attr-defined]
        self.shared = FeedForward(shape, how, fuse, routed.shared_ffn) if routed.shared_ffn else None

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        shares, chosen = self.router(flat).float().softmax(-1).topk(self.shape.chosen, -1)
        order = chosen.reshape(-1).argsort(stable=True)
        rows = order.shape[0]
        if more := -rows % self.shape.experts:  # every expert is sent as many, the last few twice
            order = torch.cat((order, order.repeat(-(-more // rows))[:more]))
        sent = flat.index_select(0, order // self.shape.chosen)
        counts = chosen.reshape(-1).bincount(minlength=self.shape.experts)
        if self.group is not None:
            self.tell(counts)
            sent = AllToAll.apply(sent, self.group)
        if self.parts > 1:
            sent = Gather.apply(sent, self.how)
        sources = self.parts * size(self.group)
        if sources > 1:
            sent = by_expert(sent, sources, self.local)
        # Which rows are whose is a value on the chip, for one kernel, or known to the host, which cuts them.
        ends = counts[: self.local].cumsum(0, dtype=torch.int32) if self.shape.grouped else None
        done = self.second(self.act(self.first(sent, ends)), ends)
        if sources > 1:
            done = by_expert(done, self.local, sources)
        if self.parts > 1:
            done = Scatter.apply(done, self.how)
        if self.group is not None:
            done = AllToAll.apply(done, self.group)
        done, order = done[:rows], order[:rows]
        back = torch.zeros_like(done).index_copy(0, order, done)
        out = self.weigh(back.view(flat.shape[0], self.shape.chosen, -1), shares.to(x.dtype)).view(x.shape)
        return out if self.shared is None else out + self.shared(x)

    def tell(self, counts: Tensor) -> None:
        """How many tokens go where: gathered over the group, and read by the host for the sizes of the exchange."""
        assert self.group is not None
        known = counts.new_empty(counts.shape[0] * size(self.group))
        dist.all_gather_into_tensor(known, counts, group=self.group)
        known.cpu()


def weigh(back: Tensor, shares: Tensor) -> Tensor:
    """[tokens, chosen, hidden] by each token's shares -> [tokens, hidden]"""
    return (back * shares.unsqueeze(-1)).sum(1)


def by_expert(x: Tensor, outer: int, inner: int) -> Tensor:
    """Rows that stand by (outer, inner) -> by (inner, outer): one copy."""
    parts = x.view(outer, inner, -1, x.shape[-1])
    return parts.transpose(0, 1).reshape(-1, x.shape[-1])


# Products of experts ---------------------------------------------------------------------------------------------------


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
        main = getattr(weight, "main_grad", None)
        if main is None and not how.low:
            return grad_x, torch._grouped_mm(grad.t(), x, offs=ctx.ends), None, None
        groups = len(weight)
        parts = zip(g8_t.chunk(groups, 1), x.chunk(groups, 1), strict=True) if how.low else zip(
            grad.chunk(groups), x.chunk(groups), strict=True)  # fmt: skip
        own = [product_into(a, b, how, main[index] if main is not None else None) for index, (a, b) in enumerate(parts)]
        if main is None:
            return grad_x, torch.stack([one for one in own if one is not None]), None, None
        weight.ready()
        return grad_x, None, None, None


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


class EachLinear(nn.Module):
    """The same by a product for each expert, as Transformer Engine's grouped layer launches them."""

    def __init__(self, groups: int, inputs: int, outputs: int, how: How) -> None:
        super().__init__()
        self.products = nn.ModuleList(Linear(inputs, outputs, how._replace(sequence=False)) for _ in range(groups))

    def forward(self, x: Tensor, ends: Tensor | None = None) -> Tensor:
        parts = x.chunk(len(self.products))
        return torch.cat([one(part) for one, part in zip(self.products, parts, strict=True)])
