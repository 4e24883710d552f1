"""A program with its compiled regions fused: each region once (`cost.kernels`), put back into the tape.

In: a program whose regions have USE and DEF words (which block each op read and wrote). Out: the program with words that launch
`anychip.fused` ops in their place, and the memory that the kernels leave: a block that none of them writes is not allocated,
and what its backward makes it of is freed no earlier than the block would have been.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from anychip.cost.kernels import Facts, Fused, fuse_region
from anychip.cost.regions import Forms, Instead, Lives, Places, Regions, Words, spans
from anychip.record import Op, Program
from anychip.record.order import Order, OutOfOrder, Reorder
from anychip.record.tape import ALLOC, FREE, KIND_BITS, KIND_MASK, OP


@dataclass
class Seams:
    """Where words went when a recording was fused. begins, ends: of its regions, on its tape (ends excluded); grown: by how many
    words each became longer; order: where those words stood then that were not taken out, in their order."""

    begins: Words
    ends: Words
    grown: Words
    order: Any

    def places(self, at: Words) -> Words | None:
        """Where on the fused tape words stand that are in no region, or what comes after them; None where one is in a region."""
        before = np.searchsorted(self.ends, at, side="right")
        if (np.append(self.begins, np.iinfo(np.int64).max)[before] < at).any():
            return None
        found: Words = np.searchsorted(self.order, at + np.append(0, np.cumsum(self.grown))[before])
        return found


@dataclass
class Whole:
    """What a recording was fused to. seams: None where that was put together from another's."""

    tape: Words
    ops: list[Op]
    block_bytes: Words
    seams: Seams | None = None

    @cached_property
    def reorder(self) -> Reorder:
        return Reorder(self.tape, self.block_bytes)


# Of recordings that live: no chip changes it, and each is priced on many.
_fused: WeakKeyDictionary[Program, Whole] = WeakKeyDictionary()


def fuse_ranks(job: Program) -> list[Program]:
    """The recordings of a job's distinct ranks, fused. What is another's in another order is what that one was fused to, in
    that order."""
    fusions = Fusions()
    by_rank = {one.rank: one for one in job.ranks}
    for one in job.ranks:
        source = by_rank.get(one.order.of) if one.order is not None else None
        if source is not None and one not in _fused:
            fuse(source, fusions)
            if (found := _put_together(one, source)) is not None:
                _fused[one] = found
    return [fuse(one, fusions) for one in job.ranks]


def fuse(program: Program, fusions: "Fusions | None" = None) -> Program:
    """The program with every compiled region fused; the same one where there is none. fusions: of programs like this one.
    A recording is fused once."""
    if program not in _fused:
        begins, ends = spans(program)
        if not begins.size:
            return program
        _fused[program] = _fuse(program, begins, ends, fusions)
    found = _fused[program]
    return replace(program, tape=found.tape, ops=found.ops, block_bytes=found.block_bytes, order=None)


def _put_together(program: Program, source: Program) -> Whole | None:
    """What the source was fused to in the order that makes it the program; None where that does not follow, as where the source
    has been recorded anew since."""
    order, whole = program.order, _fused.get(source)
    if order is None or whole is None or whole.seams is None or len(program.ops) != len(source.ops):
        return None
    rows = order.rows()
    words = order.words_of(source.tape)
    if not np.array_equal(words & KIND_MASK, program.kinds):
        return None
    edges = whole.seams.places(rows[:, :2])
    if edges is None:
        return None
    rows[:, :2] = edges
    try:
        tape, block_bytes = whole.reorder.arranged(Order.of_rows(order.of, rows).stretches)
    except (OutOfOrder, LookupError):
        return None
    return Whole(tape, [*program.ops, *whole.ops[len(source.ops) :]], block_bytes)


def _fuse(program: Program, begins: Words, ends: Words, fusions: "Fusions | None") -> Whole:
    """The program with the regions begins..ends (ends excluded) fused."""
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
    grown = sizes - (ends - begins)
    places = begins + np.concatenate(([0], np.cumsum(grown)))[:-1]
    words, order, block_bytes = _taken_out(
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
    return Whole(_renumbered(words, back), ops, block_bytes, Seams(begins, ends, grown, order))


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
               where: Words) -> tuple[Words, Any, Words]:  # fmt: skip
    """(a tape without the ALLOC and FREE words of blocks that nothing writes, and the FREE of what one is made of no earlier
    than the block's own, where each of its words stood or now stands among those given, bytes of each block). Latest first, so that of a chain each is held as long as the last that is made
    of it. A block number that is taken anew meanwhile is another block's then."""
    if not made.size:
        return words, np.arange(words.size), block_bytes
    made, block, source, where = (one[::-1] for one in (made, block, source, where))
    order, kept, out = np.arange(words.size + 1, dtype=np.float64), np.ones(words.size + 1, bool), words.copy()
    order[-1] = np.inf
    kinds, payloads = words & KIND_MASK, words >> KIND_BITS
    allocs, frees = Places(kinds, payloads, ALLOC), Places(kinds, payloads, FREE)
    gone = frees.since(block, made)
    kept[made] = kept[gone] = False
    held = source >= 0
    source, where, gone = source[held], where[held], gone[held]
    let = frees.since(source, where)
    taken = allocs.since(source, let)
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
    left = at[kept[at]]
    return out[left], order[left], np.append(block_bytes, np.array(new, block_bytes.dtype))


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
