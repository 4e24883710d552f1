"""A recording's words in another order: the stretches of a tape that do one thing each, put together as another rank does them.

A stretch that comes once keeps its words; one that may come several times (an exchange: it makes no memory) gets events of
its own each time. Blocks are named anew, as in another order they may be needed at the same time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anychip.record.tape import ALLOC, FREE, KIND_BITS, KIND_MASK, OF_BLOCKS, OF_EVENTS, RECORD, flags, order_of

Ints = npt.NDArray[np.int64]

_IS_OF_BLOCKS, _IS_OF_EVENTS = flags(OF_BLOCKS), flags(OF_EVENTS)


class OutOfOrder(Exception):
    """In this order a block is freed before it is there, or an event waited for before it is recorded."""


@dataclass(frozen=True)
class Stretch:
    """Words begin..end (end excluded) of a tape. again: it makes no memory and may come several times; of: the launch whose
    events it waits for, by its number in the order, where it is the wait for an exchange."""

    begin: int
    end: int
    again: bool = False
    of: int | None = None


@dataclass(frozen=True)
class Order:
    """What another rank's recording is: the stretches of rank `of`'s, in order, with blocks and events of its own."""

    of: int
    stretches: tuple[Stretch, ...]

    def rows(self) -> Ints:
        """As a table: begin, end, again and of (-1: of none) of each stretch."""
        each = ((one.begin, one.end, one.again, -1 if one.of is None else one.of) for one in self.stretches)
        return np.array(list(each), np.int64).reshape(-1, 4)

    @classmethod
    def of_rows(cls, of: int, rows: Ints) -> "Order":
        each = (Stretch(begin, end, bool(again), None if to < 0 else to) for begin, end, again, to in rows.tolist())
        return cls(of, tuple(each))

    def words_of(self, tape: Ints) -> Ints:
        """Those of the other's tape, as they are there."""
        return np.concatenate([tape[one.begin : one.end] for one in self.stretches] or [tape[:0]])


class Reorder:
    """Of one tape (words) whose blocks have these sizes in bytes."""

    def __init__(self, tape: Ints, block_bytes: Ints) -> None:
        self.tape, self.block_bytes = tape, block_bytes
        kinds, payloads = tape & KIND_MASK, tape >> KIND_BITS
        self.of_blocks, self.of_events = _IS_OF_BLOCKS[kinds], _IS_OF_EVENTS[kinds]
        # Each allocation, and each recording of an event, by a number of its own.
        self.names = np.full(tape.size, -1, np.int64)
        for these, making in ((self.of_blocks, ALLOC), (self.of_events, RECORD)):
            at = np.flatnonzero(these)
            self.names[at] = _latest(payloads[at], kinds[at] == making)
        self.called = payloads[kinds == ALLOC]  # of each allocation its block
        self.events = int(np.count_nonzero(kinds == RECORD))

    def keeps_memory(self, begin: int, end: int) -> bool:
        """Whether no word of begin..end is about a block."""
        return not self.of_blocks[begin:end].any()

    def arranged(self, stretches: Sequence[Stretch]) -> tuple[Ints, Ints]:
        """The words of these stretches, in order, and the sizes of the blocks that they name, in bytes.

        Raises OutOfOrder.
        """
        parts, names = [], []
        launched: dict[int, tuple[Ints, int]] = {}  # of each: the events that it records, what the first is called
        events = self.events
        for number, stretch in enumerate(stretches):
            part = self.names[stretch.begin : stretch.end]
            if stretch.again:
                if stretch.of is None:
                    made = part[self.tape[stretch.begin : stretch.end] & KIND_MASK == RECORD]
                    launched[number] = made, events
                    events += made.size
                made, called = launched[number if stretch.of is None else stretch.of]
                part = np.where(np.isin(part, made), called + np.searchsorted(made, part), part)
            parts.append(self.tape[stretch.begin : stretch.end])
            names.append(part)
        words, called_all = np.concatenate(parts), np.concatenate(names)
        kinds = words & KIND_MASK
        of_events, of_blocks = _IS_OF_EVENTS[kinds], _IS_OF_BLOCKS[kinds]
        if (called_all[of_blocks] < 0).any():
            raise OutOfOrder("a block is named that nobody made")
        _check(called_all[of_events], kinds[of_events] == RECORD, "an event is waited for before it is recorded")
        _check(called_all[of_blocks], kinds[of_blocks] == ALLOC, "a block is freed before it is there")
        blocks, block_bytes = self._blocks(kinds[of_blocks], called_all[of_blocks])
        payloads = words >> KIND_BITS
        # An event that nobody recorded has happened; it keeps a name of its own.
        payloads[of_events] = np.where(called_all[of_events] >= 0, called_all[of_events], events + payloads[of_events])
        payloads[of_blocks] = blocks
        return payloads << KIND_BITS | kinds, block_bytes

    def _blocks(self, kinds: Ints, names: Ints) -> tuple[Ints, Ints]:
        """What each block is called: as it was, unless another one of that name is there or still spoken of (what a folded
        call wrote may name the block of the call that it repeats)."""
        moves = np.flatnonzero((kinds == ALLOC) | (kinds == FREE))
        last = np.zeros(self.called.size, np.int64)
        last[names] = np.arange(names.size)
        contested = self._contested(kinds, names, last)
        moves = moves[contested[self.called[names[moves]]]]
        over = last[names[moves]] == moves
        called = self.called.copy()
        sizes = self.block_bytes.tolist()
        taken = [False] * len(sizes)
        spare: dict[int, list[int]] = {}  # further blocks of a size
        for kind, name, ends in zip(kinds[moves].tolist(), names[moves].tolist(), over.tolist(), strict=True):
            block = int(called[name])
            if kind == FREE:
                taken[block] = not ends
                if ends and block >= self.block_bytes.size:
                    spare.setdefault(sizes[block], []).append(block)
                continue
            if taken[block]:
                size = sizes[block]
                if not (others := spare.get(size)):
                    others = spare[size] = [len(sizes)]
                    sizes.append(size)
                    taken.append(False)
                block = called[name] = others.pop()
            taken[block] = True
        return called[names], np.array(sizes, np.int64)

    def _contested(self, kinds: Ints, names: Ints, last: Ints) -> npt.NDArray[np.bool_]:
        """Of each block whether one of that name is there, or still spoken of, when another is made. last: where each allocation is
        spoken of last; one that is not freed there stays."""
        at = np.flatnonzero(kinds == ALLOC)
        ends = last[names[at]]
        ends[kinds[ends] != FREE] = names.size
        block = self.called[names[at]]
        order = order_of(block)  # within one in the order of the tape
        block, begins, ends = block[order], at[order], ends[order]
        contested = np.zeros(self.block_bytes.size, bool)
        contested[block[1:][(block[1:] == block[:-1]) & (ends[:-1] > begins[1:])]] = True
        return contested


def _latest(payloads: Ints, making: npt.NDArray[np.bool_]) -> Ints:
    """Of each word the number of the latest that made what it names; -1 where nobody did."""
    order = order_of(payloads)
    number = np.where(making, np.cumsum(making) - 1, -1)[order]
    # Within one payload numbers of makers grow, so the latest is the largest so far; payloads are told apart by an offset.
    step = making.size + 1
    group = np.cumsum(np.diff(payloads[order], prepend=payloads[order][:1]) != 0) * step
    latest = np.maximum.accumulate(number + group)
    result = np.empty_like(number)
    result[order] = np.where(latest >= group, latest - group, -1)
    return result


def _check(names: Ints, making: npt.NDArray[np.bool_], text: str) -> None:
    """Raise OutOfOrder where something is named before the word that makes it."""
    known = names >= 0
    position = np.arange(names.size)
    size = int(names.max(initial=-1)) + 1
    first = np.full(size, names.size)
    first[names[making]] = position[making]
    if (first[names[known]] > position[known]).any():
        raise OutOfOrder(text)
