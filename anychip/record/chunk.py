"""Stretches of a tape that come again: told apart from what is their own, compared, and written once more.

A chunk names the blocks and events that it makes by symbols, numbered as they come, so that two chunks are equal where a
program did the same twice. A second chunk may continue a first (the backward of a forward): it frees what that one left.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from anychip.record.tape import KIND_BITS, KIND_MASK, OF_BLOCKS, OF_EVENTS, Kind

LITERAL = -1
NO_BLOCK = -1
ABOVE = 1 << 30  # keeps what stands for a symbol positive
PASSING = (Kind.AT, Kind.NODE, Kind.HOST, Kind.FREE)  # equal chunks may differ in these
# Where the host looks at the chip it may do something else the next time.
UNFIT = (Kind.READ, Kind.SYNC, Kind.GRAPH, Kind.ALLOC_CALL, Kind.OPTIMIZER)


@dataclass
class Chunk:
    """words: as recorded. symbols: of each word's payload, LITERAL, n for the n-th thing made here, -2 - n for that made
    in the chunk which this one continues. made: what each symbol was called. live: blocks that were left, by number;
    events likewise. shape: equal for chunks that do the same. begin, end: place on the tape."""

    words: list[int]
    symbols: list[int]
    made: list[int]
    live: dict[int, int]
    events: dict[int, int]
    shape: npt.NDArray[np.int64]
    begin: int
    end: int
    early: set[int] = field(default_factory=set)  # symbols that others free before the chunk which continues this
    freed: dict[int, int] = field(
        default_factory=dict
    )  # blocks of others that end here, by their place among the words

    @property
    def fit(self) -> bool:
        """May it be written again without asking the program?"""
        return not np.isin(self.shape & KIND_MASK, UNFIT).any()

    def like(self, other: "Chunk | None") -> bool:
        return other is not None and np.array_equal(self.shape, other.shape)


def read(tape: list[int], begin: int, end: int, first: Chunk | None, block_bytes: list[int]) -> Chunk:
    """The words begin..end (end excluded) of a tape; first: the chunk that they continue."""
    before = dict(first.live) if first is not None else {}
    events_before = first.events if first is not None else {}
    if first is not None:
        for one in tape[first.end : begin]:
            if one & KIND_MASK == Kind.FREE and (gone := before.pop(one >> KIND_BITS, None)) is not None:
                first.early.add(gone)
    words = tape[begin:end]
    symbols: list[int] = []
    shape: list[int] = []
    made: list[int] = []
    live: dict[int, int] = {}
    events: dict[int, int] = {}
    freed: dict[int, int] = {}
    for place, one in enumerate(words):
        kind, payload = one & KIND_MASK, one >> KIND_BITS
        symbol, known = LITERAL, payload
        if kind == Kind.ALLOC or kind == Kind.RECORD:
            symbol = len(made)
            made.append(payload)
            (live if kind == Kind.ALLOC else events)[payload] = symbol
            known = block_bytes[payload] if kind == Kind.ALLOC else symbol
        elif kind in OF_BLOCKS or kind in OF_EVENTS:
            here, there = (live, before) if kind in OF_BLOCKS else (events, events_before)
            symbol = here[payload] if payload in here else -2 - there[payload] if payload in there else LITERAL
            known = symbol + ABOVE
            if kind == Kind.FREE and symbol == LITERAL:
                freed[place] = payload
            elif kind == Kind.FREE:
                del (here if symbol >= 0 else there)[payload]
        elif kind == Kind.COMPILED:
            known = min(payload, 1)
        symbols.append(symbol)
        if kind not in PASSING:
            shape.append(known << KIND_BITS | kind)
    return Chunk(words, symbols, made, live, events, np.array(shape, np.int64), begin, end, freed=freed)


class Writer:
    """Writes chunks again, with blocks and events of their own.

    allocate(nbytes) -> block, release(block), event() -> event; each of allocate and release writes its own word.
    """

    def __init__(
        self, tape: list[int], block_bytes: list[int], allocate: Callable[[int], int], release: Callable[[int], None],
        event: Callable[[], int],
    ) -> None:  # fmt: skip
        self.tape, self.block_bytes = tape, block_bytes
        self.allocate, self.release, self.event = allocate, release, event

    def write(
        self, chunk: Chunk, first: list[int], real: Mapping[int, Callable[[], None]],
        frees: Mapping[int, Callable[[], None]],
    ) -> list[int]:  # fmt: skip
        """What each symbol is called this time. first: the same of the chunk that this one continues. real: of symbols that
        are tensors of the program's: how to make it (which writes its word); what they are called is NO_BLOCK. frees: of
        blocks of others whose end is in the chunk: how to free what stands for it this time."""
        append, sizes, made = self.tape.append, self.block_bytes, chunk.made
        names: list[int] = [NO_BLOCK] * len(made)
        for place, (one, symbol) in enumerate(zip(chunk.words, chunk.symbols, strict=True)):
            kind = one & KIND_MASK
            if symbol == LITERAL:
                if kind != Kind.FREE:
                    append(one)
                elif (free := frees.get(chunk.freed[place])) is not None:
                    free()  # else a block of somebody else, who frees it himself
            elif kind == Kind.ALLOC:
                make = real.get(symbol)
                if make is not None:
                    make()
                else:
                    names[symbol] = self.allocate(sizes[made[symbol]])
            elif kind == Kind.RECORD:
                names[symbol] = self.event()
                append(names[symbol] << KIND_BITS | kind)
            else:
                name = names[symbol] if symbol >= 0 else first[-2 - symbol]
                if name == NO_BLOCK:
                    continue
                if kind == Kind.FREE:
                    self.release(name)
                    if symbol < LITERAL:
                        first[-2 - symbol] = NO_BLOCK
                    else:
                        names[symbol] = NO_BLOCK
                else:
                    append(name << KIND_BITS | kind)
        return names

    def free(self, names: list[int], symbols: list[int]) -> None:
        """Release what is left of these symbols."""
        for symbol in symbols:
            if names[symbol] != NO_BLOCK:
                self.release(names[symbol])
                names[symbol] = NO_BLOCK
