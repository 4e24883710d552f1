"""The compiled regions of a tape, each with its blocks, events and modules numbered as they come: the same for a region that
comes again. And what becomes of their blocks outside of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anychip.record import Kind, Program, word
from anychip.record.tape import (
    ALLOC,
    COMPILED,
    DEF,
    FREE,
    KIND_BITS,
    KIND_MASK,
    OF_BLOCKS,
    OF_EVENTS,
    OF_MODULES,
    OP,
    flags,
    order_of,
)

Words = npt.NDArray[np.int64]


IS_BLOCK, IS_EVENT, IS_MODULE = flags(OF_BLOCKS), flags(OF_EVENTS), flags(OF_MODULES)
ANY_REGION = word(Kind.COMPILED, 1)  # one that begins within another: its number tells nothing


def spans(program: Program) -> tuple[Words, Words]:
    """Where the words of each compiled region begin and end (end excluded), on the tape."""
    at = np.flatnonzero(program.kinds == Kind.COMPILED)
    starts = program.payloads[at] > 0
    # One that begins while another is open belongs to it.
    opens = starts & ~np.concatenate(([False], starts))[:-1]
    begins = at[opens] + 1
    ends = np.append(at[~starts], program.tape.size)
    return begins, ends[np.searchsorted(ends, begins)]


class Form(NamedTuple):
    """A region with its blocks, events and modules numbered as they come, a block that is allocated anew as another one: its
    words are the same where it comes again. And what it calls them.

    number: equal where `words`, so numbered, are. blocks, events, modules: what each is called. given: those blocks that were
    there before it; left: those that it writes and that are there after it.
    """

    number: int
    words: Words
    blocks: Words
    events: Words
    modules: Words
    given: Words
    left: Words


class Forms:
    """Regions numbered, for all tapes that have them word for word, as the stages of a pipeline have, which differ in the
    order of theirs."""

    def __init__(self) -> None:
        self._known: dict[bytes, Form] = {}
        self._numbers: dict[bytes, tuple[int, Words]] = {}

    def of(self, tape: Words, begins: Words, ends: Words) -> list[Form]:
        """Of the stretches begins..ends (ends excluded) of a tape, none of which reaches into another."""
        edges = zip(begins.tolist(), ends.tolist(), strict=True)
        keys = [sha256(tape[begin:end].data).digest() for begin, end in edges]
        fresh = {key: place for place, key in enumerate(keys) if key not in self._known}
        if fresh:
            places = list(fresh.values())
            self._known |= zip(fresh, self._numbered(tape, begins[places], ends[places]), strict=True)
        return [self._known[key] for key in keys]

    def _numbered(self, tape: Words, begins: Words, ends: Words) -> Iterator[Form]:
        sizes = ends - begins
        of = np.repeat(np.arange(begins.size), sizes)
        words = tape[np.arange(of.size) + (ends - np.cumsum(sizes))[of]]
        kinds = words & KIND_MASK
        words[kinds == COMPILED] = ANY_REGION
        blocks, comes, goes, first = _number(words, kinds, IS_BLOCK, Kind.ALLOC, of)
        written = np.zeros(blocks.size, bool)
        at = np.flatnonzero(kinds == DEF)
        written[first[of[at]] + (words[at] >> KIND_BITS)] = True
        given, left = np.flatnonzero(kinds[comes] != ALLOC), np.flatnonzero(written & (kinds[goes] != FREE))
        events, comes_event, _, _ = _number(words, kinds, IS_EVENT, Kind.RECORD, of)
        modules, comes_module, _, _ = _number(words, kinds, IS_MODULE, None, of)
        of_block = of[comes]
        columns = ((words, of), (blocks, of_block), (events, of[comes_event]), (modules, of[comes_module]),
                   *((one - first[of_block[one]], of_block[one]) for one in (given, left)))  # fmt: skip
        for own, *others in zip(*(_split(*column, begins.size) for column in columns), strict=True):
            yield Form(*self._numbers.setdefault(own.tobytes(), (len(self._numbers), own)), *others)


def _number(
    words: Words, kinds: Words, named: npt.NDArray[np.bool_], making: Kind | None, of: Words
) -> tuple[Words, Words, Words, Words]:
    """Number what these words name as it comes, in each region anew: (what each is called, the words by which each comes and
    goes, the first of each region)."""
    at = np.flatnonzero(named[kinds])
    region, names = of[at], words[at] >> KIND_BITS
    order = order_of(names)
    sorted_names, sorted_regions = names[order], region[order]
    is_first = kinds[at[order]] == making if making is not None else np.zeros(at.size, bool)
    is_first[:1] = True
    is_first[1:] |= (sorted_names[1:] != sorted_names[:-1]) | (sorted_regions[1:] != sorted_regions[:-1])
    comes = np.zeros(at.size, bool)
    comes[order] = is_first
    firsts = np.searchsorted(region[comes], np.arange(of[-1] + 1 if of.size else 0))
    numbers = np.cumsum(comes) - 1  # over all regions
    leaders = np.flatnonzero(is_first)
    own = numbers[order[leaders]]
    local = np.empty_like(numbers)
    local[order] = np.repeat(own, np.diff(np.append(leaders, at.size)))
    words[at] = (local - firsts[region]) << KIND_BITS | kinds[at]
    goes = np.empty(own.size, np.int64)
    goes[own] = at[order[np.append(leaders[1:], at.size) - 1]] if own.size else 0
    return names[comes], at[comes], goes, firsts


def _split(values: Words, of: Words, count: int) -> list[Words]:
    """Of each of so many regions its own."""
    edges = np.searchsorted(of, np.arange(count + 1)).tolist()
    return [values[begin:end].copy() for begin, end in pairwise(edges)]


class Regions:
    """The regions of a program, by their forms. blocks: what the blocks of all of them are called, those of the n-th from
    first_block[n] on, and sizes, their bytes; so, too, given and left, blocks by what they are called."""

    def __init__(self, forms: Sequence[Form], begins: Words, ends: Words, block_bytes: Any) -> None:
        self.forms, self.begins, self.ends = forms, begins, ends
        self.blocks, self.first_block = _joined([form.blocks for form in forms])
        self.events, self.first_event = _joined([form.events for form in forms])
        self.modules, self.first_module = _joined([form.modules for form in forms])
        given, self.first_given = _joined([form.given for form in forms])
        left, self.first_left = _joined([form.left for form in forms])
        self.given = self.blocks[given + np.repeat(self.first_block[:-1], np.diff(self.first_given))]
        self.left = self.blocks[left + np.repeat(self.first_block[:-1], np.diff(self.first_left))]
        self.sizes = bytes_of(self.blocks, block_bytes)

    def sizes_of(self, number: int) -> Words:
        """Bytes of a region's blocks."""
        return self.sizes[self.first_block[number] : self.first_block[number + 1]]

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


def _joined(parts: Sequence[Words]) -> tuple[Words, Words]:
    """(all in a row, where each begins, and the end)."""
    return np.concatenate(parts), np.concatenate(([0], np.cumsum([part.size for part in parts])))


def bytes_of(blocks: Words, block_bytes: Any) -> Words:
    """Bytes of blocks. block_bytes: of all; a list that grows is not copied for each region."""
    if isinstance(block_bytes, np.ndarray):
        found: Words = block_bytes[blocks]
        return found
    return np.array([block_bytes[block] for block in blocks.tolist()], np.int64)


def one_region(words: Words) -> Form:
    """Words that are a region by themselves."""
    (form,) = Forms().of(words, np.zeros(1, np.int64), np.array([words.size]))
    return form


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


class Places:
    """Where words of a kind stand on a tape, by block."""

    def __init__(self, kinds: Words, payloads: Words, kind: int) -> None:
        self.end = kinds.size
        at = np.flatnonzero(kinds == kind)
        blocks = payloads[at]
        order = order_of(blocks)  # a block's places stand together
        # One of no block is the last.
        self._keys = np.append(blocks[order] * (self.end + 1) + at[order], np.iinfo(np.int64).max)

    def since(self, blocks: Any, places: Any) -> Any:
        """Of each block the first from a place on; the tape's end where there is none."""
        found = self._keys[self._keys.searchsorted(blocks * (self.end + 1) + places)]
        return np.where(found // (self.end + 1) == blocks, found % (self.end + 1), self.end)

    def before(self, block: int, place: int) -> int:
        """The last of a block before a place, which there is."""
        found = int(self._keys[self._keys.searchsorted(block * (self.end + 1) + place) - 1])
        return found % (self.end + 1)

    def within(self, block: int, begin: int, end: int) -> bool:
        """Is there one of a block at begin..end (end included)?"""
        first = block * (self.end + 1)
        return bool(self._keys[self._keys.searchsorted(first + begin)] <= first + end)


class Lives:
    """When blocks are freed and when regions read them, over a whole program, as its regions see it."""

    def __init__(self, program: Program, regions: Regions) -> None:
        self.regions = regions
        kinds, payloads = program.kinds, program.payloads
        self.frees, reads = (Places(kinds, payloads, kind) for kind in (Kind.FREE, Kind.USE))
        self.again: dict[int, tuple[Instead, int]] = {}  # block -> (what, since where)
        # Of each block that a region leaves: is it freed before another op runs, and read by another region before it is freed?
        of = np.repeat(np.arange(regions.ends.size), np.diff(regions.first_left))
        after = regions.ends[of]
        freed = self.frees.since(regions.left, after)
        self.ended = freed < self._next_op(kinds, regions.ends)[of]
        self.back = reads.since(regions.left, after) < freed
        self._fates, self._given = self.ended + 2 * self.back, regions.given.tolist()

    def _next_op(self, kinds: Words, ends: Words) -> Words:
        """Until where what is freed is freed before another op runs: the next op's frees stand before or right after its
        word."""
        ops, others = np.flatnonzero(kinds == OP), np.flatnonzero(kinds != FREE)
        last = np.append(ops, kinds.size)[np.searchsorted(ops, ends)]
        return np.append(others, kinds.size)[np.searchsorted(others, last, side="right")]

    def key(self, number: int) -> object:
        """Equal where `beyond` is, for regions of one form."""
        first, stop = self.regions.first_left[number : number + 2]
        return self._fates[first:stop].tobytes(), tuple(self._read_again(number).items())

    def beyond(self, number: int) -> Beyond:
        """Of this region, after those before it."""
        first, stop = self.regions.first_left[number : number + 2]
        left = self.regions.forms[number].left
        ended, back = (frozenset(left[one[first:stop]].tolist()) for one in (self.ended, self.back))
        return Beyond(ended, back, self._read_again(number))

    def _read_again(self, number: int) -> dict[int, Instead]:
        first, stop = self.regions.first_given[number : number + 2]
        names = self._given[first:stop]
        if self.again.keys().isdisjoint(names):
            return {}
        start = int(self.regions.begins[number]) - 1
        places: dict[int, int] = dict(zip(names, self.regions.forms[number].given.tolist(), strict=True))
        found = {}
        for block, place in places.items():
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

    def _holds(self, block: int, since: int, until: int) -> bool:
        """Whether the block holds the same all the while."""
        return not self.frees.within(block, since, until)

    def remember(self, number: int, again: Mapping[int, Instead]) -> None:
        names, stop = self.regions.forms[number].blocks, int(self.regions.ends[number])
        for place, what in again.items():
            self.again[int(names[place])] = Instead(int(names[what.block]), what.size), stop
