"""Async tensor parallelism: in compiled regions, products run beside the collectives that they take from or give to.

Where the program has set `torch._inductor.config._micro_pipeline_tp`, torch's compiler rewrites an all-gather that
products take from, and a product whose result is reduce-scattered, into one kernel that does both part by part, in
groups that have symmetric memory (torch/_inductor/fx_passes/micro_pipeline_tp.py). Nothing is compiled here, so the same
is put on the tape: products do not wait for the gather that they take from, what follows them does; a reduce-scatter
waits for what its product waited for, and what follows it for both. The first part of a gather and the last of a
scatter, which nothing hides, are left out. The operators of `torch.ops.symm_mem` that do so are called by programs, too.
"""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from anychip.cost.names import POINTWISE
from anychip.drivers.base import Call
from anychip.record import Kind, word

if TYPE_CHECKING:
    from anychip.device.runtime import Runtime

PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "_scaled_mm"})
MOVES = frozenset({"cat", "split", "split_with_sizes", "clone", "copy_", "_to_copy"})  # that the kernel does on its way
GATHERS = frozenset({"_allgather_base_", "allgather_into_tensor_coalesced_"})
SCATTERS = frozenset({"_reduce_scatter_base_", "reduce_scatter_tensor_coalesced_"})


class MicroPipeline:
    """What is beside what on this rank's tape. held: gathers whose wait is put off, by event: the blocks that hold what they
    bring."""

    def __init__(self, runtime: "Runtime") -> None:
        self.runtime = runtime
        self.gathers: dict[int, set[int]] = {}
        self.held: dict[int, set[int]] = {}
        self.product: tuple[int, set[int]] | None = None  # the event before the last product, and where its result is
        self._at = 0
        self._fused = False  # in one of torch.ops.symm_mem's own operators

    def fused(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        """A kernel that calls a collective and products, as one operator whose products run beside the collective."""

        def run(*args: Any, **kwargs: Any) -> Any:
            kernels, is_watched = self.runtime.kernels, bool(self.runtime.regions.open)
            self._fused = True
            if not is_watched:
                kernels.watch(self)
            try:
                return kernel(*args, **kwargs)
            finally:
                if not is_watched:
                    kernels.unwatch(self)
                self.flush()
                self.product, self._fused = None, False

        return run

    @property
    def is_on(self) -> bool:
        if self._fused:
            return True
        config = sys.modules.get("torch._inductor.config")
        return bool(self.runtime.regions.open and config is not None and config._micro_pipeline_tp)

    def before(self) -> None:
        self._at = len(self.runtime.recorder.tape)

    def after(self, call: Call) -> None:
        """Of an op that has just been put on the tape, from `_at` on."""
        if not self._minds(call.name) or not self.is_on:
            return
        reads, writes = self._blocks(call.tensors), self._blocks([*call.outputs, *call.mutated])
        taken = [blocks for blocks in self.held.values() if blocks & reads]
        if call.name in PRODUCTS:
            if self.held and not taken:
                self._wait(self._at)
            event = self.runtime.new_event()
            self.runtime.recorder.tape.insert(self._at, word(Kind.RECORD, event))
            self.product = event, writes
        elif call.name in MOVES:
            for blocks in taken:
                blocks |= writes
            if self.product is not None and self.product[1] & reads:
                self.product[1].update(writes)
        elif self.held and (taken or {call.name, call.name.removesuffix("_")}.isdisjoint(POINTWISE)):
            self._wait(self._at)

    def _minds(self, name: str) -> bool:
        """Most ops are nothing to this: what they read is looked up only where a gather's wait or a product's result is held."""
        return bool(self.held) or name in PRODUCTS or (self.product is not None and name in MOVES)

    def issues(self, name: str, group: Sequence[str], inputs: Sequence[torch.Tensor]) -> int | None:
        """A collective is about to be issued: the event that it starts behind, if not behind all before it."""
        self.flush()
        product, self.product = self.product, None
        if name in SCATTERS and product is not None and self._has(group) and self._blocks(inputs) & product[1]:
            return product[0]
        return None

    def issued(self, name: str, group: Sequence[str], outputs: Sequence[torch.Tensor], event: int) -> None:
        if name in GATHERS and self._has(group):
            self.gathers[event] = self._blocks(outputs)

    def puts_off(self, event: int) -> bool:
        """Whether a wait for this event is for a gather that products may run beside."""
        blocks = self.gathers.pop(event, None)
        if blocks is None or not self.is_on:
            return False
        self.held[event] = blocks
        return True

    def flush(self) -> None:
        if self.held:
            self._wait(len(self.runtime.recorder.tape))

    def _wait(self, at: int) -> None:
        self.runtime.recorder.tape[at:at] = [word(Kind.WAIT, event) for event in self.held]
        self._at += len(self.held)
        self.held.clear()

    def _has(self, group: Sequence[str]) -> bool:
        """Whether products run so in a group of one of these names."""
        if not self.is_on or self._fused:
            return self._fused
        from torch.distributed._symmetric_memory import is_symm_mem_enabled_for_group

        return any(is_symm_mem_enabled_for_group(name) for name in group)  # type: ignore[arg-type]

    def _blocks(self, tensors: Sequence[torch.Tensor]) -> set[int]:
        by_address = self.runtime.tensors.by_address
        found = (by_address.get(one.untyped_storage().data_ptr()) for one in tensors if one.device.type != "cpu")
        return {block.words >> 5 for block in found if block is not None and block.nbytes}
