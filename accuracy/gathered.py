"""`python -m accuracy.gathered`: trains the reference transformer with each parameter gathered by itself, as DeepSpeed's first ZeRO-3.

Its options are the reference's; `--sharding fsdp` is what it does in another way. As deepspeed/runtime/zero/stage3.py and
partition_parameters.py at c83e49f9e (April 2021, defaults): before a module runs, each of its parameters is gathered into a
list of as many pieces as there are ranks, and the device is waited for before and after; small parameters stay; large ones
stay where they are used again soon. Gradients are scattered from lists too.
"""

from argparse import Namespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from accuracy.reference import __main__ as reference
from accuracy.reference.layout import Layout

KEPT = 100_000  # stage3_param_persistence_threshold: elements of a parameter that is never split
SOON = 1_000_000_000  # stage3_max_reuse_distance: elements of what runs in between
BUCKET = 500_000_000  # reduce_bucket_size: elements of gradients that wait for their reduction


class Parts:
    """Parameters of which each rank keeps one part.

    trace: modules in the order in which the first step used them, forward, recomputation and backward.
    """

    def __init__(self, modules: list[nn.Module], group: dist.ProcessGroup) -> None:
        self.group, self.ranks, self.rank = group, dist.get_world_size(group), dist.get_rank(group)
        self.stream = torch.cuda.Stream()
        self.trace: list[nn.Module] = []
        self.at, self.is_known = 0, False
        self.own: dict[nn.Parameter, Tensor] = {}
        self.shapes: dict[nn.Parameter, torch.Size] = {}
        self.gradients: dict[nn.Parameter, Tensor] = {}
        self.waiting: list[nn.Parameter] = []
        for module in modules:
            for parameter in self.of(module):
                if parameter not in self.own:  # a tied weight is met twice
                    self.split(parameter)
            if self.of(module):
                module.register_forward_pre_hook(self.before)
                module.register_forward_hook(self.after)
                module.register_full_backward_pre_hook(self.before)
        self.master = [part.float() for part in self.own.values()]
        for part in self.master:
            part.requires_grad_()

    def of(self, module: nn.Module) -> list[nn.Parameter]:
        return [p for p in module.parameters(recurse=False) if p in self.own or p.numel() >= KEPT]

    def split(self, parameter: nn.Parameter) -> None:
        size = -(-parameter.numel() // self.ranks)
        self.own[parameter] = torch.zeros(size, dtype=parameter.dtype, device=parameter.device)
        self.shapes[parameter] = parameter.shape
        self.gradients[parameter] = torch.zeros_like(self.own[parameter])
        parameter.register_post_accumulate_grad_hook(self.filled)
        self.release(parameter)

    def release(self, parameter: nn.Parameter) -> None:
        parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)

    # Before and after a module ------------------------------------------------------------------------------------------

    def before(self, module: nn.Module, *_: Any) -> None:
        missing = [parameter for parameter in self.of(module) if not parameter.numel()]
        with torch.cuda.stream(self.stream):
            works = [self.gather(parameter) for parameter in missing]
            for work in works:
                work.wait()
        if works:
            self.stream.synchronize()
            torch.cuda.synchronize()
        if not self.is_known:
            self.trace.append(module)
        self.at += 1

    def gather(self, parameter: nn.Parameter) -> Any:
        own, shape = self.own[parameter], self.shapes[parameter]
        flat = torch.zeros(own.numel() * self.ranks, dtype=own.dtype, device=own.device)
        torch.cuda.synchronize()
        pieces = [flat.narrow(0, number * own.numel(), own.numel()) for number in range(self.ranks)]
        pieces[self.rank].copy_(own)
        work = dist.all_gather(pieces, pieces[self.rank], group=self.group, async_op=True)
        parameter.data = flat[: shape.numel()].view(shape)
        return work

    def after(self, module: nn.Module, *_: Any) -> None:
        if not self.is_soon(module):
            for parameter in self.of(module):
                self.release(parameter)

    def is_soon(self, module: nn.Module) -> bool:
        """Whether the module runs again before SOON elements of others have."""
        passed = 0
        for other in self.trace[self.at :] if self.is_known else ():
            if other is module:
                return passed < SOON
            passed += sum(self.shapes[parameter].numel() for parameter in self.of(other))
            if passed >= SOON:
                break
        return False

    # Gradients and optimizer --------------------------------------------------------------------------------------------

    def filled(self, parameter: nn.Parameter) -> None:
        """A gradient is there. Those before it are reduced where it does not fit beside them."""
        if sum(self.shapes[one].numel() for one in self.waiting) + parameter.numel() > BUCKET:
            self.reduce()
        self.waiting.append(parameter)

    def reduce(self) -> None:
        works = []
        for parameter in self.waiting:
            size = self.own[parameter].numel()
            assert parameter.grad is not None
            flat = nn.functional.pad(parameter.grad.view(-1), (0, size * self.ranks - parameter.grad.numel()))
            pieces = [flat.narrow(0, number * size, size) for number in range(self.ranks)]
            works.append(dist.reduce_scatter(pieces[self.rank], pieces, group=self.group, async_op=True))
            self.gradients[parameter].add_(pieces[self.rank])
            parameter.grad = None
            self.release(parameter)
        for work in works:
            work.wait()
        self.waiting = []

    def finish(self) -> None:
        """The end of a backward."""
        self.reduce()
        self.at, self.is_known = 0, True


class Optimizer(torch.optim.AdamW):
    """AdamW on this rank's parts in 32 bit, after a look for overflow over all ranks."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        super().__init__(parts.master, lr=1e-4, foreach=True)

    def step(self, closure: Any = None) -> Any:
        self.parts.finish()
        for master, gradient in zip(self.parts.master, self.parts.gradients.values(), strict=True):
            master.grad = gradient.float()
        largest = torch.stack([gradient.abs().max() for gradient in self.parts.gradients.values()]).max()
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self.parts.group)
        largest.item()
        super().step(closure)
        for own, master in zip(self.parts.own.values(), self.parts.master, strict=True):
            own.copy_(master)
        for gradient in self.parts.gradients.values():
            gradient.zero_()


def shard(args: Namespace, layout: Layout, stages: list[nn.Module]) -> torch.optim.Optimizer:
    """As the reference's `shard`."""
    assert layout.shard is not None, "parameters are split over ranks, of which there is one"
    for stage in stages:
        stage.to(reference.DTYPES[args.dtype])
        stage.set_requires_gradient_sync = lambda _is_last: None  # type: ignore[assignment]
    return Optimizer(Parts([module for stage in stages for module in stage.modules()], layout.shard))


def main() -> None:
    reference.shard = shard
    reference.main()


if __name__ == "__main__":
    main()
