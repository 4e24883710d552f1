"""Calls that are not run: how their words are written on the tape again, and how what they return is made.

`repeats` sees that a call does what others did, and folds it; here stands what becomes of it then. In: the words of such calls
and of their backwards (`record.chunk`), and how each of their tensors is made (`Leaf`). A `Replay` is one folded call. Its forward
writes the words, with blocks and events of their own, and makes tensors like those that were returned. Autograd sees one node
(`Folded`) where the call would have had many; when a backward comes to it, `repeats` says what is done: mostly the words of the
backward are written (`Replay.write_backward`).

Blocks inside of a call are numbers alone. Only what the program holds is a tensor: outputs, gradients of inputs, and the gradients that
it hands in, which are freed where those of the calls that ran were, unless the program keeps them (`_kept`, `_empty`).
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from anychip.device.insides._torch_tensors import storage_bytes
from anychip.device.runtime import Runtime
from anychip.device.steps.blocks import plain_tensors
from anychip.record.chunk import Chunk, Writer
from anychip.record.tape import KIND_BITS


@dataclass(frozen=True)
class Leaf:
    """One tensor that a call makes. inner: symbol and layout of each plain tensor in it; wrap: makes it of these."""

    inner: list[tuple[int, Callable[[], torch.Tensor]]]
    wrap: Callable[[Iterator[torch.Tensor]], torch.Tensor]
    requires_grad: bool


def leaf_of(value: torch.Tensor, chunk: Chunk, runtime: Runtime) -> Leaf | None:
    """How to make a tensor that a chunk left; None if that cannot be known."""
    inner: list[tuple[int, Callable[[], torch.Tensor]]] = []
    wrap = _inside(value, chunk, runtime, inner)
    symbols = [symbol for symbol, _ in inner]
    if wrap is None or len(set(symbols)) < len(symbols):
        return None
    return Leaf(inner, wrap, value.requires_grad)


def _inside(value: Any, chunk: Chunk, runtime: Runtime, inner: list[Any]) -> Any:
    """Note the plain tensors inside of one, and how to wrap them again."""
    if not isinstance(value, torch.Tensor):
        return lambda made: value  # what a tensor carries along, as the mesh of a DTensor
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        if not hasattr(value, "__tensor_flatten__"):
            return None
        names, context = value.__tensor_flatten__()
        parts = {name: _inside(getattr(value, name), chunk, runtime, inner) for name in names}
        if None in parts.values():
            return None
        kind, size, stride = type(value), value.size(), value.stride()
        return lambda made: kind.__tensor_unflatten__(  # type: ignore[attr-defined]
            {name: part(made) for name, part in parts.items()}, context, size, stride
        )
    storage = value.untyped_storage()
    block = runtime.tensors.by_address.get(storage.data_ptr()) if value.device.type != "cpu" else None
    symbol = chunk.live.get(block.words >> KIND_BITS) if block is not None and block.words else None
    if symbol is None or value.storage_offset():
        return None
    layout = tuple(value.shape), tuple(value.stride())
    make = runtime.tensors.maker(*layout, value.dtype, value.get_device())
    if storage.nbytes() != storage_bytes(*layout, value.dtype):
        return None
    inner.append((symbol, make))
    return lambda made: next(made)


class Rewriter:
    """Writes chunks on the tape of this process again. free_blocks: of what was written and freed, by size."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime, recorder = runtime, runtime.recorder
        self.free_blocks: dict[int, list[int]] = {}
        self.writer = Writer(recorder.tape, recorder.block_bytes, self._allocate, self._release, runtime.new_event)
        self.free = self.writer.free
        self.anchor = torch.zeros(
            (), requires_grad=True, device="cpu"
        )  # so that there is a node, whatever wants gradients

    def write(
        self, chunk: Chunk, first: list[int], leaves: list[Leaf], frees: Mapping[int, Callable[[], None]]
    ) -> tuple[list[int], list[torch.Tensor]]:
        """What the symbols of a chunk are called this time, and its tensors. The rest is as `Writer.write` has it."""
        made: dict[int, torch.Tensor] = {}
        real: dict[int, Callable[[], None]] = {}
        for leaf in leaves:
            for symbol, make in leaf.inner:
                real[symbol] = lambda symbol=symbol, make=make: made.update({symbol: make()})  # type: ignore[misc]
        self.runtime.here()
        names = self.writer.write(chunk, first, real, frees)
        return names, [leaf.wrap(iter([made[symbol] for symbol, _ in leaf.inner])) for leaf in leaves]

    def _allocate(self, nbytes: int) -> int:
        free = self.free_blocks.get(nbytes)
        return self.runtime.driver.alloc_again(nbytes, free.pop() if free else None)

    def _release(self, block: int) -> None:
        nbytes = self.runtime.recorder.block_bytes[block]
        self.runtime.driver.free_again(nbytes, block)
        self.free_blocks.setdefault(nbytes, []).append(block)


class Replay:
    """A folded call, between its forward and its backward. chunk, leaves: of the calls that it is like. given: the leaves of its
    arguments and what its modules held for it. names: what the chunk's symbols are called; None once they are freed. go_back(replay,
    node, gradients of its outputs): asked for the gradients of `wanted`."""

    def __init__(
        self,
        rewriter: Rewriter,
        chunk: Chunk,
        leaves: list[Leaf],
        given: list[Any],
        go_back: "Callable[[Replay, int, tuple[Any, ...]], list[Any]]",
    ) -> None:
        self.rewriter, self.chunk, self.leaves, self.given, self.go_back = rewriter, chunk, leaves, given, go_back
        self.unkept = _unkept()  # (not from inside of a backward)
        self.names: list[int] | None = None
        self.gone_back = False

    @property
    def wanted(self) -> list[torch.Tensor]:
        return [one for one in self.given if isinstance(one, torch.Tensor) and one.requires_grad]

    def outputs(self) -> Iterator[torch.Tensor]:
        """The tensors that the call returns, behind one node of autograd."""
        return iter(Folded.apply(self, self.rewriter.anchor, *self.wanted))  # type: ignore[no-untyped-call]

    def forward(self) -> list[torch.Tensor]:
        self.names, made = self.rewriter.write(self.chunk, [], self.leaves, {})
        self.rewriter.free(self.names, list(self.chunk.early))
        return made

    def write_backward(
        self, chunk: Chunk, blocks: Mapping[int, tuple[int, int]], leaves: list[Leaf], grads: tuple[Any, ...]
    ) -> list[torch.Tensor]:
        """The gradients of `wanted`. chunk, leaves: of the backwards that this one is like. blocks: where their gradients came: number of
        the output and place in it. grads: those that came this time. They are freed where those were; the engine, which
        holds them until this is done, would free them later."""
        assert self.names is not None
        plain = {at: plain_tensors(grads[at]) for at in range(len(grads)) if not self._kept(grads, at)}
        frees = {
            block: partial(_empty, plain[number][place])
            for block, (number, place) in blocks.items()
            if place < len(plain.get(number, ()))
        }
        names, made = self.rewriter.write(chunk, self.names, leaves, frees)
        self.rewriter.free(names, list(chunk.live.values()))
        self.given = []
        return made

    def _kept(self, grads: tuple[Any, ...], number: int) -> bool:
        """Whether the program has a gradient itself, as from a hook that puts it in a list."""
        return sys.getrefcount(grads[number]) > self.unkept

    def close(self) -> None:
        """Free what the forward left: what its backward keeps (`retain_graph`) goes with the graph."""
        names, self.names = self.names, None
        if names is not None:
            self.rewriter.free(names, list(self.chunk.live.values()))

    def __del__(self) -> None:
        self.close()


class Folded(torch.autograd.Function):
    """The one node that stands for a folded call."""

    @staticmethod
    def forward(ctx: Any, replay: Replay, anchor: torch.Tensor, *inputs: torch.Tensor) -> Any:
        ctx.replay = replay
        ctx.set_materialize_grads(False)
        made = replay.forward()
        leaves = zip(made, replay.leaves, strict=True)
        ctx.mark_non_differentiable(*(one for one, leaf in leaves if not leaf.requires_grad))
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return (None, None, *ctx.replay.go_back(ctx.replay, ctx._sequence_nr(), grads))


def plain_backward(*args: Any) -> None:
    """torch's own, unseen by the hooks of this device."""
    backward: Any = torch.autograd.backward
    getattr(backward, "__wrapped__", backward)(*args)


def _empty(tensor: torch.Tensor) -> None:
    """Free its memory, unless a view of it stays."""
    if _owners(tensor) == _OWN:
        tensor.untyped_storage().resize_(0)


def _owners(tensor: torch.Tensor) -> int:
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


_OWN = _owners(torch.empty(0, device="cpu"))


class _Counted(torch.autograd.Function):
    """A node that says how many references there are to its gradient."""

    references = 0

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        _Counted.references = sys.getrefcount(grads[0])
        return None


@cache
def _unkept() -> int:
    """References to a gradient that nobody keeps: as many as this torch takes to hand it to a node."""
    value = torch.zeros((), requires_grad=True, device="cpu")
    plain_backward([_Counted.apply(value).neg()])  # type: ignore[no-untyped-call]
    return _Counted.references
