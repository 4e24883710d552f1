"""The allocator over a tape: the running program's statistics, and a saved program's peaks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anychip.memory.allocator import Block, CachingAllocator, OutOfMemory, Settings
from anychip.memory.statistics import COUNTED
from anychip.record import Kind, Program, word
from anychip.record.tape import (
    ALLOC,
    ALLOC_CALL,
    FREE,
    KIND_BITS,
    KIND_MASK,
    READ,
    RECORD_STREAM,
    STREAM,
    SYNC,
    SYNC_EVENT,
    AllocatorCall,
    flags,
)

SYNCHRONISES = (SYNC, SYNC_EVENT, READ)
HEARD = flags((ALLOC, FREE, STREAM, RECORD_STREAM, ALLOC_CALL, *SYNCHRONISES))


class TapeAllocator:
    """Feeds tape words to an allocator. A word that does not fit is let through and counted: the program went on."""

    def __init__(self, capacity_bytes: int, settings: str = "", counted: Sequence[str] = COUNTED) -> None:
        self.allocator = CachingAllocator(capacity_bytes, Settings.parse(settings), counted)
        self.stream = 0
        self._blocks: dict[int, Block] = {}

    def run(self, words: Sequence[int], block_bytes: Sequence[int]) -> None:
        """Take words in order; those that do not concern memory are passed over."""
        allocator, blocks = self.allocator, self._blocks
        for one in words:
            kind = one & KIND_MASK
            if kind == ALLOC:
                blocks[one >> KIND_BITS] = self._malloc(block_bytes[one >> KIND_BITS])
            elif kind == FREE:
                block = blocks.pop(one >> KIND_BITS, None)
                if block is not None:
                    allocator.free(block)
            elif kind == STREAM:
                self.stream = one >> KIND_BITS
            elif kind == RECORD_STREAM:
                block = blocks.get(one >> KIND_BITS)
                if block is not None:
                    allocator.record_stream(block, self.stream)
            elif kind == ALLOC_CALL:
                self._call(one >> KIND_BITS)
            elif kind in SYNCHRONISES:
                allocator.synchronized()

    def _malloc(self, nbytes: int) -> Block:
        try:
            return self.allocator.malloc(nbytes, self.stream)
        except OutOfMemory:
            capacity, self.allocator.capacity_bytes = self.allocator.capacity_bytes, 1 << 62
            try:
                return self.allocator.malloc(nbytes, self.stream)
            finally:
                self.allocator.capacity_bytes = capacity

    def _call(self, call: int) -> None:
        if call == AllocatorCall.EMPTY_CACHE:
            self.allocator.release_cached()
        elif call == AllocatorCall.RESET_PEAK:
            self.allocator.reset_peak()


class TapeMemory:
    """What the running program is told of its memory. Looks at the tape only when it is asked."""

    def __init__(self, tape: list[int], block_bytes: list[int], capacity_bytes: int, settings: str = "") -> None:
        self.tape, self.block_bytes = tape, block_bytes
        self.capacity_bytes, self.settings = capacity_bytes, settings
        self.replayed = TapeAllocator(capacity_bytes, settings)
        self._read = 0

    def _now(self) -> CachingAllocator:
        if self._read > len(self.tape):
            self._read = len(self.tape)  # the tape was cut: a captured graph took its words
        if self._read < len(self.tape):
            self.replayed.run(self.tape[self._read :], self.block_bytes)
            self._read = len(self.tape)
        return self.replayed.allocator

    def stats(self) -> dict[str, Any]:
        return self._now().stats()

    def snapshot(self) -> dict[str, Any]:
        return {
            "segments": self._now().snapshot(),
            "device_traces": [[]],
            "allocator_settings": {},
            "external_annotations": [],
        }

    def reserved_bytes(self) -> int:
        return self._now().reserved_bytes

    def allocated_bytes(self) -> int:
        return self._now().allocated_bytes

    def reset_peak(self) -> None:
        self.tape.append(word(Kind.ALLOC_CALL, AllocatorCall.RESET_PEAK))

    def reset_accumulated(self) -> None:
        self._now().reset_accumulated()

    def empty_cache(self) -> None:
        self.tape.append(word(Kind.ALLOC_CALL, AllocatorCall.EMPTY_CACHE))

    def limit(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._now().capacity_bytes = capacity_bytes

    def check(self, nbytes: int) -> str | None:
        """torch's message if an allocation of `nbytes` would fail now, else None. Caches are given back first,
        as torch does before it fails."""
        allocator = self._now()
        try:
            allocator.free(allocator.malloc(nbytes, self.replayed.stream))
        except OutOfMemory as error:
            return error.text
        return None


@dataclass(frozen=True)
class Peaks:
    """Bytes at their highest: allocated to tensors (rounded), and reserved from the chip. retries: how often
    cached memory had to be given back for an allocation to succeed. failed: allocations that found no room."""

    allocated_bytes: int
    reserved_bytes: int
    retries: int
    failed: int


def replay(program: Program, capacity_bytes: int, settings: str = "") -> Peaks:
    """Run the allocator over a recording on a chip with `capacity_bytes`."""
    replayed = TapeAllocator(capacity_bytes, settings, ("allocated_bytes", "reserved_bytes"))
    heard = HEARD[program.kinds]
    # A peak that the program reset is still one that the chip had to hold.
    heard &= program.tape != word(Kind.ALLOC_CALL, AllocatorCall.RESET_PEAK)
    replayed.run(program.tape[heard].tolist(), program.block_bytes.tolist())
    allocator = replayed.allocator
    return Peaks(
        allocator.peak("allocated_bytes"), allocator.peak("reserved_bytes"),
        allocator.events["num_alloc_retries"], allocator.events["num_ooms"],
    )  # fmt: skip
