"""The layer: router, the way to the experts, their products with the activation between, and the way back.

Routing is balanced by force, as in the published benchmarks: every expert gets as many tokens.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from accuracy.reference.experts.products import pair
from accuracy.reference.experts.shape import ExpertsShape
from accuracy.reference.experts.ways import ToExperts, ToRanks
from accuracy.reference.feedforward import FeedForward, FeedForwardShape, gelu, swiglu
from accuracy.reference.layout import Layout, size
from accuracy.reference.linear import How, Linear

LIMIT = 7.0  # of what GPT-OSS' activation is given


def experts_of(args: Namespace, layout: Layout, how: How, shape: FeedForwardShape, fuse: Any) -> "Experts":
    # A step of which experts get as many tokens as are sent to them can only be captured with Megatron-LM's fused experts
    # (moe_expert_rank_capacity_factor in its transformer_config.py).
    routed = ExpertsShape(
        args.experts, args.chosen, args.expert_ffn, args.shared_ffn, args.expert_tp, args.grouped, args.dispatch == "ranks",
        args.node or args.ep, args.most_nodes, not args.graph,
        args.bias and args.gated and not (args.graph or args.grouped or args.sharding == "fsdp"),
        args.graph and args.gated and how.low in ("mx", "nv"), args.recompute == "activations",
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
        if routed.acts_again:
            self.act = partial(checkpoint, self.act, use_reentrant=False)
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
    @wraps(act)
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
