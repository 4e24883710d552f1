"""PyTorch's caching allocator by its published rules, to the byte.

Sizes are rounded to 512 bytes. Up to 1 MiB comes from the small pool, whose segments are 2 MiB; more from the
large pool, whose segments are 20 MiB for up to 10 MiB and otherwise the size rounded to 2 MiB. A request takes
the smallest free block of its pool and stream that is large enough (the lowest address among equals) and
splits it if enough is left over. A freed block joins its free neighbours. When the chip has no room for a
segment, cached segments that are wholly free are given back, then it is out of memory.

Source: c10/cuda/CUDACachingAllocator.cpp and the memory management notes of PyTorch 2.13
(https://docs.pytorch.org/docs/stable/notes/cuda.html#memory-management).
"""

import os
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anychip.memory.statistics import COUNTED, Statistics, out_of_memory_text

MIB = 1 << 20
MIN_BLOCK = 512
SMALL_SIZE = 1 * MIB  # largest request of the small pool
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB
MIN_LARGE_SEGMENT = 10 * MIB  # requests from here on get a segment of their own size
ROUND_LARGE = 2 * MIB
NO_LIMIT = 1 << 62
FIRST_ADDRESS = 0x7F00_0000_0000
SEGMENT_GAP = 1 << 40  # address space kept free behind each expandable segment


class OutOfMemory(Exception):
    """No room for `nbytes`; `text` is torch's own message."""

    def __init__(self, nbytes: int, text: str) -> None:
        super().__init__(text)
        self.nbytes, self.text = nbytes, text


@dataclass(frozen=True)
class Settings:
    """What PYTORCH_CUDA_ALLOC_CONF can say, as far as it changes where blocks go. Sizes in bytes."""

    expandable_segments: bool = False
    max_split_size: int = NO_LIMIT
    roundup_power2_divisions: int = 0
    garbage_collection_threshold: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Settings":
        """`name:value,name:value`; names that only tune speed are passed over, as torch does for other backends."""
        given: dict[str, str] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition(":")
            given[name] = value.strip()
        split = given.get("max_split_size_mb")
        divisions = given.get("roundup_power2_divisions", "0")
        return cls(
            expandable_segments=given.get("expandable_segments", "").lower() in ("true", "1"),
            max_split_size=int(split) * MIB if split and split.isdigit() else NO_LIMIT,
            roundup_power2_divisions=int(divisions) if divisions.isdigit() else 0,
            garbage_collection_threshold=float(given.get("garbage_collection_threshold") or 0.0),
        )


def settings_of(*names: str | None) -> str:
    """What the first of these environment variables that is set says; a platform may have none."""
    return next((os.environ[name] for name in names if name and name in os.environ), "")


class Segment:
    """Memory taken from the chip at once. blocks are kept as a doubly linked list, `first` at its start. pool: the free blocks
    of its stream and size, smallest first, each as (size, address, block)."""

    __slots__ = ("address", "expandable", "first", "pool", "size", "small", "stream")

    def __init__(self, address: int, size: int, small: bool, stream: int, pool: "Pool", expandable: bool) -> None:
        self.address, self.size, self.small, self.stream, self.expandable = address, size, small, stream, expandable
        self.pool = pool
        self.first: Block | None = None


class Block:
    """A part of a segment: free in its pool, or allocated, or waiting for other streams."""

    __slots__ = ("address", "allocated", "next", "previous", "requested", "segment", "size", "streams", "waiting")

    def __init__(self, segment: Segment, address: int, size: int) -> None:
        self.segment, self.address, self.size, self.requested = segment, address, size, 0
        self.allocated = self.waiting = False
        self.previous: Block | None = None
        self.next: Block | None = None
        self.streams: set[int] = set()

    @property
    def is_split(self) -> bool:
        return self.previous is not None or self.next is not None


Pool = list[tuple[int, int, Block]]
ACTIVE = ("active", "active_bytes", "requested_bytes")
INACTIVE = ("inactive_split", "inactive_split_bytes")


class CachingAllocator:
    """Hands out blocks of a chip with `capacity_bytes`.

    Invariants: the blocks of a segment cover it without gap or overlap, no two free neighbours stay apart,
    and segments never exceed the capacity.
    """

    def __init__(self, capacity_bytes: int, settings: Settings | None = None, counted: Sequence[str] = COUNTED) -> None:
        self.capacity_bytes, self.settings = capacity_bytes, settings or Settings()
        self.segments: dict[int, Segment] = {}
        self.statistics = Statistics(counted)
        # A long replay is asked for two statistics alone: what it need not count it does not look at.
        self._counts_active, self._counts_inactive = (
            any(name in counted for name in names) for names in (ACTIVE, INACTIVE)
        )
        self._free: dict[tuple[int, bool], Pool] = {}
        self._waiting: list[Block] = []
        self._next_address = FIRST_ADDRESS

    @property
    def allocated_bytes(self) -> int:
        return self.statistics.current("allocated_bytes")

    @property
    def reserved_bytes(self) -> int:
        return self.statistics.current("reserved_bytes")

    @property
    def events(self) -> dict[str, int]:
        return self.statistics.events

    def peak(self, name: str) -> int:
        return self.statistics.peak(name)

    # ------------------------------------------------------------ sizes

    def rounded(self, nbytes: int) -> int:
        """Bytes of the block that a request gets at least."""
        divisions = self.settings.roundup_power2_divisions
        if nbytes < MIN_BLOCK:
            return MIN_BLOCK
        if divisions > 1 and nbytes > MIN_BLOCK * divisions:
            power = 1 << (nbytes.bit_length() - 1)
            step = max(power // divisions, 1)
            return nbytes if nbytes == power else -(-nbytes // step) * step
        return -(-nbytes // MIN_BLOCK) * MIN_BLOCK

    @staticmethod
    def segment_size(size: int) -> int:
        if size <= SMALL_SIZE:
            return SMALL_SEGMENT
        return LARGE_SEGMENT if size < MIN_LARGE_SEGMENT else -(-size // ROUND_LARGE) * ROUND_LARGE

    # ------------------------------------------------------------ allocation

    def malloc(self, nbytes: int, stream: int = 0) -> Block:
        """A block of at least `nbytes` for `stream`. Raises OutOfMemory, after giving back what was cached."""
        size = self.rounded(nbytes)
        small = size <= SMALL_SIZE
        block = self._find(size, small, stream)
        if block is None:
            self._collect_garbage(self.segment_size(size))
            block = self._new_block(size, small, stream)
        if block is None:
            self.events["num_alloc_retries"] += 1
            self.release_cached()
            block = self._new_block(size, small, stream)
        if block is None:
            self.events["num_ooms"] += 1
            raise OutOfMemory(nbytes, self.message(nbytes))
        return self._take(block, size, nbytes)

    def _find(self, size: int, small: bool, stream: int) -> Block | None:
        free = self._free.get((stream, small), [])
        at = bisect_left(free, (size,))
        if at == len(free):
            return None
        block = free[at][2]
        if block.segment.expandable and block.next is None and at + 1 < len(free):
            at += 1  # a segment's end counts as large as it could grow
            block = free[at][2]
        limit = self.settings.max_split_size
        if size < limit <= block.size or (size >= limit and block.size >= size + LARGE_SEGMENT):
            return None
        del free[at]
        if self._counts_inactive:
            self._count_inactive(block, -1)
        return block

    def _new_block(self, size: int, small: bool, stream: int) -> Block | None:
        if self.settings.expandable_segments:
            return self._expand(size, small, stream)
        segment_size = self.segment_size(size)
        if self.reserved_bytes + segment_size > self.capacity_bytes:
            return None
        segment = self._add_segment(segment_size, small, stream)
        self.statistics.count(small, (("segment", 1),))
        return self._first_block(segment)

    def _add_segment(self, size: int, small: bool, stream: int, expandable: bool = False) -> Segment:
        pool = self._free.setdefault((stream, small), [])
        segment = Segment(self._next_address, size, small, stream, pool, expandable)
        self._next_address += SEGMENT_GAP if expandable else size + ROUND_LARGE
        self.segments[segment.address] = segment
        self._reserve(segment, size)
        return segment

    def _first_block(self, segment: Segment) -> Block:
        block = segment.first = Block(segment, segment.address, segment.size)
        return block

    def _expand(self, size: int, small: bool, stream: int) -> Block | None:
        """Grow the one expandable segment of this stream and pool until its last block fits."""
        page = SMALL_SEGMENT if small else LARGE_SEGMENT
        segment = next(
            (one for one in self.segments.values() if one.expandable and one.small == small and one.stream == stream),
            None,
        )
        last = _last(segment) if segment else None
        tail = last.size if last is not None and not last.allocated and not last.waiting else 0
        grown = -(-(size - tail) // page) * page
        if self.reserved_bytes + grown > self.capacity_bytes:
            return None
        if segment is None:
            segment = self._add_segment(grown, small, stream, expandable=True)
            self.statistics.count(small, (("segment", 1),))
            return self._first_block(segment)
        self._reserve(segment, grown)
        segment.size += grown
        if tail and last is not None:
            self._leave_pool(last)
            last.size += grown
            return last
        block = Block(segment, segment.address + segment.size - grown, grown)
        if last is None:
            segment.first = block
        else:
            last.next, block.previous = block, last
        return block

    def _reserve(self, segment: Segment, grown: int) -> None:
        self.events["num_device_alloc"] += 1
        self.statistics.count(segment.small, (("reserved_bytes", grown),))

    def _take(self, block: Block, size: int, nbytes: int) -> Block:
        if self._splits(block, size):
            rest = Block(block.segment, block.address + size, block.size - size)
            rest.previous, rest.next = block, block.next
            if rest.next is not None:
                rest.next.previous = rest
            block.next, block.size = rest, size
            self._enter_pool(rest)
        block.allocated, block.requested = True, nbytes
        self.statistics.count(block.segment.small, (("allocation", 1), ("allocated_bytes", block.size)))
        if self._counts_active:
            self._count_active(block, 1)
        return block

    def _splits(self, block: Block, size: int) -> bool:
        left = block.size - size
        if block.segment.small or block.segment.expandable:
            return left >= MIN_BLOCK
        return size < self.settings.max_split_size and left > SMALL_SIZE

    # ------------------------------------------------------------ freeing

    def record_stream(self, block: Block, stream: int) -> None:
        """`stream` uses the block too: once freed it stays away until that stream's work is done."""
        if stream != block.segment.stream:
            block.streams.add(stream)

    def free(self, block: Block) -> None:
        assert block.allocated
        block.allocated = False
        self.statistics.count(block.segment.small, (("allocation", -1), ("allocated_bytes", -block.size)))
        if block.streams:
            block.waiting = True
            self._waiting.append(block)
        else:
            self._recycle(block)

    def synchronized(self) -> None:
        """The host waited for the chip: blocks that waited for other streams are free."""
        for block in self._waiting:
            block.waiting = False
            block.streams.clear()
            self._recycle(block)
        self._waiting.clear()

    def _recycle(self, block: Block) -> None:
        if self._counts_active:
            self._count_active(block, -1)
        block.requested = 0
        for neighbour in (block.previous, block.next):
            if neighbour is not None and not neighbour.allocated and not neighbour.waiting:
                self._leave_pool(neighbour)
                block = self._joined(block, neighbour)
        self._enter_pool(block)

    def _joined(self, one: Block, other: Block) -> Block:
        first, second = (one, other) if one.address < other.address else (other, one)
        first.size += second.size
        first.next = second.next
        if second.next is not None:
            second.next.previous = first
        return first

    def _count_active(self, block: Block, sign: int) -> None:
        amounts = (("active", sign), ("active_bytes", sign * block.size), ("requested_bytes", sign * block.requested))
        self.statistics.count(block.segment.small, amounts)

    # ------------------------------------------------------------ pools

    def _enter_pool(self, block: Block) -> None:
        insort(block.segment.pool, (block.size, block.address, block))
        if self._counts_inactive:
            self._count_inactive(block, 1)

    def _leave_pool(self, block: Block) -> None:
        pool = block.segment.pool
        at = bisect_left(pool, (block.size, block.address))
        if at < len(pool) and pool[at][2] is block:
            del pool[at]
            if self._counts_inactive:
                self._count_inactive(block, -1)

    def _count_inactive(self, block: Block, sign: int) -> None:
        """Free parts of split blocks cannot be given back: that is what fragmentation costs.

        Part or whole is settled when a block enters its pool; a whole one is not counted.
        """
        if block.is_split and not block.segment.expandable:
            amounts = (("inactive_split", sign), ("inactive_split_bytes", sign * block.size))
            self.statistics.count(block.segment.small, amounts)

    def release_cached(self) -> None:
        """`empty_cache`: give every wholly free segment back to the chip."""
        self.synchronized()
        for segment in list(self.segments.values()):
            if segment.expandable:
                self._shrink(segment)
            elif segment.first is not None and not segment.first.is_split and not segment.first.allocated:
                self._give_back(segment)

    def _give_back(self, segment: Segment) -> None:
        assert segment.first is not None
        self._leave_pool(segment.first)
        del self.segments[segment.address]
        self.statistics.count(segment.small, (("segment", -1), ("reserved_bytes", -segment.size)))
        self.events["num_device_free"] += 1

    def _shrink(self, segment: Segment) -> None:
        """Unmap the whole pages at the end of an expandable segment."""
        last = _last(segment)
        if last is None or last.allocated or last.waiting:
            return
        page = SMALL_SEGMENT if segment.small else LARGE_SEGMENT
        whole = last.size // page * page
        if not whole:
            return
        self._leave_pool(last)
        last.size -= whole
        segment.size -= whole
        self.statistics.count(segment.small, (("reserved_bytes", -whole),))
        self.events["num_device_free"] += 1
        if last.size:
            self._enter_pool(last)
            return
        if last.previous is not None:
            last.previous.next = None
        else:
            del self.segments[segment.address]
            self.statistics.count(segment.small, (("segment", -1),))

    def _collect_garbage(self, wanted: int) -> None:
        threshold = self.settings.garbage_collection_threshold
        if threshold and self.reserved_bytes + wanted > threshold * self.capacity_bytes:
            self.release_cached()

    # ------------------------------------------------------------ statistics

    def stats(self) -> dict[str, Any]:
        """As torch's C function: nested by statistic, pool and metric, and the event counts."""
        nothing = dict.fromkeys(("current", "peak", "allocated", "freed"), 0)
        split = self.settings.max_split_size
        return {
            **self.statistics.as_dict(), "oversize_allocations": nothing, "oversize_segments": dict(nothing),
            "max_split_size": -1 if split == NO_LIMIT else split,
        }  # fmt: skip

    def reset_peak(self) -> None:
        self.statistics.reset_peak()

    def reset_accumulated(self) -> None:
        self.statistics.reset_accumulated()

    def snapshot(self) -> list[dict[str, Any]]:
        """Segments and their blocks, as `torch.cuda.memory_snapshot` lists them."""
        return [_describe(segment) for segment in self.segments.values()]

    def message(self, nbytes: int) -> str:
        """torch's own words when there is no room for `nbytes`."""
        return out_of_memory_text(nbytes, self.capacity_bytes, self.allocated_bytes, self.reserved_bytes)


def _last(segment: Segment) -> Block | None:
    block = segment.first
    while block is not None and block.next is not None:
        block = block.next
    return block


def _describe(segment: Segment) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = []
    block = segment.first
    while block is not None:
        state = "active_allocated" if block.allocated else "active_pending_free" if block.waiting else "inactive"
        blocks.append(
            {
                "address": block.address,
                "size": block.size,
                "requested_size": block.requested,
                "state": state,
                "frames": [],
            }
        )
        block = block.next
    allocated = sum(one["size"] for one in blocks if one["state"] == "active_allocated")
    active = sum(one["size"] for one in blocks if one["state"] != "inactive")
    return {
        "device": 0, "address": segment.address, "total_size": segment.size, "allocated_size": allocated,
        "active_size": active, "requested_size": sum(one["requested_size"] for one in blocks), "stream": segment.stream,
        "segment_type": "small" if segment.small else "large", "segment_pool_id": (0, 0),
        "is_expandable": segment.expandable, "blocks": blocks, "frames": [],
    }  # fmt: skip
