"""The compiled regions of a tape, each with its blocks, events and modules numbered as they come: the same for a region that
comes again. And what becomes of their blocks outside of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anychip.record import Kind, Program
from anychip.record.tape import ALLOC, DEF, FREE, KIND_BITS, KIND_MASK, OF_BLOCKS, OF_EVENTS, OF_MODULES, OP, flags

Words = npt.NDArray[np.int64]


IS_BLOCK, IS_EVENT, IS_MODULE = flags(OF_BLOCKS), flags(OF_EVENTS), flags(OF_MODULES)


def spans(program: Program) -> tuple[Words, Words]:
    """Where the words of each compiled region begin and end (end excluded), on the tape."""
    at = np.flatnonzero(program.kinds == Kind.COMPILED)
    starts = program.payloads[at] > 0
    # One that begins while another is open belongs to it.
    opens = starts & ~np.concatenate(([False], starts))[:-1]
    begins = at[opens] + 1
    ends = np.append(at[~starts], program.tape.size)
    return begins, ends[np.searchsorted(ends, begins)]


class Region(NamedTuple):
    """A region's words with its blocks, events and modules numbered as they come, a block that is allocated anew as another
    one: the same where a region comes again.

    words: so numbered. sizes: bytes of each block.
    """

    words: Words
    sizes: Words

    @property
    def key(self) -> bytes:
        """Equal for regions that fuse alike, among the same ops."""
        return self.words.tobytes() + self.sizes.tobytes()


class Regions:
    """Stretches begins..ends (ends excluded) of a tape, none of which reaches into another. blocks: what the blocks of all
    of them are called, those of the n-th from first_block[n] on; given: those that were there before it, left: that
    it writes and that are there after it."""

    def __init__(self, tape: Words, begins: Words, ends: Words, block_bytes: Any) -> None:
        self.begins = begins
        sizes = ends - begins
        self.first = np.concatenate(([0], np.cumsum(sizes)))
        of = np.repeat(np.arange(begins.size), sizes)
        self.words = tape[np.arange(of.size) + (begins - self.first[:-1])[of]]
        kinds = self.words & KIND_MASK
        self.blocks, self.first_block, begin, end = self._number(kinds, IS_BLOCK, Kind.ALLOC, of)
        self.given, self.left = kinds[begin] != ALLOC, np.zeros(self.blocks.size, bool)
        written = np.flatnonzero(kinds == DEF)
        self.left[self.first_block[of[written]] + (self.words[written] >> KIND_BITS)] = True
        self.left &= kinds[end] != FREE
        self.events, self.first_event, _, _ = self._number(kinds, IS_EVENT, Kind.RECORD, of)
        self.modules, self.first_module, _, _ = self._number(kinds, IS_MODULE, None, of)
        if isinstance(block_bytes, np.ndarray):
            self.sizes = block_bytes[self.blocks]
        else:  # a list that grows: not to be copied for each region
            self.sizes = np.array([block_bytes[block] for block in self.blocks.tolist()], np.int64)

    def _number(
        self, kinds: Words, named: npt.NDArray[np.bool_], making: Kind | None, of: Words
    ) -> tuple[Words, Words, Words, Words]:
        """Number what these words name as it comes, in each region anew: (what each is called, each region's first, and the
        words by which each comes and goes)."""
        at = np.flatnonzero(named[kinds])
        region, names = of[at], self.words[at] >> KIND_BITS
        order = np.argsort(names.astype(np.uint16) if names.max(initial=0) < 1 << 16 else names, kind="stable")
        sorted_names, sorted_regions = names[order], region[order]
        is_first = kinds[at[order]] == making if making is not None else np.zeros(at.size, bool)
        is_first[:1] = True
        is_first[1:] |= (sorted_names[1:] != sorted_names[:-1]) | (sorted_regions[1:] != sorted_regions[:-1])
        comes = np.zeros(at.size, bool)
        comes[order] = is_first
        firsts = np.concatenate(([0], np.cumsum(np.bincount(region[comes], minlength=self.begins.size))))
        numbers = np.cumsum(comes) - 1  # over all regions
        leaders = np.flatnonzero(is_first)
        own = numbers[order[leaders]]
        local = np.empty_like(numbers)
        local[order] = np.repeat(own, np.diff(np.append(leaders, at.size)))
        self.words[at] = (local - firsts[region]) << KIND_BITS | kinds[at]
        goes = np.empty(own.size, np.int64)
        goes[own] = at[order[np.append(leaders[1:], at.size) - 1]] if own.size else 0
        return names[comes], firsts, at[comes], goes

    def __getitem__(self, number: int) -> Region:
        words, blocks = (slice(*firsts[number : number + 2].tolist()) for firsts in (self.first, self.first_block))
        return Region(self.words[words], self.sizes[blocks])

    def named(self, words: Words, of: Words) -> Words:
        """Words that were made of those of regions, with the regions' own blocks, events and modules. of: of which region each
        word is."""
        kinds, out = words & KIND_MASK, words.copy()
        for named, names, firsts in (
            (IS_BLOCK, self.blocks, self.first_block),
            (IS_EVENT, self.events, self.first_event),
            (IS_MODULE, self.modules, self.first_module),
        ):
            at = np.flatnonzero(named[kinds])
            out[at] = names[firsts[of[at]] + (words[at] >> KIND_BITS)] << KIND_BITS | kinds[at]
        return out


def one_region(words: Words, block_bytes: Any) -> Regions:
    """Words that are a region by themselves."""
    return Regions(words, np.zeros(1, np.int64), np.array([words.size]), block_bytes)


class Instead(NamedTuple):
    """A block, and how much of it."""

    block: int
    size: int


@dataclass(frozen=True)
class Beyond:
    """What is known of a region's blocks after it and before it. ended: freed before another op runs. back: read by
    another region before they are freed. again: block that is not in memory -> what its reader reads instead."""

    ended: frozenset[int] = frozenset()
    back: frozenset[int] = frozenset()
    again: Mapping[int, Instead] = field(default_factory=dict)


class Lives:
    """When blocks are freed and when regions read them, over a whole program, as its regions see it."""

    def __init__(self, program: Program, regions: "Regions", ends: Words) -> None:
        self.regions, self.ends = regions, ends
        kinds, payloads = program.kinds, program.payloads
        self.end = kinds.size
        self.frees, self.reads = (self._places(kinds, payloads, kind) for kind in (Kind.FREE, Kind.USE))
        self.again: dict[int, tuple[Instead, int]] = {}  # block -> (what, since where)
        self.is_again = np.zeros(regions.blocks.max(initial=0) + 1, bool)
        # Of each block of each region: is it freed before another op runs, and read by another region before it is freed?
        blocks, of = regions.blocks, np.repeat(np.arange(ends.size), np.diff(regions.first_block))
        after = ends[of]
        freed = self._next(self.frees, blocks, after)
        self.ended = regions.left & (freed < self._next_op(kinds, ends)[of])
        self.back = regions.left & (self._next(self.reads, blocks, after) < freed)

    def _places(self, kinds: Words, payloads: Words, kind: Kind) -> Words:
        """block * end + where a word of the kind stands, in order, and a last one of no block."""
        at = np.flatnonzero(kinds == kind)
        return np.append(np.sort(payloads[at] * self.end + at), np.iinfo(np.int64).max)

    def _next_op(self, kinds: Words, ends: Words) -> Words:
        """Until where what is freed is freed before another op runs: the next op's frees stand before or right after its
        word."""
        ops, others = np.flatnonzero(kinds == OP), np.flatnonzero(kinds != FREE)
        last = np.append(ops, self.end)[np.searchsorted(ops, ends)]
        return np.append(others, self.end)[np.searchsorted(others, last, side="right")]

    def key(self, number: int) -> object:
        """Equal where `beyond` is."""
        ended, back = self._of(self.ended, number), self._of(self.back, number)
        return ended.tobytes(), back.tobytes(), tuple(self._read_again(number).items())

    def beyond(self, number: int) -> Beyond:
        """Of this region, after those before it."""
        ended, back = (frozenset(np.flatnonzero(self._of(one, number)).tolist()) for one in (self.ended, self.back))
        return Beyond(ended, back, self._read_again(number))

    def _of(self, by_block: npt.NDArray[Any], number: int) -> npt.NDArray[Any]:
        return by_block[self.regions.first_block[number] : self.regions.first_block[number + 1]]

    def _read_again(self, number: int) -> dict[int, Instead]:
        names = self._of(self.regions.blocks, number)
        at = np.flatnonzero(self._of(self.regions.given, number) & self.is_again[names])
        if not at.size:
            return {}
        start = int(self.regions.begins[number]) - 1
        given = np.flatnonzero(self._of(self.regions.given, number))
        places = dict(zip(names[given].tolist(), given.tolist(), strict=True))
        found = {}
        for place, block in zip(at.tolist(), names[at].tolist(), strict=True):
            what = self._instead_of(block, start)
            if what is not None:
                found[place] = Instead(places.get(what.block, place), what.size)
        return found

    def _instead_of(self, block: int, start: int) -> Instead | None:
        """What is read there instead of a block, down to what is in memory (-1: it is there no more); None for one that is."""
        what: Instead | None = None
        followed: set[int] = set()
        while block in self.again and block not in followed:
            followed.add(block)
            made_of, since = self.again[block]
            if not self._holds(block, since, start):
                break
            what = made_of
            block = what.block
            if not self._holds(block, since, start):
                return Instead(-1, what.size)
        return what

    def _next(self, places: Words, blocks: Words, after: Words) -> Words:
        """Where each block's next word stands; the program's end where there is none."""
        found = places[np.searchsorted(places, blocks * self.end + after)]
        return np.where(found // self.end == blocks, found % self.end, self.end)

    def _holds(self, block: int, since: int, until: int) -> bool:
        """Whether the block holds the same all the while."""
        found = int(self.frees[self.frees.searchsorted(block * self.end + since)])
        return found // self.end != block or found % self.end > until

    def remember(self, number: int, again: Mapping[int, Instead]) -> None:
        first, stop = self.regions.first_block[number], int(self.ends[number])
        names = self.regions.blocks
        for place, what in again.items():
            self.is_again[names[first + place]] = True
            self.again[int(names[first + place])] = Instead(int(names[first + what.block]), what.size), stop
