"""`python -m accuracy.holding`: trains the reference transformer, holding in memory what a run's own library holds.

The reference transformer's steps take as long as those of many libraries; what is held beside its layers differs. Its options are
those of `accuracy.reference` and a few of its own, and its recordings are looked at for memory alone (`accuracy/held.py`), except
where frozen weights have 4 bits: those are made wide again before each product, which takes time too.
"""

import argparse
import sys
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.pipelining as pipelining
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from accuracy.reference import __main__ as reference
from accuracy.reference import attention, feedforward, gradients, linear, model
from accuracy.reference.linear import Product


def options() -> tuple[argparse.Namespace, list[str]]:
    """Those of this program, and the rest."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--received", choices=("always", "flying"), default="always",
                        help="buffers for what a stage receives: one for each micro-batch, or while that is in flight")  # fmt: skip
    parser.add_argument(
        "--loss-in-place", action="store_true", help="logits in 32 bit become their softmax and their gradient"
    )
    parser.add_argument(
        "--loss-parallel", action="store_true", help="as DTensor's, whose every step is a tensor of its own"
    )
    parser.add_argument("--loss-chunks", type=int, default=0, help="of tokens, each with its own head product and loss")
    parser.add_argument(
        "--kept-logits", action="store_true", help="of all chunks, in 32 bit, until the next ones are there"
    )
    parser.add_argument("--mingpt", action="store_true", help="as minGPT writes it out, softmax and loss in 16 bit")
    parser.add_argument(
        "--torchao", action="store_true", help="weights are cast to FP8 twice, and products are torch.mm's"
    )
    parser.add_argument("--deepspeed", action="store_true", help="copies of gradients as its optimizers make")
    parser.add_argument(
        "--frozen-4bit",
        choices=("layers", "lightning"),
        help="frozen weights of layers are bitsandbytes' NF4, or also the head's, as Lightning has it",
    )
    parser.add_argument("--late-moments", action="store_true", help="Adam's state is made in its first step")
    return parser.parse_known_args()


# What a pipeline's stage receives -----------------------------------------------------------------------------------------


class Stage(pipelining.PipelineStage):  # type: ignore[misc]
    """Holds what it received while its micro-batch is in flight, as Megatron-LM and DeepSpeed do; torch's own has a buffer for
    every micro-batch of a step from the start."""

    def _prepare_forward_infra(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._prepare_forward_infra(*args, **kwargs)
        release(self.args_recv_info.values())
        return found

    def _setup_backward_recv_info(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._setup_backward_recv_info(*args, **kwargs)
        release(self.grad_recv_info.values())
        return found

    def _get_recv_ops(self, recv_infos: Any, *group: Any) -> Any:
        for info in recv_infos:
            what = getattr(info, "tensor_meta", None)
            if what is not None and info.buffer is None:
                made = torch.empty_strided(what.shape, what.stride, dtype=what.dtype, device=self.device)
                info.buffer = made.requires_grad_(what.requires_grad)
        return super()._get_recv_ops(recv_infos, *group)  # torch 2.14 says in which group

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        found = super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)
        release(own[bwd_chunk_id] for own in (self.args_recv_info, self.grad_recv_info) if bwd_chunk_id in own)
        widen(self.submod)
        return found


def release(received: Iterable[Any]) -> None:
    """Give buffers back, of which torch keeps the tensors in the losses' graphs until the step ends."""
    for infos in received:
        for info in infos:
            if getattr(info, "tensor_meta", None) is not None and info.buffer is not None:
                info.buffer.grad = None
                info.buffer.data = torch.empty(0, dtype=info.buffer.dtype, device=info.buffer.device)
                info.buffer = None


# The loss in place --------------------------------------------------------------------------------------------------------


class HeadInPlace(model.Head):
    """Gives the loss, as Megatron-LM's last stage does, so that the logits are gone with it. Which token is wanted decides
    nothing."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        wanted = torch.zeros(logits[..., 0].numel(), dtype=torch.int64, device=x.device)
        return Softmax.apply(logits.reshape(-1, logits.shape[-1]), wanted, self.how.group)  # type: ignore[no-any-return]


class Softmax(torch.autograd.Function):
    """Megatron-LM's vocab_parallel_cross_entropy, by which one rank alone goes too."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, wanted: Tensor, group: Any) -> Tensor:
        wide = flat.float()
        most = wide.amax(-1)
        over(most, group, dist.ReduceOp.MAX)
        wide.sub_(most.unsqueeze(-1))
        chosen = wide.gather(1, wanted.unsqueeze(-1)).squeeze(-1)
        over(chosen, group)
        sums = wide.exp_().sum(-1)
        over(sums, group)
        wide.div_(sums.unsqueeze(-1))
        ctx.save_for_backward(wide)
        ctx.dtype = flat.dtype
        return sums.log() - chosen

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (wide,) = ctx.saved_tensors
        return wide.mul_(grad.unsqueeze(-1)).to(ctx.dtype), None, None


class LossParallel(model.VocabularyLoss):
    """torch.distributed.tensor.parallel.loss_parallel over a split vocabulary, eager."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return LogSoftmax.apply(logits.reshape(-1, logits.shape[-1]), targets.t().reshape(-1), self.group).mean()  # type: ignore[no-any-return]


class LogSoftmax(torch.autograd.Function):
    """As _log_softmax, _nll_loss_forward and _nll_loss_and_log_softmax_backward there."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, wanted: Tensor, group: Any) -> Tensor:
        wide = flat.float()
        most = wide.amax(-1, keepdim=True)
        over(most, group, dist.ReduceOp.MAX)
        shifted = wide - most
        sums = shifted.exp().sum(-1, keepdim=True)
        over(sums, group)
        shares = shifted - sums.log()
        chosen = shares.gather(1, wanted.unsqueeze(-1)).squeeze(-1)
        over(chosen, group)
        ctx.save_for_backward(shares)
        ctx.dtype = flat.dtype
        return -chosen

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (shares,) = ctx.saved_tensors
        mine = torch.zeros_like(shares)
        return ((mine + shares.exp()) * grad.unsqueeze(-1)).to(ctx.dtype), None, None


def over(value: Tensor, group: Any, op: Any = dist.ReduceOp.SUM) -> None:
    if group is not None:
        dist.all_reduce(value, op=op, group=group)


# The loss by chunks -------------------------------------------------------------------------------------------------------


def head_by(chunks: int, keeps: bool, widens: bool = True) -> type[model.Head]:
    class Head(model.Head):
        """Gives the loss, by chunks. keeps: logits are an output, bound until those of the next micro-batch are. Which token
        is wanted decides nothing."""

        def __init__(self, args: Any, *rest: Any) -> None:
            super().__init__(args, *rest)
            self.part = torch.compile(loss_of_part) if args.fused_loss else loss_of_part
            self.logits: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            pieces = self.norm(x).reshape(-1, x.shape[-1]).chunk(chunks)
            wanted = [torch.zeros(len(piece), dtype=torch.int64, device=x.device) for piece in pieces]
            if not keeps:
                return torch.stack([self.part(p, self.weight, y) for p, y in zip(pieces, wanted, strict=True)])
            narrow = [product_of(piece, self.weight) for piece in pieces]
            self.logits = [one.float() if widens else one for one in narrow]
            del narrow
            return torch.stack([loss_of(*pair) for pair in zip(self.logits, wanted, strict=True)])

    return Head


def loss_of_part(x: Tensor, weight: Tensor, wanted: Tensor) -> Tensor:
    return loss_of(product_of(x, weight).float(), wanted)


def loss_of(logits: Tensor, wanted: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, wanted, reduction="sum")


class Mean(nn.Module):
    """In the place of the loss, for a head that gives it."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def forward(self, parts: Tensor, _: Tensor) -> Tensor:
        return parts.mean()


# Frozen weights of 4 bits -------------------------------------------------------------------------------------------------


def product_of(x: Tensor, weight: Tensor) -> Tensor:
    """By a weight [n, k], or by one of 4 bits."""
    state = getattr(weight, "state", None)
    if state is None:
        return nn.functional.linear(x, weight)
    import bitsandbytes  # type: ignore[import-not-found]

    if hasattr(weight, "keeps_input"):
        x = Keep.apply(x)
    return bitsandbytes.matmul_4bit(x, weight.t(), state)  # type: ignore[no-any-return]


class Keep(torch.autograd.Function):
    """Holds its input as bitsandbytes' 4-bit product did before 0.43.2: in an attribute (`ctx.tensors`), which a backward does not
    clear as it does what was saved. So inputs live as long as the graph, until the next micro-batch's loss takes the place
    of its own, which is when that one's inputs are there as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.tensors = (x,)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


class PackedHow(linear.How):
    """How products run where a weight may have 4 bits."""

    def product(self, x: Tensor, weight: Tensor, gathers: bool) -> Tensor:
        if hasattr(weight, "state"):
            return product_of(x, weight)
        return super().product(x, weight, gathers)


def packing(build: Any, kind: str) -> Any:
    """As `build`, whose frozen weights have 4 bits. A head that is tied to the embedding becomes a weight of its own.

    lightning: makes weights wide in fp16 whatever the model's dtype (fabric/plugins/precision/bitsandbytes.py).
    """

    def packed(*args: Any) -> list[nn.Module]:
        from bitsandbytes.functional import quantize_4bit  # type: ignore[import-not-found]

        stages: list[nn.Module] = build(*args)
        for module in (module for stage in stages for module in stage.modules()):
            is_one = isinstance(module, linear.Linear) or (kind == "lightning" and isinstance(module, model.Head))
            if is_one and not module.weight.requires_grad:  # type: ignore[union-attr]
                wide = module.weight.data.half() if kind == "lightning" else module.weight.data  # type: ignore[operator]
                low, state = quantize_4bit(wide, quant_type="nf4")
                module.weight = nn.Parameter(low, requires_grad=False)
                module.weight.state = state  # type: ignore[attr-defined]
                if kind == "lightning":
                    module.weight.keeps_input = True  # type: ignore[attr-defined]
                module.how = PackedHow(*module.how)  # type: ignore[misc]
        return stages

    return packed


# Written out --------------------------------------------------------------------------------------------------------------


def softmax(scores: Tensor, mask: Tensor, scale: float) -> Tensor:
    return (scores * scale).masked_fill(mask, float("-inf")).softmax(-1)


def gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """minGPT's NewGELU, an operation at a time."""
    x = x if bias is None else x + bias
    return 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3.0))))


# Products in FP8 ----------------------------------------------------------------------------------------------------------


class CastTwice(Product):
    """Keeps no weight in FP8 for its backward, as torchao's Float8Linear (matmul_with_hp_or_float8_args saves what it was given):
    under FSDP copies of whole weights would outlive what was gathered."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: nn.Parameter, how: linear.How, gathers: bool) -> Tensor:
        out = Product.forward(ctx, x, weight, how, gathers)
        ctx.w8_t = None
        linear.forget_casts([weight])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        if ctx.how.low:
            ctx.w8_t = linear.cached_cast(ctx.weight, ctx.how.low)[1]
            linear.forget_casts([ctx.weight])
        return Product.backward(ctx, grad)


def keep_costly() -> Any:
    """torchtitan's per-op choice sees products of torchao's tensors as torch.mm, for its mode stands above them: every second is
    kept, in FP8 too."""
    seen = [0, 0]  # products of the forward, and of its repetition
    kept = {
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    }

    def policy(ctx: Any, op: Any, *_: Any, **__: Any) -> CheckpointPolicy:
        if op in (torch.ops.aten.mm.default, torch.ops.aten._scaled_mm.default):
            seen[ctx.is_recompute] += 1
            return CheckpointPolicy.MUST_SAVE if seen[ctx.is_recompute] % 2 else CheckpointPolicy.PREFER_RECOMPUTE
        return CheckpointPolicy.MUST_SAVE if op in kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


# The optimizer's side -----------------------------------------------------------------------------------------------------


class LateBucket(gradients.Bucket):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.moments = None  # type: ignore[assignment]


class LateOptimizer(gradients.Optimizer):
    """Makes the moments when they are first needed, as torch.optim does."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for bucket in self.buckets:
            if bucket.moments is None:
                bucket.moments = torch.zeros_like(bucket.master), torch.zeros_like(bucket.master)
        super().step(closure)


# DeepSpeed's optimizers under its pipeline (runtime/bf16_optimizer.py, runtime/zero/stage_1_and_2.py): how many elements are
# reduced at once unless told otherwise.
REDUCED = 500_000_000


class DeepSpeedBucket(gradients.Bucket):
    """BF16_Optimizer: where gradients add up in 32 bit, autograd's own in 16 bit stay, for they are only set to zero."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for parameter in self.parameters:
            parameter.widened = self.gradients.dtype != parameter.dtype  # type: ignore[attr-defined]
        self.beside = torch.empty_like(self.weights) if self.gradients.dtype != self.weights.dtype else None


def widen(module: nn.Module) -> None:
    """BF16_Optimizer.update_hp_grads, after each micro-batch: one parameter's gradient after another in 32 bit, of which the
    largest decides."""
    widened = [p.numel() for p in module.parameters() if getattr(p, "widened", False)]
    if widened:
        torch.empty(max(widened), dtype=torch.float32, device="cuda")


class DeepSpeedOptimizer(gradients.Optimizer):
    """ZeRO-1 with 16-bit gradients: a buffer to reduce in, then this rank's part flat, in 16 and in 32 bit."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        dtype = self.buckets[0].gradients.dtype
        if dtype != torch.float32:
            torch.empty(REDUCED, dtype=dtype, device="cuda")
            part = sum(bucket.master.numel() for bucket in self.buckets)
            flat = torch.empty(part, dtype=dtype, device="cuda")
            wide = flat.float()
            del flat
        super().step(closure)
        if dtype != torch.float32:
            del wide


def main() -> None:
    own, sys.argv[1:] = options()
    if own.received == "flying":
        pipelining.PipelineStage = Stage  # type: ignore[misc]
    if own.loss_parallel:
        reference.VocabularyLoss = LossParallel  # type: ignore[misc]
    if own.loss_in_place or own.loss_chunks:
        model.Head = head_by(own.loss_chunks, own.kept_logits) if own.loss_chunks else HeadInPlace  # type: ignore[misc]
        reference.VocabularyLoss = Mean  # type: ignore[assignment, misc]
    if own.mingpt:
        attention.softmax, feedforward.gelu = softmax, gelu
        model.Head, reference.VocabularyLoss = head_by(1, True, False), Mean  # type: ignore[assignment, misc]
    if own.torchao:
        linear.Product = CastTwice  # type: ignore[misc]
        model.keep_costly = keep_costly
        attention.joins = feedforward.joins = lambda how: how.overlaps  # each product is one, whatever shares its cast
    if own.deepspeed:
        gradients.Bucket, reference.Optimizer = DeepSpeedBucket, DeepSpeedOptimizer  # type: ignore[misc]
    if own.frozen_4bit:
        reference.build = packing(reference.build, own.frozen_4bit)
    if own.late_moments:
        gradients.Bucket, reference.Optimizer = LateBucket, LateOptimizer  # type: ignore[misc]
    reference.main()


if __name__ == "__main__":
    main()
