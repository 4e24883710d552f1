"""Data-parallel gradients and the optimizer over one flat buffer, as Megatron-LM's: 32-bit gradients in buckets that are
reduced as soon as the last micro-batch has filled them, an optimizer whose state may be split over the replicas."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from accuracy.reference.layout import size

BUCKET_ELEMENTS = 40_000_000  # Megatron-LM's default: the larger of this and a million times the replicas


class Bucket:
    """A stretch of the flat buffers that is reduced at once."""

    def __init__(self, parameters: Sequence[nn.Parameter], group: dist.ProcessGroup | None, split: bool, dtype: torch.dtype,
                 device: torch.device) -> None:  # fmt: skip
        self.parameters, self.group, self.split = parameters, group, split
        ranks = size(group)
        total = sum(parameter.numel() for parameter in parameters)
        self.total = -(-total // (64 * ranks)) * 64 * ranks
        self.gradients = torch.zeros(self.total, dtype=dtype, device=device)
        self.weights = torch.empty(self.total, dtype=parameters[0].dtype, device=device)
        self.own = self.gradients[: self.total // ranks] if split else self.gradients
        self.left, self.pending, self.gathering = 0, None, None
        at = 0
        for parameter in parameters:
            end = at + parameter.numel()
            parameter.data = self.weights[at:end].view(parameter.shape)
            parameter.main_grad = self.gradients[at:end].view(parameter.shape)  # type: ignore[attr-defined]
            parameter.ready, parameter.bucket = self.ready, self  # type: ignore[attr-defined]
            parameter.register_post_accumulate_grad_hook(self.add)
            at = end
        state = total if not split else self.total // ranks
        self.master = torch.zeros(state, dtype=torch.float32, device=device)
        self.moments = torch.zeros_like(self.master), torch.zeros_like(self.master)

    def expect(self, micro_batches: int, overlaps: bool, between: int) -> None:
        """A step's backwards. between: micro-batches from one reduction to the next."""
        self.left, self.between = len(self.parameters) * micro_batches, len(self.parameters) * between
        self.overlaps, self.pending = overlaps, None

    def add(self, parameter: nn.Parameter) -> None:
        """Of parameters whose gradient autograd makes."""
        if parameter.grad is not None:
            parameter.main_grad.add_(parameter.grad)  # type: ignore[attr-defined]
            parameter.grad = None
            self.ready()

    def ready(self) -> None:
        self.left -= 1
        if self.overlaps and self.left % self.between == 0:
            self.reduce(is_async=True)

    def reduce(self, is_async: bool = False) -> None:
        if self.group is None:
            return
        if self.pending is not None:
            self.pending.wait()
        if self.split:
            self.pending = dist.reduce_scatter_tensor(self.own, self.gradients, group=self.group, async_op=is_async)
        else:
            self.pending = dist.all_reduce(self.gradients, group=self.group, async_op=is_async)

    def finish(self) -> None:
        if not self.overlaps:
            self.reduce()
        elif self.pending is not None:
            self.pending.wait()
            self.pending = None

    def gather(self) -> None:
        """The weights that the others have stepped; with overlap the next forward waits, bucket by bucket."""
        if self.split and self.group is not None:
            part = self.weights[: self.total // size(self.group)]
            work = dist.all_gather_into_tensor(self.weights, part, group=self.group, async_op=self.overlaps)
            self.gathering = work if self.overlaps else None

    def wait(self, *_: Any) -> None:
        if self.gathering is not None:
            self.gathering.wait()
            self.gathering = None


class Optimizer(torch.optim.Optimizer):
    """Adam on the buckets' 32-bit master weights, after clipping by the norm over all ranks."""

    def __init__(self, buckets: list[Bucket], norm_groups: list[dist.ProcessGroup], fp16: bool) -> None:
        self.buckets, self.norm_groups, self.fp16 = buckets, norm_groups, fp16
        super().__init__([bucket.master for bucket in buckets], {})
        self.steps = [torch.ones((), device=bucket.master.device) for bucket in buckets]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        own = [bucket.own[: bucket.master.numel()] for bucket in self.buckets]
        if self.fp16:
            found = torch.zeros((), device=own[0].device)
            torch._amp_foreach_non_finite_check_and_unscale_(own, found, torch.ones_like(found))
            self.over_all(found)
            found.item()
        total = torch.stack(torch._foreach_norm(own)).norm() ** 2
        self.over_all(total)
        torch._foreach_mul_(own, 1.0 / (total.sqrt().item() + 1e-6))
        for bucket, gradient, step in zip(self.buckets, own, self.steps, strict=True):
            gradient = gradient if gradient.dtype == torch.float32 else gradient.float()
            torch._fused_adamw_([bucket.master], [gradient], [bucket.moments[0]], [bucket.moments[1]], [], [step],
                                lr=1e-4, beta1=0.9, beta2=0.95, weight_decay=0.1, eps=1e-8, amsgrad=False,
                                maximize=False)  # fmt: skip
            bucket.weights[: bucket.master.numel()].copy_(bucket.master)

    def over_all(self, value: Tensor) -> None:
        for group in self.norm_groups:
            dist.all_reduce(value, group=group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for bucket in self.buckets:
            bucket.gradients.zero_()


def buckets_of(parameters: list[nn.Parameter], groups: tuple[Any, Any], split: bool, dtype: torch.dtype,
               device: torch.device) -> list[Bucket]:  # fmt: skip
    """Buckets from the last parameter to the first: the order in which the backward fills them. groups: of parameters
    that all replicas share, and of experts."""
    found = []
    for experts, group in zip((False, True), groups, strict=True):
        most = max(BUCKET_ELEMENTS, 1_000_000 * size(group))
        kept: list[nn.Parameter] = []
        for parameter in reversed([p for p in parameters if getattr(p, "is_expert", False) is experts]):
            kept.append(parameter)
            if sum(p.numel() for p in kept) >= most:
                found.append(Bucket(kept, group, split, dtype, device))
                kept = []
        if kept:
            found.append(Bucket(kept, group, split, dtype, device))
    return found


def wait_before_use(modules: Iterable[nn.Module]) -> None:
    """Modules wait for their own weights before each forward."""
    for module in modules:
        buckets = {p.bucket for p in module.parameters(recurse=False) if hasattr(p, "bucket")}
        for bucket in buckets:
            module.register_forward_pre_hook(bucket.wait)
