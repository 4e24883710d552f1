"""The driver that forecasts: no data, a tape, and a virtual clock that reads it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

import torch

from anychip.drivers.base import Block, Call, address_of
from anychip.drivers.bounds import check as check_indices
from anychip.drivers.expected import EXPECTED, Known, keep, of
from anychip.drivers.masks import BOTH, COMPARE, NEGATIONS
from anychip.drivers.values import (
    CARRY,
    FILLS,
    GUESS,
    INDEX_LIKE,
    INTEGERS,
    KEPT,
    PICKS,
    SMALL,
    Values,
    carried,
    first_uniform,
    is_whole,
)  # fmt: skip
from anychip.record import Kind, word
from anychip.record.recorder import Recorder, user_place

# What is done on as much as is kept: what the host sent comes back, as whatever type.
COPIES = frozenset(("_to_copy", "copy_"))  # whose kernels say whether what they copy has values
MOVERS = frozenset((
    *COPIES, "clone", "index", "index_select", "gather", "cat", "stack", "repeat", "flip", "roll", "tril", "triu", "arange",
))  # fmt: skip
ENDS = ("max", "min", "amax", "amin")
SUMS = frozenset((*ENDS, "sum", "any", "all"))
# The same as point-wise ops where results are integers and masks: how many of them a program picks is then known.
OF_MASKS = SUMS | {"cumsum", "scatter", "scatter_", "index_put_", "_index_put_impl_"}
PARTS = frozenset(("fill_", "zero_"))  # done where they fill a part of what has values
# And what is done on many floating-point numbers: a small model that is not one of these is not run.
OF_NUMBERS = MOVERS | SUMS | PARTS | {"mean", "eq", "ne", *COMPARE, *BOTH, *NEGATIONS}
POINTWISE = ("rsub", "floor_divide")  # without torch's tag for it
UNWRITTEN = ("empty_like", "new_empty", "new_empty_strided")  # what lies there on the host by chance is no value
# What is expected of these is so of integers and masks alone: watching a call takes time.
OF_INTEGERS = frozenset({"add"})
GRAIN = 1 << 15  # elements from which on torch splits an op over threads
NEAR = 0.8  # share of the memory from which on every allocation is tried on PyTorch's own allocator


class Clock(Protocol):
    """The virtual clock: reads the tape as far as it has grown and says what time it is on the chip."""

    def now_s(self) -> float: ...
    def event_s(self, event: int) -> float: ...


class NullDriver:
    """Notes everything, computes nothing but the values of small tensors that came from the host."""

    def __init__(
        self, recorder: Recorder, clock: Clock, out_of_memory: Callable[[int], None], memory_bytes: int,
        imbalance: float = 1.0,
    ) -> None:  # fmt: skip
        self.recorder, self.clock, self.values = recorder, clock, Values(imbalance, recorder.warn)
        self.launch = recorder.tape.append
        self.unwatched = self.values.unwatched
        self.used_bytes = 0
        self.check_above_bytes = int(memory_bytes * NEAR)
        self._out_of_memory = out_of_memory

    # ------------------------------------------------------------ memory

    def alloc(self, block: Block) -> None:
        nbytes = block.nbytes
        if not nbytes:
            return
        used = self.used_bytes + nbytes
        if used > self.check_above_bytes:
            self._out_of_memory(nbytes)
        self.used_bytes = used
        if not block.words:
            self._first_alloc(block)
        self.launch(block.words)

    def _first_alloc(self, block: Block) -> None:
        index = len(self.recorder.block_bytes)
        self.recorder.block_bytes.append(block.nbytes)
        block.words = word(Kind.ALLOC, index)
        block.free_word = word(Kind.FREE, index)

    def free(self, block: Block) -> None:
        if not block.nbytes:
            return
        self.used_bytes -= block.nbytes
        self.launch(block.free_word)
        self.values.forget(block.address)

    def alloc_again(self, nbytes: int, block: int | None) -> int:
        """An allocation that no tensor stands for: of a number that was released, or a new one."""
        if self.used_bytes + nbytes > self.check_above_bytes:
            self._out_of_memory(nbytes)
        self.used_bytes += nbytes
        if block is None:
            block = len(self.recorder.block_bytes)
            self.recorder.block_bytes.append(nbytes)
        self.launch(word(Kind.ALLOC, block))
        return block

    def free_again(self, nbytes: int, block: int) -> None:
        """The end of such an allocation."""
        self.used_bytes -= nbytes
        self.launch(word(Kind.FREE, block))

    def record_stream(self, block: Block, stream: int) -> None:
        self.launch(word(Kind.RECORD_STREAM, block.words >> 5))

    # ------------------------------------------------------------ values

    def wants(self, tensors: list[torch.Tensor], written: list[tuple[int, torch.dtype]], schema: Any) -> bool:
        """Watch calls whose results are small enough to have values, and those that hand a uniform value on."""
        if schema.unchecked:
            return schema.base.startswith("_amp_")
        if any(numel <= SMALL for numel, _ in written):
            # (of no elements nothing is known)
            return any(numel for numel, _ in written) or schema.base not in UNWRITTEN
        fits = any(numel * dtype.itemsize <= KEPT for numel, dtype in written)
        if schema.base in MOVERS and (any(map(self.knows, tensors)) if schema.base in COPIES else fits):
            return True
        if schema.base == "_to_copy" and written[0][1] == torch.bool:  # (of a mask that came as numbers)
            return True
        if schema.base in FILLS:  # (a mask of ones may be made in the shape of numbers)
            return fits or not schema.base.endswith("_") or tensors[0].dtype in INDEX_LIKE
        if schema.base not in OF_INTEGERS and (carried(schema.base, None, 1) is not None or schema.base in EXPECTED):
            return True
        return any(tensor.dtype in INDEX_LIKE for tensor in tensors)

    def run(self, call: Call) -> None:
        written = call.mutated + call.outputs
        with on_one_thread() if any(tensor.numel() > GRAIN for tensor in written) else nullcontext():
            self._run(call, written)

    def _run(self, call: Call, written: list[torch.Tensor]) -> None:
        check_indices(self.values, call)
        self.values.picked += call.name in PICKS
        if self._compute(call, written):
            return
        call = with_results(call)
        chip = on_chip(call.tensors[1:] if call.name == "copy_" else call.tensors)
        uniform = None if call.mutated else self._on_one_element(call, chip, written, self.values.certain)
        if uniform is None:
            uniform = carried(call.name, first_uniform(self.values, chip), elements_each(call))
        guess = self._guess(call, chip, written) if uniform is None else None
        expected = EXPECTED.get(call.name, keep)(self.values, call)
        for number, tensor in enumerate(written):
            address = tensor.untyped_storage().data_ptr()
            self.values.forget(address)
            if uniform is not None and (not number or call.name not in EXPECTED):  # (max has indices besides)
                self.values.fill(tensor, uniform)
            elif call.name in GUESS:
                self.values.guess[address] = GUESS[call.name]
        for tensor, known in zip(written, expected, strict=False):
            if call.name in COPIES and any(one.is_cpu for one in call.tensors):
                self._tell_of_host(known, tensor)
            else:
                known.tell(self.values, tensor)
        if guess is not None:
            self.values.guess[written[0].untyped_storage().data_ptr()] = guess

    def _guess(self, call: Call, chip: list[torch.Tensor], written: list[torch.Tensor]) -> int | None:
        """What follows for few integers from what is made up of others: as if these were read first."""
        if any(tensor.numel() > SMALL for tensor in written):
            return None
        if call.name in ENDS and len(written) == 1 and written[0].dtype in INTEGERS:
            return self.values.guess.get(chip[0].untyped_storage().data_ptr())
        if any(one.dtype not in INTEGERS for one in chip):
            return None
        return self._on_one_element(call, chip, written, self.values.read_as)

    def _on_one_element(
        self, call: Call, chip: list[torch.Tensor], written: list[torch.Tensor],
        value_of: Callable[[torch.Tensor], float | None],
    ) -> Any:  # fmt: skip
        """A point-wise op that makes masks or integers of what has one value each: it is done on one element."""
        if not is_pointwise(call) or not chip or len(written) != 1 or written[0].dtype not in INDEX_LIKE:
            return None
        stand_ins: dict[int, torch.Tensor] = {}
        try:
            for tensor in chip:
                value = value_of(tensor)
                if value is None:
                    return None
                # (Of a view as smaller integers it may be none of theirs.)
                stand_ins[id(tensor)] = torch.full((1,) * tensor.dim(), value, dtype=tensor.dtype, device="cpu")
            result = call.op(*swapped(call.args, stand_ins), **swapped(call.kwargs, stand_ins))
        except (RuntimeError, NotImplementedError):
            return None
        return result.item() if result.numel() == 1 else None

    def _compute(self, call: Call, written: list[torch.Tensor]) -> bool:
        """Do the op on real values if all its inputs have some; say whether that was possible."""
        if not is_done(call, written) or random(call.op) or call.name in UNWRITTEN:
            return False
        read = [one for one in on_chip(call.tensors) if not any(one is other for other in call.mutated)]
        if any(self._is_unknown(one) for one in read) or self._is_uniform(call, read, written):
            return False
        if call.name not in OF_NUMBERS and any(map(self.knows, read + call.mutated)):
            return False
        stand_ins: dict[int, torch.Tensor] = {}
        # What is written comes last: it may be in the memory of what is read, of which nothing is known by it.
        for tensor in [*read, *on_chip(call.mutated)]:
            alias = self.values.alias(tensor) if tensor.numel() else self._nothing(tensor)
            if alias is None:
                alias = self.values.spelled_out(tensor)
            if alias is None and not any(tensor is other for other in call.mutated):
                return False
            if alias is None:
                if not overwrites(call.name) or not self.values.keeps(tensor):
                    return False
                self.values.put(tensor, torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu"))
                alias = self.values.alias(tensor)
            assert alias is not None
            stand_ins[id(tensor)] = alias
        try:
            result = call.op(*swapped(call.args, stand_ins), **swapped(call.kwargs, stand_ins))
        except (RuntimeError, NotImplementedError, IndexError):
            return False
        results = result if isinstance(result, tuple | list) else [result]
        made = [one for one in flat(results) if not any(one is alias for alias in stand_ins.values())]
        for tensor, value in zip(call.outputs, made, strict=False):
            if tensor.shape == value.shape:  # a few by-products of CPU kernels have shapes of their own
                self.values.put(tensor, value)
        return True

    def _is_unknown(self, tensor: torch.Tensor) -> bool:
        """Whether it has no values, or is so often the same ones that they are not gone through (`expand`)."""
        address = tensor.untyped_storage().data_ptr()
        known = address in self.values.real or (address in self.values.uniform and self.values.keeps(tensor))
        return bool(tensor.numel()) and (not known or tensor.numel() > KEPT)

    def _is_uniform(self, call: Call, read: list[torch.Tensor], written: list[torch.Tensor]) -> bool:
        """Whether much comes of an op of which it will be known that it is all the same: that need not be spelled out."""
        if all(tensor.numel() <= SMALL for tensor in written):
            return False
        if call.name in PARTS:
            return any(is_whole(tensor) or self._is_unknown(tensor) for tensor in call.mutated)
        if call.mutated or not read:
            return False
        return (is_pointwise(call) or call.name in CARRY) and all(
            one.untyped_storage().data_ptr() in self.values.uniform for one in read
        )

    @staticmethod
    def _nothing(tensor: torch.Tensor) -> torch.Tensor:
        """A tensor without elements holds no value that could be unknown."""
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")

    def values_of(self, tensor: torch.Tensor) -> torch.Tensor | None:
        return self.values.alias(tensor)

    def mean_of(self, tensor: torch.Tensor) -> float | None:
        """Of all elements; None where nothing is known of them."""
        known = self.values_of(tensor)
        return self.values.certain(tensor) if known is None else known.double().mean().item()

    def share(self, tensor: torch.Tensor) -> float:
        """Expected share of elements that are not zero: what is known of the tensor, else all of them."""
        address = tensor.untyped_storage().data_ptr()
        uniform = self.values.uniform.get(address)
        if uniform is not None:
            return float(bool(uniform))
        share = self.values.share.get(address)
        if share is None:
            share = 1.0
            self.values.guess.setdefault(address, 1)  # on the host it selects as much
            if tensor.numel() > 1:
                self.values.all_at[user_place().text] = None
        if self.values.imbalance != 1.0:
            place = user_place().text
            if address in self.values.uneven:
                self.values.uneven_at[place] = None
            else:
                self.values.even_at[place] = "an equal part" if share < 1 else "everything"
        return share

    def span(self, tensor: torch.Tensor) -> int | None:
        return self.values.span.get(tensor.untyped_storage().data_ptr())

    def most(self, tensor: torch.Tensor) -> float | None:
        return self.values.most.get(tensor.untyped_storage().data_ptr())

    def tell(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        self.values.put(tensor, value)

    def knows(self, tensor: torch.Tensor) -> bool:
        return tensor.is_cpu or (bool(self.unwatched) and address_of(tensor) in self.unwatched)

    def wrote(self, *tensors: Any) -> None:
        for tensor in flat(tensors) if self.unwatched else ():
            address = address_of(tensor)
            if address in self.unwatched:
                self.values.forget(address)

    def forget(self, tensor: torch.Tensor) -> None:
        self.values.forget(tensor.untyped_storage().data_ptr())

    def copy_in(self, target: torch.Tensor, source: torch.Tensor) -> None:
        if self.values.keeps(target):
            self.values.put(target, source)
            return
        self.values.forget(target.untyped_storage().data_ptr())
        self._tell_of_host(of(self.values, source), target)

    def _tell_of_host(self, known: Known, tensor: torch.Tensor) -> None:
        """What a tensor of the host says of its copy holds until that is written to: weights may begin as zeros."""
        known.tell(self.values, tensor)
        if known.share is not None:
            self.values.watch(tensor)

    def copy_out(self, source: torch.Tensor) -> torch.Tensor:
        return self.values.to_host(source)

    # ------------------------------------------------------------ streams and time

    def use_stream(self, stream: int) -> None:
        self.launch(word(Kind.STREAM, stream))

    def record(self, event: int, stream: int) -> None:
        self._on(stream, word(Kind.RECORD, event))

    def wait(self, event: int, stream: int) -> None:
        self._on(stream, word(Kind.WAIT, event))

    def _on(self, stream: int, what: int) -> None:
        """Words about a stream that is not the current one stand between two STREAM words."""
        current = self.current_stream()
        if stream == current:
            self.launch(what)
        else:
            self.recorder.tape.extend((word(Kind.STREAM, stream), what, word(Kind.STREAM, current)))

    current_stream: Callable[[], int] = staticmethod(lambda: 0)

    def synchronize(self, stream: int | None = None) -> None:
        self.launch(word(Kind.SYNC, 0 if stream is None else stream + 1))

    def synchronize_event(self, event: int) -> None:
        self.launch(word(Kind.SYNC_EVENT, event))

    def elapsed_ms(self, start: int, end: int) -> float:
        return (self.clock.event_s(end) - self.clock.event_s(start)) * 1e3

    def now_s(self) -> float:
        return self.clock.now_s()


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Values are few: threads that wait for one another take longer than the work, a hundred times where other processes run too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_chip(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor for tensor in tensors if tensor.device.type not in ("cpu", "meta")]


def with_results(call: Call) -> Call:
    """A call that was given tensors for its results (`out=`): they are these, as new ones would be."""
    is_given = call.mutated and not call.outputs and not call.name.endswith("_")
    return replace(call, outputs=call.mutated, mutated=[]) if is_given else call


def elements_each(call: Call) -> int:
    """Elements of the input for each of the result."""
    if not call.tensors or not call.outputs:
        return 1
    return call.tensors[0].numel() // max(call.outputs[0].numel(), 1)


def is_done(call: Call, written: list[torch.Tensor]) -> bool:
    """Whether an op is done on values, if there are any: each where it makes few, some up to what is kept."""
    if all(tensor.numel() <= SMALL for tensor in written):
        return True
    if any(tensor.numel() * tensor.element_size() > KEPT for tensor in written):
        return False
    if call.name in MOVERS | PARTS:
        return True
    return (is_pointwise(call) or call.name in OF_MASKS) and all(tensor.dtype in INDEX_LIKE for tensor in written)


def is_pointwise(call: Call) -> bool:
    return torch.Tag.pointwise in call.op.tags or call.name in POINTWISE


def overwrites(name: str) -> bool:
    """Ops whose result does not depend on what was there before."""
    return name in ("zero_", "fill_", "copy_") or not name.endswith("_")


def random(op: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in op.tags


def flat(values: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in values:
        found.extend(
            flat(value) if isinstance(value, list | tuple) else [value] if isinstance(value, torch.Tensor) else []
        )
    return found


def swapped(value: Any, stand_ins: dict[int, torch.Tensor]) -> Any:
    """Args with chip tensors replaced by their values and devices by the CPU."""
    if isinstance(value, torch.Tensor):
        return stand_ins.get(id(value), value)
    if isinstance(value, dict):
        return {key: swapped(item, stand_ins) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [swapped(item, stand_ins) for item in value]
    if isinstance(value, torch.device):
        return torch.device("cpu")
    if isinstance(value, torch.Generator):
        return None
    return value
