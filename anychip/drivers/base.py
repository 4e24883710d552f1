"""The seam between the virtual device and what stands behind it: about a dozen functions.

Everything above it (device names, autograd, AMP, `torch.cuda`) is shared by all drivers.

| function        | the device calls it when                                 | must do                                      |
|-----------------|----------------------------------------------------------|----------------------------------------------|
| alloc           | a tensor is about to exist on the chip                   | note the block, or raise out of memory       |
| free            | the last tensor over a block is gone                     | forget the block                             |
| launch          | an op was seen before and needs no tensors               | note the op's word                           |
| wants           | an op is seen for the first time                         | say whether `run` must see each call of it   |
| run             | such an op is called; outputs exist                      | do what the op does to its tensors           |
| values_of       | an op's shape depends on a tensor's values               | return them on the CPU, or None              |
| share, span     | and they are not known                                   | say what share of it is expected to be true, how many different integers are in it |
| tell            | an op's result follows from such an expectation          | keep it as the tensor's values               |
| knows           | an op is seen again                                      | say whether `run` must see this call of it: it copies numbers that have values though ops on them are not watched |
| unwatched, wrote | an op that is not watched has written to tensors        | no longer answer with what they held; nothing while `unwatched` is empty |
| forget          | something outside of ops has overwritten a tensor        | no longer answer with what it held           |
| copy_in         | a host tensor is copied to the chip                      | take its values, as far as it keeps any      |
| copy_out        | a chip tensor is copied to the host                      | return a CPU tensor of the same shape        |
| record_stream   | a block is used by a second stream                       | not hand it out before that stream is done   |
| use_stream      | another stream becomes current                           | order what follows on it                     |
| record, wait    | an event is recorded on, or awaited by, a stream         | order the streams                            |
| synchronize     | the host waits for a stream or for all of them           | let the host catch up                        |
| synchronize_event | the host waits for an event                            | the same, up to that event                   |
| elapsed_ms      | the program asks for the time between two events         | answer                                       |
| now_s           | the program asks for the time                            | seconds since the start, on the driver's clock |
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch


def address_of(tensor: torch.Tensor) -> int:
    """Where its memory begins, of any tensor: of a gradient whose storage was an object of Python's a backward adds up in new tensors."""
    return tensor.data_ptr() - int(tensor.storage_offset()) * tensor.element_size()


class Block:
    """One address range of the chip. It belongs to one layout and is handed out again once freed."""

    __slots__ = ("address", "capsule", "free_word", "index", "keep", "nbytes", "pool", "words")

    def __init__(self, index: int, nbytes: int, address: int, pool: "list[Block]") -> None:
        self.index, self.nbytes, self.address, self.pool = index, nbytes, address, pool
        self.capsule: Any = None
        self.keep: Any = None
        self.words: int = 0
        self.free_word: int = 0


@dataclass(slots=True, eq=False)
class Call:
    """One call of an op, for drivers that look at tensors.

    name: base name without overload. mutated: the tensors it writes in place. outputs: the new ones.
    """

    op: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: list[torch.Tensor]
    mutated: list[torch.Tensor]
    outputs: list[torch.Tensor]


class Driver(Protocol):
    unwatched: set[int]

    def alloc(self, block: Block) -> None: ...
    def free(self, block: Block) -> None: ...
    def launch(self, word: int, /) -> None: ...
    def wants(self, tensors: list[torch.Tensor], written: list[tuple[int, torch.dtype]], schema: Any) -> bool: ...
    def run(self, call: Call) -> None: ...
    def record_stream(self, block: Block, stream: int) -> None: ...
    def values_of(self, tensor: torch.Tensor) -> torch.Tensor | None: ...
    def share(self, tensor: torch.Tensor) -> float: ...
    def span(self, tensor: torch.Tensor) -> int | None: ...
    def most(self, tensor: torch.Tensor) -> float | None: ...
    def tell(self, tensor: torch.Tensor, value: torch.Tensor) -> None: ...
    def knows(self, tensor: torch.Tensor) -> bool: ...
    def wrote(self, *tensors: Any) -> None: ...
    def forget(self, tensor: torch.Tensor) -> None: ...
    def copy_in(self, target: torch.Tensor, source: torch.Tensor) -> None: ...
    def copy_out(self, source: torch.Tensor) -> torch.Tensor: ...
    def use_stream(self, stream: int) -> None: ...
    def record(self, event: int, stream: int) -> None: ...
    def wait(self, event: int, stream: int) -> None: ...
    def synchronize(self, stream: int | None = None) -> None: ...
    def synchronize_event(self, event: int) -> None: ...
    def elapsed_ms(self, start: int, end: int) -> float: ...
    def now_s(self) -> float: ...
