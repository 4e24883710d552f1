"""A layer's feed-forward part: dense, or experts that tokens are routed to.

Routing is balanced by force, as in the published benchmarks: every expert gets as many tokens.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from accuracy.reference.layout import size
from accuracy.reference.linear import Beside, EachLinear, Gather, GroupedLinear, How, Linear, Scatter, joins


@dataclass(frozen=True)
class FeedForwardShape:
    """ffn: inner width of the dense part. experts: number of routed ones, 0 for none, each of width `expert_ffn`,
    `chosen` per token; `shared_ffn`: width of what every token passes beside them."""

    hidden: int
    ffn: int
    gated: bool = True
    bias: bool = False
    experts: int = 0
    chosen: int = 1
    expert_ffn: int = 0
    shared_ffn: int = 0
    rank: int = 0
    separate: bool = False
    expert_tp: bool = False  # experts are split over the tensor group
    grouped: bool = False  # products of all experts are one kernel, else one each


def swiglu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    """up: None where one product made both, side by side."""
    if up is None:
        gate, up = gate.chunk(2, -1)
    return nn.functional.silu(gate) * up


def gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return nn.functional.gelu(x if bias is None else x + bias, approximate="tanh")


class FeedForward(nn.Module):
    """[s, b, hidden] -> the same, before the bias."""

    def __init__(self, shape: FeedForwardShape, how: How, fuse: Any, ffn: int = 0) -> None:
        super().__init__()
        width = ffn or shape.ffn
        self.separate = shape.separate and shape.gated and not joins(how)
        wide = width if self.separate else width * (1 + shape.gated)
        own = [Linear(shape.hidden, wide, how, "column", shape.bias, shape.rank) for _ in range(1 + self.separate)]
        self.first: Any = Beside(own) if self.separate else own[0]
        self.second = Linear(width, shape.hidden, how, "row", shape.bias, shape.rank)
        self.act = fuse(swiglu if shape.gated else gelu)
        self.gated = shape.gated

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first(x, finish=False)
        if self.separate:
            return self.second(self.act(*inner), finish=False)  # type: ignore[no-any-return]
        inner = self.act(inner) if self.gated else self.act(inner, self.first.bias)
        return self.second(inner, finish=False)  # type: ignore[no-any-return]


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

    def __init__(self, shape: FeedForwardShape, how: How, group: dist.ProcessGroup | None, fuse: Any) -> None:
        super().__init__()
        self.shape, self.group = shape, group
        self.local = shape.experts // size(group)
        self.router = Linear(shape.hidden, shape.experts, How(plain=how.plain))
        self.how = how if shape.expert_tp and how.sequence else how._replace(group=None, sequence=False)
        self.parts = size(self.how.group)
        inner = shape.expert_ffn // self.parts
        products = GroupedLinear if shape.grouped else EachLinear
        self.first = products(self.local, shape.hidden, inner * (1 + shape.gated), how)
        self.second = products(self.local, inner, shape.hidden, how)
        self.act = fuse(swiglu if shape.gated else gelu)
        self.weigh = fuse(weigh)
        for parameter in (*self.first.parameters(), *self.second.parameters()):
            parameter.is_expert = True  # type: ignore[attr-defined]
        self.shared = FeedForward(shape, how, fuse, shape.shared_ffn) if shape.shared_ffn else None

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
