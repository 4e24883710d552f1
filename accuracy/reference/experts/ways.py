"""How tokens get to the experts of other ranks and back.

Which rows are read is decided by values that nobody has: any index of the right length stands for it.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from accuracy.reference.experts.shape import ExpertsShape
from accuracy.reference.layout import group_of, size
from accuracy.reference.linear import Gather, How, Scatter


def picked(x: Tensor, order: Tensor) -> Tensor:
    """A row of x for each of `order`: one kernel, as permutations of tokens are."""
    return x.index_select(0, order % x.shape[0])


def added(x: Tensor, count: int) -> Tensor:
    """[rows, hidden] -> [count, hidden], each the sum of about as many rows: one kernel, as the way back is."""
    rows = torch.arange(x.shape[0], device=x.device)
    return nn.functional.embedding_bag(rows, x, rows[:count], mode="sum")


class Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor) -> Tensor:
        ctx.count = x.shape[0]
        return picked(x, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return added(grad, ctx.count), None


class Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int) -> Tensor:
        ctx.rows = x.shape[0]
        return added(x, count)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return picked(grad, torch.arange(ctx.rows, device=grad.device)), None


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


class ToExperts:
    """A token is sent once to each of its experts, in one exchange over the group, and its shares in another."""

    def __init__(self, how: How, group: dist.ProcessGroup | None, local: int) -> None:
        self.how, self.group, self.local = how, group, local
        self.sources = size(how.group) * size(group)

    def go(self, x: Tensor, order: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """[tokens, hidden] and shares [rows, 1] -> [rows, hidden] and [rows, 1], by expert"""
        sent = Pick.apply(x, order)
        if self.group is not None:
            sent, shares = AllToAll.apply(sent, self.group), AllToAll.apply(shares, self.group)
        if self.how.group is not None:
            sent, shares = Gather.apply(sent, self.how), Gather.apply(shares, self.how)
        return by_expert(sent, self.sources, self.local) if self.sources > 1 else sent, shares

    def back(self, done: Tensor, tokens: int) -> Tensor:
        if self.sources > 1:
            done = by_expert(done, self.local, self.sources)
        if self.how.group is not None:
            done = Scatter.apply(done, self.how)
        if self.group is not None:
            done = AllToAll.apply(done, self.group)
        return Add.apply(done, tokens)  # type: ignore[no-any-return]


def by_expert(x: Tensor, outer: int, inner: int) -> Tensor:
    """Rows that stand by (outer, inner) -> by (inner, outer): one copy."""
    parts = x.view(outer, inner, -1, x.shape[-1])
    return parts.transpose(0, 1).reshape(-1, x.shape[-1])


class Hop(NamedTuple):
    """share: of the tokens that are sent to each rank of the group."""

    group: dist.ProcessGroup | None
    share: float

    def start(self, x: Tensor, tokens: float) -> tuple[Tensor, Any]:
        assert self.group is not None
        rows = size(self.group) * math.ceil(tokens * self.share)
        sent, out = (x.new_empty(rows, x.shape[-1]) for _ in range(2))
        return out, dist.all_to_all_single(out, sent, group=self.group, async_op=True)


class ToRanks:
    """A token is sent once to each node that has some of its experts, from the rank that receives it there once to each
    rank of them, and comes back as sums: as DeepEP's kernels do (https://github.com/deepseek-ai/DeepEP) and HybridEP's, which
    read, send on and add up while they receive. So both exchanges run at once, and copy nothing else."""

    def __init__(self, shape: ExpertsShape, group: dist.ProcessGroup) -> None:
        inside, across = nodes_of(group, shape.node)
        nodes, ranks = size(across), size(inside)
        most = min(shape.most_nodes or nodes, nodes)
        self.across = Hop(across, most / nodes * is_hit(most, shape.chosen))
        self.arriving = nodes * self.across.share  # nodes that a token goes to, so ranks that send it on
        self.inside = Hop(inside, is_hit(ranks, shape.chosen / self.arriving))
        self.copies = self.arriving * ranks * self.inside.share  # ranks that a token goes to

    def go(self, x: Tensor, order: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """[tokens, hidden] and shares [rows, 1], which travel with them -> [rows, hidden] and [rows, 1], by expert"""
        return Pick.apply(Arrive.apply(x, self), order), shares

    def back(self, done: Tensor, tokens: int) -> Tensor:
        return Return.apply(Add.apply(done, self.received(tokens)), tokens, self)  # type: ignore[no-any-return]

    def received(self, tokens: int) -> int:
        return math.ceil(tokens * self.copies)

    def move(self, x: Tensor, tokens: int) -> None:
        """What a dispatch and, the other way, its return move."""
        stages = ((self.across, float(tokens)), (self.inside, tokens * self.arriving))
        started = [one.start(x, count) for one, count in stages if one.group is not None]
        for _, work in started:
            work.wait()


@cache
def nodes_of(group: dist.ProcessGroup, node: int) -> tuple[dist.ProcessGroup | None, dist.ProcessGroup | None]:
    """Of a group, this rank's neighbours of one node, and the ranks that have its place in each node."""
    ranks, place = dist.get_process_group_ranks(group), dist.get_rank(group)
    inside = group_of("ep_node", ranks[place // node * node :][:node])
    return inside, group_of("ep_nodes", ranks[place % node :: node])


def is_hit(parts: int, chosen: float) -> float:
    """The share of tokens of which at least one of `chosen` experts, drawn evenly, lies in one of so many parts."""
    return 1.0 - (1.0 - 1.0 / parts) ** chosen


class Arrive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, way: ToRanks) -> Tensor:
        ctx.way, ctx.tokens = way, x.shape[0]
        way.move(x, ctx.tokens)
        return x.new_empty(way.received(ctx.tokens), x.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        ctx.way.move(grad, ctx.tokens)
        return grad.new_empty(ctx.tokens, grad.shape[-1]), None


class Return(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tokens: int, way: ToRanks) -> Tensor:
        ctx.way, ctx.tokens = way, tokens
        way.move(x, tokens)
        return x.new_empty(tokens, x.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        ctx.way.move(grad, ctx.tokens)
        return grad.new_empty(ctx.way.received(ctx.tokens), grad.shape[-1]), None, None
