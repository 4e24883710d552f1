"""A program with its compiled regions fused: each region once (`cost.kernels`), put back into the tape.

In: a program whose regions have USE and DEF words (which block each op read and wrote). Out: the program with words that launch
`anychip.fused` ops in their place, and the memory that the kernels leave: a block that none of them writes is not allocated,
and what its backward makes it of is freed no earlier than the block would have been.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from anychip.cost.kernels import Facts, Fused, fuse_region
from anychip.cost.regions import Forms, Instead, Lives, Regions, Words, spans
from anychip.record import Op, Program
from anychip.record.tape import ALLOC, FREE, KIND_BITS, KIND_MASK, OP

# What recordings that live were fused to: no chip changes it, and each is priced on many.
_fused: WeakKeyDictionary[Program, tuple[Words, list[Op], Words]] = WeakKeyDictionary()


def fuse(program: Program, fusions: "Fusions | None" = None) -> Program:
    """The program with every compiled region fused; the same one where there is none. fusions: of programs like this one.
    A recording is fused once."""
    begins, ends = spans(program)
    if not begins.size:
        return program
    if program not in _fused:
        _fused[program] = _fuse(program, begins, ends, fusions)
    tape, ops, block_bytes = _fused[program]
    return replace(program, tape=tape, ops=ops, block_bytes=block_bytes)


def _fuse(program: Program, begins: Words, ends: Words, fusions: "Fusions | None") -> tuple[Words, list[Op], Words]:
    """Tape, ops and bytes of the blocks, with the regions begins..ends (ends excluded) fused."""
    shared = fusions or Fusions()
    numbers = np.array([shared.number(op) for op in program.ops], np.int64)
    common = _renumbered(program.tape, numbers)
    regions = Regions(shared.forms.of(common, begins, ends), begins, ends, program.block_bytes)
    lives = Lives(program, regions)
    done: list[Done] = []
    for number in range(begins.size):
        done.append(shared.of(number, regions, lives))
        if done[-1].again:
            lives.remember(number, done[-1].again)
    sizes = np.array([one.words.size for one in done])
    made = regions.named(np.concatenate([one.words for one in done]), np.repeat(np.arange(sizes.size), sizes))
    outside = np.split(common, np.stack((begins, ends), 1).ravel())[
        ::2
    ]  # one more than regions; so is what comes after each
    pieces = zip(outside, np.split(made, np.cumsum(sizes)), strict=True)
    places = begins + np.concatenate(([0], np.cumsum(sizes - (ends - begins))))[:-1]
    words, block_bytes = _taken_out(
        np.concatenate([one for piece in pieces for one in piece]),
        program.block_bytes,
        *_unmade_in(done, regions, places),
    )
    # Its own ops keep their numbers; what they were fused to comes after them.
    used = np.unique(words[(words & KIND_MASK) == OP] >> KIND_BITS)
    back = np.full(len(shared.ops), -1)
    back[numbers[::-1]] = np.arange(len(numbers))[::-1]  # of equal ops the first
    new = used[back[used] < 0]
    back[new] = len(numbers) + np.arange(new.size)
    ops = [shared.ops[op] for op in (*numbers.tolist(), *new.tolist())]
    return _renumbered(words, back), ops, block_bytes


def _renumbered(words: Words, numbers: Words) -> Words:
    """The words with other numbers of their ops: numbers[op] instead of op."""
    at = np.flatnonzero((words & KIND_MASK) == OP)
    out = words.copy()
    out[at] = numbers[words[at] >> KIND_BITS] << KIND_BITS | OP
    return out


def _unmade_in(done: "list[Done]", regions: Regions, places: Words) -> tuple[Words, Words, Words, Words]:
    """Blocks that no kernel of their region writes, in the order of the tape: where on the fused tape they are allocated,
    which they are, what each is made of (-1: nothing that has to stay), and where that is there. places: where each region's
    words begin on that tape."""
    of = np.repeat(np.arange(len(done)), [one.unmade.shape[1] for one in done])
    block, place, source, source_place = np.concatenate([one.unmade for one in done], axis=1)
    names, first = regions.blocks, regions.first_block[of]
    sources = np.full(of.size, -1)
    sources[source >= 0] = names[(first + source)[source >= 0]]
    return places[of] + place, names[first + block], sources, places[of] + source_place


def _taken_out(words: Words, block_bytes: Words, made: Words, block: Words, source: Words,
               where: Words) -> tuple[Words, Words]:  # fmt: skip
    """(a tape without the ALLOC and FREE words of blocks that nothing writes, and the FREE of what one is made of no earlier
    than the block's own, bytes of each block). Latest first, so that of a chain each is held as long as the last that is made
    of it. A block number that is taken anew meanwhile is another block's then."""
    if not made.size:
        return words, block_bytes
    made, block, source, where = (one[::-1] for one in (made, block, source, where))
    order, kept, out = np.arange(words.size + 1, dtype=np.float64), np.ones(words.size + 1, bool), words.copy()
    order[-1] = np.inf
    allocs, frees = Places(words, ALLOC), Places(words, FREE)
    gone = frees.after(block, made)
    kept[made] = kept[gone] = False
    held = source >= 0
    source, where, gone = source[held], where[held], gone[held]
    let = frees.after(source, where)
    taken = allocs.after(source, let)
    new: list[int] = []
    for one, end, leave, again in zip(*(these.tolist() for these in (source, gone, let, taken)), strict=True):
        until = float(order[end])
        if order[leave] >= until:
            continue
        order[leave] = until
        if until > again:
            number = block_bytes.size + len(new)
            out[leave], out[allocs.before(one, leave)] = number << KIND_BITS | FREE, number << KIND_BITS | ALLOC
            new.append(int(block_bytes[one]))
    at = np.argsort(order[:-1], kind="stable")
    return out[at[kept[at]]], np.append(block_bytes, np.array(new, block_bytes.dtype))


class Places:
    """Where words of a kind stand, by block."""

    def __init__(self, words: Words, kind: int) -> None:
        at = np.flatnonzero((words & KIND_MASK) == kind)
        self.end = words.size
        self._keys = np.sort((words[at] >> KIND_BITS) * (self.end + 1) + at)  # a block's places stand together

    def after(self, blocks: Words, places: Words) -> Words:
        """Of each block the first after a place; the tape's end where there is none."""
        keys = np.append(self._keys, np.iinfo(np.int64).max)
        found = keys[np.searchsorted(keys, blocks * (self.end + 1) + places, side="right")]
        return np.where(found // (self.end + 1) == blocks, found % (self.end + 1), self.end)

    def before(self, block: int, place: int) -> int:
        """The last of a block before a place, which there is."""
        found = int(self._keys[np.searchsorted(self._keys, block * (self.end + 1) + place) - 1])
        return found % (self.end + 1)


class Done(NamedTuple):
    """A region fused, for all programs that have it. unmade: of each block that it does not write a column: its
    number, where among the words it is allocated, what it is made of (-1: nothing) and where that is (-1: before the region)."""

    words: Words
    again: Mapping[int, Instead]
    unmade: Words


class Fusions:
    """Regions that were fused, for all programs that have the same: the ranks of a job, each with an op table of its own.

    ops: of all these programs, each once, with what they were fused to.
    """

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self._numbers: dict[Op, int] = {}
        self._facts: list[Facts] = []
        self._known: dict[object, Done] = {}
        self.forms = Forms()

    def number(self, op: Op) -> int:
        if op not in self._numbers:
            self._numbers[op] = len(self.ops)
            self.ops.append(op)
            self._facts.append(Facts.of(op))
        return self._numbers[op]

    def of(self, number: int, regions: Regions, lives: Lives) -> Done:
        """A region, whose ops are numbered as here, fused."""
        form, sizes = regions.forms[number], regions.sizes_of(number)
        key = form.number, sizes.tobytes(), lives.key(number)
        if key not in self._known:
            fused = fuse_region(form.words.tolist(), self.ops, self._facts, sizes.tolist(), lives.beyond(number))
            own = np.arange(len(self.ops))
            new = [self.number(op) for op in fused.ops[own.size :]]
            words = _renumbered(np.asarray(fused.words, np.int64), np.concatenate((own, np.array(new, np.int64))))
            self._known[key] = Done(words, fused.again, _unmade_of(fused, words))
        return self._known[key]


def _unmade_of(fused: Fused, words: Words) -> Words:
    at = np.flatnonzero((words & KIND_MASK) == ALLOC)
    places = dict(zip((words[at] >> KIND_BITS).tolist(), at.tolist(), strict=True))
    sources = [fused.again[block].block if block in fused.again else -1 for block in fused.unmade]
    rows = [(block, places[block], one, places.get(one, -1)) for block, one in zip(fused.unmade, sources, strict=True)]
    return np.array(rows, np.int64).reshape(-1, 4).T
