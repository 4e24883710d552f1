"""A layer's feed-forward part of experts that tokens are routed to. Imported by models that have some.

Routing is balanced by force, as in the published benchmarks: every expert gets as many tokens.
"""

import math
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from accuracy.reference.feedforward import FeedForward, FeedForwardShape, gelu, swiglu
from accuracy.reference.layout import Layout, group_of, size
from accuracy.reference.linear import (
    E4M3,
    E5M2,
    FP4,
    Gather,
    How,
    Linear,
    Scatter,
    cached_cast,
    cast,
    low_mm,
    ones,
    product_into,
)


@dataclass(frozen=True)
class ExpertsShape:
    """experts: number of routed ones, each of inner width `ffn`, `chosen` per token; shared_ffn: width of what every token
    passes beside them. is_written: as Megatron-LM's with biases, of which PyTorch's kernels cut off what is activated and add
    the last. is_fused: activation and casts to FP8 are part of the products' kernels."""

    experts: int
    chosen: int
    ffn: int
    shared_ffn: int = 0
    is_split: bool = False  # over the tensor group
    grouped: bool = False  # products of all experts are one kernel, else one each
    once: bool = False  # a token is sent once to each node and there once to each rank, not once to each of its experts
    node: int = 1  # neighbours in the expert group that are one node
    most_nodes: int = 0  # to which a token is sent; 0: to all
    is_read: bool = True  # the host reads how many tokens go where
    is_written: bool = False
    is_fused: bool = False


LIMIT = 7.0  # of what GPT-OSS' activation is given
PRODUCT_S = 33e-6 - 8e-6  # of the host for each product of a loop, beyond what an op takes (see `into`)


def experts_of(args: Namespace, layout: Layout, how: How, shape: FeedForwardShape, fuse: Any) -> "Experts":
    # A step of which experts get as many tokens as are sent to them can only be captured with Megatron-LM's fused experts
    # (moe_expert_rank_capacity_factor in its transformer_config.py).
    routed = ExpertsShape(
        args.experts, args.chosen, args.expert_ffn, args.shared_ffn, args.expert_tp, args.grouped, args.dispatch == "ranks",
        args.node or args.ep, args.most_nodes, not args.graph,
        args.bias and args.gated and not (args.graph or args.grouped or args.sharding == "fsdp"),
        args.graph and args.gated and how.low in ("mx", "nv"),
    )  # fmt: skip
    return Experts(shape, routed, how, layout.expert, fuse)


class Experts(nn.Module):
    """Router, dispatch to the expert group, each expert's products, and the way back. Shares are applied with the
    activation, as Megatron-LM does."""

    def __init__(
        self, shape: FeedForwardShape, routed: ExpertsShape, how: How, group: dist.ProcessGroup | None, fuse: Any
    ) -> None:
        super().__init__()
        self.shape, self.group = routed, group
        self.local = routed.experts // size(group)
        self.router = Linear(shape.hidden, routed.experts, How(plain=how.plain))
        self.how = how if routed.is_split and how.sequence else how._replace(group=None, sequence=False)
        inner = routed.ffn // size(self.how.group)
        self.first, self.second = pair(routed, self.local, shape.hidden, inner, inner * (1 + shape.gated), how)
        self.act = inside if routed.is_fused else fuse(weighted(swiglu if shape.gated else gelu))
        if routed.is_written:
            self.act = limited(self.act)
            self.biases = nn.ParameterList(nn.Parameter(torch.empty(shape.hidden)) for _ in range(self.local))
        self.way = (
            ToRanks(routed, group) if routed.once and group is not None else ToExperts(self.how, group, self.local)
        )
        biases = self.biases if routed.is_written else ()
        for parameter in (*self.first.parameters(), *self.second.parameters(), *biases):
            parameter.is_expert = True  # type: ignore[attr-defined]
        self.shared = FeedForward(shape, how, fuse, routed.shared_ffn) if routed.shared_ffn else None

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        shares, chosen = self.router(flat).float().softmax(-1).topk(self.shape.chosen, -1)
        order = chosen.reshape(-1).argsort(stable=True)
        rows = order.shape[0]
        if more := -rows % self.shape.experts:  # every expert is sent as many, the last few twice
            order = torch.cat((order, order.repeat(-(-more // rows))[:more]))
        counts = chosen.reshape(-1).bincount(minlength=self.shape.experts)
        if self.group is not None:
            self.tell(counts)
        own = shares.to(x.dtype).reshape(-1, 1).index_select(0, order)
        sent, own = self.way.go(flat, order, own)
        # Which rows are whose is a value on the chip, for one kernel, or known to the host, which cuts them.
        ends = counts[: self.local].cumsum(0, dtype=torch.int32) if self.shape.grouped else None
        done = self.second(self.act(self.first(sent, ends), own), ends)
        if self.shape.is_written:  # the kernels of DeepEP and HybridEP take and give shares in 32 bit
            done = biased(done, self.biases, own.float() if self.shape.once else own)
        out = self.way.back(done, flat.shape[0]).view(x.shape)
        return out if self.shared is None else out + self.shared(x)

    def tell(self, counts: Tensor) -> None:
        """How many tokens go where: gathered over the group, and read by the host for the sizes of the exchange, which a
        captured graph cannot."""
        assert self.group is not None
        known = counts.new_empty(counts.shape[0] * size(self.group))
        dist.all_gather_into_tensor(known, counts, group=self.group)
        if self.shape.is_read:
            known.cpu()


def weighted(act: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def both(x: Tensor, shares: Tensor) -> Tensor:
        return act(x) * shares

    return both


class Inside(torch.autograd.Function):
    """The activation of a gated product's rows by their shares as the end of that product's kernel, and its gradient as the
    end of the next one's: no kernel of its own. GroupGemm + Activation + Quantize, and + dActivation, of
    https://developer.nvidia.com/blog/boosting-moe-training-throughput-with-advanced-fusion-kernels/"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shares: Tensor) -> Tensor:
        ctx.save_for_backward(x, shares)
        return x.new_empty(x.shape[0], x.shape[1] // 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, shares = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(shares)


def inside(x: Tensor, shares: Tensor) -> Tensor:
    return Inside.apply(x, shares)  # type: ignore[no-any-return]


def limited(act: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Gate and what it gates are cut off by a kernel each and joined before the fused activation, whose offset is sent to
    the chip each time: weighted_bias_quick_geglu_impl of https://github.com/NVIDIA/Megatron-LM/blob/core_v0.17.0/megatron/core/fusions/fused_bias_geglu.py"""

    def both(x: Tensor, shares: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        cut = torch.cat((gate.clamp(max=LIMIT), up.clamp(-LIMIT, LIMIT)), -1)
        torch.tensor(1.0, dtype=x.dtype, device=x.device)
        return act(cut, shares)

    return both


def biased(done: Tensor, biases: Sequence[Tensor], shares: Tensor) -> Tensor:
    """Each expert's bias, by the shares of its rows, added to these rows: TEGroupedMLP._apply_bias of
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.17.0/megatron/core/transformer/moe/experts.py (biases of the first
    products are added inside them)."""
    parts = zip(done.chunk(len(biases)), biases, shares.chunk(len(biases)), strict=True)
    return torch.cat([rows + bias * own for rows, bias, own in parts]).to(done.dtype)


# Ways to the experts and back ------------------------------------------------------------------------------------------
# Which rows are read is decided by values that nobody has: any index of the right length stands for it.


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
        mains = [getattr(weight, "main_grad", None) for weight in weights]
        own = gradients(turned, x, how, weights, mains, PRODUCT_S)
        return grad_x, None, None, *own


def into(out: Tensor, x: Tensor, weights: Sequence[Tensor], how: How) -> None:
    """Equal groups of rows of x by a weight [n, k] each, into their rows of `out`. 8 products of 2 x 128 x 2048 x 2048 take
    267 us where Transformer Engine launches them one by one, 69 in one kernel, of which the chip needs a few: 33 us of the
    host for each (https://github.com/NVIDIA/TransformerEngine/pull/3134). In a captured step the host launches none."""
    count = len(weights)
    for place, rows, weight in zip(out.chunk(count), x.chunk(count), weights, strict=True):
        time.sleep(PRODUCT_S)
        low_mm(rows, weight, how.low, place) if how.low else torch.mm(rows, weight.t(), out=place)


def gradients(
    grad: Tensor,
    x: Tensor,
    how: How,
    weights: Sequence[nn.Parameter],
    mains: Sequence[Tensor | None],
    called_s: float = 0.0,
) -> list[Tensor | None]:
    """Of the weights of equal groups of rows (in FP8 both are [k, rows]); None of those that are added to a main_grad.
    called_s: as PRODUCT_S."""
    count, axis = len(mains), 1 if how.low else 0
    parts = zip(grad.chunk(count, axis), x.chunk(count, axis), mains, strict=True)
    own = []
    for a, b, main in parts:
        if called_s:
            time.sleep(called_s)
        own.append(product_into(a, b, how, main))
    for weight in weights:
        if getattr(weight, "main_grad", None) is not None:
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
