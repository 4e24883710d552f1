"""`python -m accuracy.holding`: trains the reference transformer, holding in memory what a run's own library holds.

The reference transformer's steps take as long as those of many libraries; what is held beside its layers differs. Its options are
those of `accuracy.reference` and a few of its own, and its recordings are looked at for memory alone (`accuracy/held.py`), so
nothing here touches a step's time.
"""

import argparse
import sys
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed.pipelining as pipelining
from torch import Tensor, nn

from accuracy.reference import __main__ as reference
from accuracy.reference import gradients, model


def options() -> tuple[argparse.Namespace, list[str]]:
    """Those of this program, and the rest."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--received", choices=("always", "flying"), default="always",
                        help="buffers for what a stage receives: one for each micro-batch, or while that is in flight")  # fmt: skip
    parser.add_argument("--loss-chunks", type=int, default=0, help="of tokens, each with its own head product and loss")
    parser.add_argument("--kept-logits", action="store_true", help="of all chunks, in 32 bit, until the next ones are there")
    parser.add_argument("--kept-gradients", action="store_true", help="16-bit gradients beside the buffers")
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

    def _get_recv_ops(self, recv_infos: Any) -> Any:
        for info in recv_infos:
            if getattr(info, "buffer", None) is not None and info.buffer.is_meta:
                info.buffer = torch.empty_like(info.buffer, device=self.device).requires_grad_(info.buffer.requires_grad)
        return super()._get_recv_ops(recv_infos)

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        found = super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)
        release(own[bwd_chunk_id] for own in (self.args_recv_info, self.grad_recv_info) if bwd_chunk_id in own)
        return found


def release(received: Iterable[Any]) -> None:
    for infos in received:
        for info in infos:
            if getattr(info, "buffer", None) is not None:
                info.buffer = torch.empty_like(info.buffer, device="meta").requires_grad_(info.buffer.requires_grad)


# The loss by chunks -------------------------------------------------------------------------------------------------------


def head_by(chunks: int, keeps: bool) -> type[model.Head]:
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
            narrow = [nn.functional.linear(piece, self.weight) for piece in pieces]
            self.logits = [one.float() for one in narrow]
            del narrow
            return torch.stack([loss_of(*pair) for pair in zip(self.logits, wanted, strict=True)])

    return Head


def loss_of_part(x: Tensor, weight: Tensor, wanted: Tensor) -> Tensor:
    return loss_of(nn.functional.linear(x, weight).float(), wanted)


def loss_of(logits: Tensor, wanted: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, wanted, reduction="sum")


class Sum(nn.Module):
    """In the place of the loss, for a head that gives its parts."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def forward(self, parts: Tensor, _: Tensor) -> Tensor:
        return parts.sum()


# The optimizer's side -----------------------------------------------------------------------------------------------------


def bucket_with(kept: bool, late: bool) -> type[gradients.Bucket]:
    class Bucket(gradients.Bucket):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            if kept:
                self.beside = torch.empty_like(self.weights)
            if late:
                self.moments = None  # type: ignore[assignment]

    return Bucket


class LateOptimizer(gradients.Optimizer):
    """Makes the moments when they are first needed, as torch.optim does."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for bucket in self.buckets:
            if bucket.moments is None:
                bucket.moments = torch.zeros_like(bucket.master), torch.zeros_like(bucket.master)
        super().step(closure)


def main() -> None:
    own, sys.argv[1:] = options()
    if own.received == "flying":
        pipelining.PipelineStage = Stage  # type: ignore[misc]
    if own.loss_chunks:
        model.Head = head_by(own.loss_chunks, own.kept_logits)  # type: ignore[misc]
        reference.VocabularyLoss = Sum  # type: ignore[assignment, misc]
    if own.kept_gradients or own.late_moments:
        gradients.Bucket = bucket_with(own.kept_gradients, own.late_moments)  # type: ignore[misc]
    if own.late_moments:
        reference.Optimizer = LateOptimizer  # type: ignore[misc]
    reference.main()


if __name__ == "__main__":
    main()
