"""The model: embedding, layers, head and loss, and which of them a pipeline stage holds."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from accuracy.reference.attention import Attention, AttentionShape, rotate, with_turned
from accuracy.reference.feedforward import FeedForward, FeedForwardShape, gelu, swiglu
from accuracy.reference.layout import Layout, size
from accuracy.reference.linear import E4M3, FP4, Exchange, How, Linear, Scatter, mark_partial

Fuse = Callable[[Any], Any]


def fuse_of(args: Namespace) -> Fuse:
    """What joins the point-wise pieces of a layer into one kernel: the framework's own fused kernels, or nothing."""
    eager = {swiglu.__name__, gelu.__name__} if args.eager_act else set()
    eager |= {rotate.__name__, with_turned.__name__} if args.eager_rope else set()
    return lambda piece: torch.compile(piece) if args.fusion and piece.__name__ not in eager else piece


def add_dropped(x: Tensor, bias: Tensor | None, kept: Tensor, dropout: float) -> Tensor:
    """Bias, dropout and residual."""
    x = x if bias is None else x + bias
    return kept + (nn.functional.dropout(x, dropout) if dropout else x)


class RMSNorm(nn.Module):
    """As Llama's own code writes it: a dozen operations in 32 bit."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).type_as(x) * self.weight


NORMS: dict[str, Callable[[int], nn.Module]] = {"layer": nn.LayerNorm, "rms": nn.RMSNorm, "rms_ops": RMSNorm}


def norm_of(args: Namespace) -> nn.Module:
    return NORMS[args.norm](args.hidden)


class Layer(nn.Module):
    """One transformer layer on [s, b, hidden]."""

    def __init__(self, args: Namespace, layout: Layout, how: How, number: int) -> None:
        super().__init__()
        fuse = fuse_of(args)
        self.dropout, self.again = args.dropout, args.recompute
        shape = AttentionShape(
            args.hidden, args.heads, args.kv_heads, args.head_dim, args.position == "rope_complex", args.bias,
            args.attention, args.recompute == "attention", args.recompute == "latents", args.dropout, args.window, args.lora_rank,
            args.lora_rank if args.lora_on != "qkv" else 0, args.separate, NORMS[args.norm], args.q_rank, args.kv_rank,
            args.rope_dim, exchanges=args.cp_comm_type == "a2a",
        )  # fmt: skip
        self.norm1, self.norm2 = norm_of(args), norm_of(args)
        self.attention = Attention(shape, how, layout.context, fuse)
        self.mlp = feed_forward(args, layout, how, number)
        self.add = fuse(add_dropped)
        for module in (self.norm1, self.norm2):
            mark_partial(module, how)
        if args.lora_rank:
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(".up." in name or ".down." in name)
            if how.low:
                keep_low(self)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor] | None = None) -> Tensor:
        if self.again == "core":
            return self.keeping_projection(x, angles)
        mixed = self.attention(self.norm1(x), angles)
        x = self.add(mixed, self.attention.out.bias, x, self.dropout)
        if self.again == "mlp":
            return checkpoint(self.second_half, x, use_reentrant=False)  # type: ignore[no-any-return]
        return self.second_half(x)

    def second_half(self, x: Tensor) -> Tensor:
        done = self.mlp(self.norm2(x))
        bias = self.mlp.second.bias if isinstance(self.mlp, FeedForward) else None
        return self.add(done, bias, x, self.dropout)  # type: ignore[no-any-return]

    def after_projection(self, mixed: Tensor, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        """The layer from its queries, keys and values on."""
        done = self.attention.from_projection(mixed, angles)
        return self.second_half(self.add(done, self.attention.out.bias, x, self.dropout))

    def keeping_projection(self, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        """All but the first product is computed again in the backward."""
        mixed = self.attention.qkv(self.norm1(x))
        return checkpoint(self.after_projection, mixed, x, angles, use_reentrant=False)  # type: ignore[no-any-return]


def feed_forward(args: Namespace, layout: Layout, how: How, number: int) -> nn.Module:
    rank = args.lora_rank if args.lora_on == "all" else 0
    shape = FeedForwardShape(args.hidden, args.ffn, args.gated, args.bias, rank, args.separate)
    if not is_routed(args, number):
        return FeedForward(shape, how, fuse_of(args))
    from accuracy.reference.experts.layer import experts_of

    return experts_of(args, layout, how, shape, fuse_of(args))


def is_routed(args: Namespace, number: int) -> bool:
    """Whether this layer has experts."""
    return bool(args.experts) and number >= args.dense_layers and (number + 1) % args.routed_every == 0


def keep_low(layer: nn.Module) -> None:
    """Frozen weights of products are held in FP8 or FP4 alone."""
    for module in layer.modules():
        if isinstance(module, Linear) and module.how.low and not module.weight.requires_grad:
            *rows, k = module.weight.shape
            shape, dtype = ((*rows, k // 2), FP4) if module.how.low == "nv" else ((*rows, k), E4M3)
            module.weight = nn.Parameter(
                torch.empty(shape, dtype=dtype, device=module.weight.device), requires_grad=False
            )


class Embedding(nn.Module):
    """Token ids [b, s] -> [s, b, hidden], of which this rank's part of the sequence."""

    def __init__(self, args: Namespace, how: How, context: int) -> None:
        super().__init__()
        self.how, self.rows = how, args.vocab // size(how.group)
        self.weight = nn.Parameter(torch.empty(self.rows, args.hidden))
        self.position = (
            nn.Parameter(torch.empty(args.seq // context, args.hidden)) if args.position == "learned" else None
        )
        self.dropout = args.dropout

    def forward(self, tokens: Tensor) -> Tensor:
        if self.how.group is not None:
            outside = (tokens < 0) | (tokens >= self.rows)
            x = nn.functional.embedding(tokens.masked_fill(outside, 0), self.weight)
            x = x.masked_fill(outside.unsqueeze(-1), 0.0)
        else:
            x = nn.functional.embedding(tokens, self.weight)
        x = x.transpose(0, 1).contiguous()
        if self.how.group is not None:
            x = Scatter.apply(x, self.how._replace(sequence=False))
        if self.position is not None:
            x = x + self.position.unsqueeze(1)
        if self.how.group is not None and self.how.sequence:
            x = x.chunk(size(self.how.group), 0)[dist.get_rank(self.how.group)].clone()
        return nn.functional.dropout(x, self.dropout) if self.dropout else x


class Head(nn.Module):
    """Norm and the product with the vocabulary, whose columns are split over the tensor group."""

    def __init__(self, args: Namespace, how: How, tied: nn.Parameter | None = None) -> None:
        super().__init__()
        how = how._replace(low="")
        self.norm, self.how = norm_of(args), how
        self.weight = (
            tied if tied is not None else nn.Parameter(torch.empty(args.vocab // size(how.group), args.hidden))
        )
        mark_partial(self.norm, how)
        if args.lora_rank:
            self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.how.product(x, self.weight, self.how.group is not None)


class Next(nn.Module):
    """What predicts one token more (DeepSeek-V3, arXiv 2412.19437, section 2.2): the last layer's output and the next token's
    embedding, each normed, as one product's input, and a layer, of which nothing is recomputed whole. The lookup itself, on
    another stage, is left out."""

    def __init__(self, args: Namespace, layout: Layout, how: How) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm_of(args), norm_of(args)
        self.join = Linear(2 * args.hidden, args.hidden, how, "column")
        self.layer = Layer(args, layout, how, args.layers)
        self.how = how
        for module in (self.norm1, self.norm2):
            mark_partial(module, how)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        both = self.join(torch.cat((self.norm1(x), self.norm2(x)), -1))
        if self.how.group is not None:
            both = Exchange.apply(both, self.how)
        return self.layer(both, angles)  # type: ignore[no-any-return]


class Stage(nn.Module):
    """A run of layers, with the embedding before the first; after the last, what predicts one token more, if asked for, and
    the head over both."""

    def __init__(self, args: Namespace, layout: Layout, how: How, layers: range, first: bool, last: bool) -> None:
        super().__init__()
        self.args = args
        self.embedding = Embedding(args, how, layout.cp) if first else None
        self.layers = nn.ModuleList(Layer(args, layout, how, number) for number in layers)
        tied = self.embedding.weight if args.tied and self.embedding is not None and last else None
        self.head = Head(args, how, tied) if last else None
        self.next = Next(args, layout, how._replace(pieces=1)) if last and args.mtp else None
        self.angles: tuple[Tensor, Tensor] | None = None
        if args.lora_rank and self.embedding is not None:
            self.embedding.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if self.embedding is not None:
            x = self.embedding(x)
            if self.args.lora_rank:
                x.requires_grad_(True)
        for number, layer in enumerate(self.layers):
            x = self.through(number, layer, x)
        if self.next is not None:
            x = torch.cat((x, self.next(x, self.turned(x))))
        return self.head(x) if self.head is not None else x

    def through(self, number: int, layer: nn.Module, x: Tensor) -> Tensor:
        """A layer, of which the backward computes again what `recompute` says."""
        kind, angles = self.args.recompute, self.turned(x)
        if kind == "full" or number < self.args.recompute_layers or (kind == "half" and number % 2):
            return checkpoint(layer, x, angles, use_reentrant=False)  # type: ignore[no-any-return]
        if kind == "ops":
            return checkpoint(layer, x, angles, use_reentrant=False, context_fn=keep_costly)  # type: ignore[no-any-return]
        return layer(x, angles)  # type: ignore[no-any-return]

    def turned(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """cos and sin of every position that this rank works on, [s, 1, 1, head_dim]."""
        if not self.args.position.startswith("rope"):
            return None
        if self.angles is None:
            is_complex = self.args.position == "rope_complex"  # one number for each two
            width = (self.args.rope_dim if self.args.kv_rank else self.args.head_dim) // (1 + is_complex)
            dtype = torch.complex64 if is_complex else x.dtype
            cos = torch.ones((self.args.seq // self.args.cp, 1, 1, width), device=x.device, dtype=dtype)
            self.angles = cos, torch.ones_like(cos)
        return self.angles


def keep_costly() -> Any:
    """torchtitan's per-op choice: attention, what is reduced and every second product are kept, the rest is computed again."""
    seen = [0, 0]  # products of the forward, and of its repetition
    kept = {
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    }

    def policy(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        if op == torch.ops.aten.mm.default:
            seen[ctx.is_recompute] += 1
            return CheckpointPolicy.MUST_SAVE if seen[ctx.is_recompute] % 2 else CheckpointPolicy.PREFER_RECOMPUTE
        return CheckpointPolicy.MUST_SAVE if op in kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


class VocabularyLoss(nn.Module):
    """Cross entropy of logits [s, b, vocabulary / tensor ranks] in 32 bit with targets [b, s]."""

    def __init__(self, args: Namespace, how: How) -> None:
        super().__init__()
        self.group = how.group
        fuse = fuse_of(args) if args.fused_loss else (lambda function: function)
        self.whole, self.parts = fuse(whole_loss), fuse
        self.shift, self.spread, self.grade = fuse(shifted), fuse(spread), fuse(graded)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        flat = logits.reshape(-1, logits.shape[-1])
        wanted = targets.t().reshape(-1)
        if wanted.shape[0] != flat.shape[0]:  # of the token after the next too
            wanted = torch.cat((wanted, wanted))
        if self.group is None:
            return self.whole(flat, wanted)  # type: ignore[no-any-return]
        return SplitLoss.apply(flat, wanted, self).mean()  # type: ignore[no-any-return]


def whole_loss(flat: Tensor, wanted: Tensor) -> Tensor:
    return nn.functional.cross_entropy(flat.float(), wanted)


def shifted(flat: Tensor) -> tuple[Tensor, Tensor]:
    wide = flat.float()
    return wide, wide.amax(-1)


def spread(wide: Tensor, most: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """exp(logits - max) in place of the logits, and the target's and the sum's parts, as one [2, tokens]."""
    wide = wide - most.unsqueeze(-1)
    chosen = wide.gather(1, wanted.unsqueeze(-1)).squeeze(-1)
    shares = wide.exp()
    return shares, torch.stack((chosen, shares.sum(-1)))


def graded(shares: Tensor, sums: Tensor, grad: Tensor, dtype: torch.dtype) -> Tensor:
    """Gradient of the logits."""
    return (shares * (grad / sums).unsqueeze(-1)).to(dtype)


class SplitLoss(torch.autograd.Function):
    """Cross entropy over a split vocabulary: the largest logit, then the sums, are reduced over the group."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, wanted: Tensor, by: VocabularyLoss) -> Tensor:
        wide, most = by.shift(flat)
        dist.all_reduce(most, op=dist.ReduceOp.MAX, group=by.group)
        shares, sums = by.spread(wide, most, wanted)
        dist.all_reduce(sums, group=by.group)
        ctx.save_for_backward(shares, sums)
        ctx.by, ctx.dtype = by, flat.dtype
        return sums[1].log() - sums[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        shares, sums = ctx.saved_tensors
        return ctx.by.grade(shares, sums[1], grad, ctx.dtype), None, None
