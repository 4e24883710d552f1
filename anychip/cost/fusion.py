"""What a compiler makes of a compiled region: chains of point-wise ops and reductions become one kernel each.

In: words of a region with USE and DEF words (which block each op read and wrote). Out: words that launch
`anychip.fused` ops beside the untouched matrix products, convolutions and attention. A fused op's bytes are what it
reads from outside and what is wanted outside: read by other kernels, or alive at the region's end. Ops join when they
work on as many elements and share a block, and when moving them together breaks no dependency: as Inductor does.

What lives on only because a later region (its own backward) reads it is not written: the backward makes it again from what
the kernel read, or wrote for others, as Inductor's partitioner and hand-written kernels (Megatron-LM's, Transformer
Engine's) do. Autograd frees what ends with the region just before the next op, so those frees count as the region's.

Memory is what the kernels leave: a block that none of them writes is not allocated, and what its backward makes it of is
freed no earlier than the block would have been.

Left out: epilogues of matrix products.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anychip.cost.work import mutated, work
from anychip.record import Kind, Op, Program, TensorMeta, word
from anychip.record.tape import ALLOC, DEF, FREE, KIND_BITS, KIND_MASK, OP, USE

FUSIBLE = frozenset({"elementwise", "reduction", "copy", "index"})
OF_BLOCKS = (Kind.ALLOC, Kind.FREE, Kind.USE, Kind.DEF, Kind.RECORD_STREAM)
OF_EVENTS = (Kind.RECORD, Kind.WAIT, Kind.SYNC_EVENT)
OF_MODULES = (Kind.ENTER, Kind.EXIT, Kind.NODE)
Words = npt.NDArray[np.int64]


def _table(kinds: tuple[Kind, ...]) -> npt.NDArray[np.bool_]:
    """Whether a kind is one of these, by its number."""
    found = np.zeros(KIND_MASK + 1, bool)
    found[list(kinds)] = True
    return found


IS_BLOCK, IS_EVENT, IS_MODULE = _table(OF_BLOCKS), _table(OF_EVENTS), _table(OF_MODULES)
LOOK_BACK = 64  # groups that a node may still join: keeps a long region from taking quadratic time


class Facts(NamedTuple):
    """Of an op, whatever region it is in. reads, writes: bytes of the tensors on the chip that it touches."""

    elements: int
    fusible: bool
    flop: int
    dtype: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]

    @classmethod
    def of(cls, op: Op) -> "Facts":
        task = work(op)
        elements = max((t.numel for t in op.tensors + op.outputs if t.on_chip), default=0)
        fusible = task.kind in FUSIBLE and not task.host_bytes  # (what crosses the link to the host stays a kernel)
        return cls(elements, fusible, task.flop, task.dtype, _nbytes(op.tensors), _nbytes(op.outputs + mutated(op)))


def _nbytes(tensors: tuple[TensorMeta, ...]) -> tuple[int, ...]:
    return tuple(size for tensor in tensors if tensor.on_chip and (size := tensor.nbytes))


@dataclass(eq=False)
class Node:
    """A kernel to be: one op, or several fused. reads, writes: block -> bytes. at: where it is launched."""

    ops: list[int]
    at: int
    elements: int
    fusible: bool
    flop: int
    dtype: str
    reads: dict[int, int] = field(default_factory=dict)
    writes: dict[int, int] = field(default_factory=dict)


def fuse(program: Program, fusions: "Fusions | None" = None) -> Program:
    """The program with every compiled region fused; the same one where there is none. fusions: of programs like this one."""
    begins, ends = _regions(program)
    if not begins.size:
        return program
    shared = fusions or Fusions()
    numbers = np.array([shared.number(op) for op in program.ops], np.int64)
    common = _renumbered(program.tape, numbers)
    regions = Regions(common, begins, ends, program.block_bytes)
    lives = Lives(program, regions, ends)
    tape, at, size, unmade = [], 0, 0, Unmade()
    for number, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        region = regions[number]
        done = shared.of(region, lives.beyond(number))
        if done.again:
            lives.remember(number, done.again)
        tape += [common[at:begin], region.named(done.words)]
        size += begin - at
        if done.unmade.size:
            unmade.add(region.blocks, size, done)
        size += done.words.size
        at = end
    tape.append(common[at:])
    words, block_bytes = unmade.taken_out(np.concatenate(tape), program.block_bytes)
    # Its own ops keep their numbers; what they were fused to comes after them.
    used = np.unique(words[(words & KIND_MASK) == OP] >> KIND_BITS)
    back = np.full(len(shared.ops), -1)
    back[numbers[::-1]] = np.arange(len(numbers))[::-1]  # of equal ops the first
    new = used[back[used] < 0]
    back[new] = len(numbers) + np.arange(new.size)
    ops = [*program.ops, *(shared.ops[op] for op in new.tolist())]
    return replace(program, tape=_renumbered(words, back), ops=ops, block_bytes=block_bytes)


def _regions(program: Program) -> tuple[Words, Words]:
    """Where the words of each compiled region begin and end (end excluded), on the tape."""
    at = np.flatnonzero(program.kinds == Kind.COMPILED)
    starts = program.payloads[at] > 0
    # One that begins while another is open belongs to it.
    opens = starts & ~np.concatenate(([False], starts))[:-1]
    begins = at[opens] + 1
    ends = np.append(at[~starts], program.tape.size)
    return begins, ends[np.searchsorted(ends, begins)]


def _renumbered(words: Words, numbers: Words) -> Words:
    """The words with other numbers of their ops: numbers[op] instead of op."""
    at = np.flatnonzero((words & KIND_MASK) == OP)
    out = words.copy()
    out[at] = numbers[words[at] >> KIND_BITS] << KIND_BITS | OP
    return out


class Unmade:
    """Blocks that no kernel of their region writes, with where on the fused tape they are allocated; what each is made of (-1:
    nothing that has to stay), and where on the tape that is there."""

    def __init__(self) -> None:
        self.found: list[Words] = []  # rows: place, block, source, source's place

    def add(self, names: Words, begin: int, done: "Done") -> None:
        """Of a region whose words begin there."""
        block, place, source, source_place = done.unmade
        sources = np.where(source >= 0, names[source], -1)
        self.found.append(np.stack((begin + place, names[block], sources, begin + source_place)))

    def taken_out(self, words: Words, block_bytes: Words) -> tuple[Words, Words]:
        """(the tape without their ALLOC and FREE words, and the FREE of what a block is made of no earlier than the block's own,
        bytes of each block). Latest first, so that of a chain each is held as long as the last that is made of it. A block
        number that is taken anew meanwhile is another block's then."""
        if not self.found:
            return words, block_bytes
        made, block, source, where = np.concatenate(self.found, axis=1)[:, ::-1]  # (found in the order of the tape)
        order, kept, out = np.arange(words.size + 1, dtype=np.float64), np.ones(words.size + 1, bool), words.copy()
        order[-1] = np.inf
        allocs, frees = Places(words, ALLOC), Places(words, FREE)
        gone, let = frees.after(block, made), frees.after(source, where)
        kept[made] = kept[gone] = False
        taken = allocs.after(source, let)
        new: list[int] = []
        held = np.flatnonzero((source >= 0) & (let < words.size))
        for one, end, leave, again in zip(*(these[held].tolist() for these in (source, gone, let, taken)), strict=True):
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

    @property
    def key(self) -> object:
        return self.ended, self.back, frozenset(self.again.items())


@dataclass(frozen=True)
class Fused:
    """again: blocks that the region does not write, and what its backward reads to make each again. unmade: those of its own
    blocks that it does not write."""

    words: list[int]
    ops: list[Op]
    again: Mapping[int, Instead]
    unmade: tuple[int, ...]


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

    def number(self, op: Op) -> int:
        if op not in self._numbers:
            self._numbers[op] = len(self.ops)
            self.ops.append(op)
            self._facts.append(Facts.of(op))
        return self._numbers[op]

    def of(self, region: "Region", beyond: Beyond) -> Done:
        """A region, whose ops are numbered as here, fused."""
        key = region.key, beyond.key
        if key not in self._known:
            fused = fuse_region(region.words.tolist(), self.ops, self._facts, region.sizes.tolist(), beyond)
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


class Lives:
    """When blocks are freed and when regions read them, over a whole program, as its regions see it."""

    def __init__(self, program: Program, regions: "Regions", ends: Words) -> None:
        self.regions, self.ends = regions, ends
        kinds, payloads = program.kinds, program.payloads
        self.end = kinds.size
        self.frees, self.reads = (self._places(kinds, payloads, kind) for kind in (Kind.FREE, Kind.USE))
        self.again: dict[int, tuple[Instead, int]] = {}  # block -> (what, since where)
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

    def beyond(self, number: int) -> Beyond:
        """Of this region, after those before it."""
        first, last = self.regions.first_block[number], self.regions.first_block[number + 1]
        ended, back = (frozenset(np.flatnonzero(one[first:last]).tolist()) for one in (self.ended, self.back))
        if not self.again:
            return Beyond(ended, back)
        start = int(self.regions.begins[number]) - 1
        given = np.flatnonzero(self.regions.given[first:last])
        places = dict(zip(self.regions.blocks[first:last][given].tolist(), given.tolist(), strict=True))
        known = {places[block]: (block, *self.again[block]) for block in sorted(places.keys() & self.again.keys())}
        return Beyond(
            ended,
            back,
            {
                place: Instead(
                    places.get(what.block, place) if self._holds(what.block, since, start) else place, what.size
                )
                for place, (block, what, since) in known.items()
                if self._holds(block, since, start)
            },
        )

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
            self.again[int(names[first + place])] = Instead(int(names[first + what.block]), what.size), stop


class Region(NamedTuple):
    """A region's words with its blocks, events and modules numbered as they come, a block that is allocated anew as another
    one: the same where a region comes again.

    words: so numbered. blocks, events, modules: what each number is called. sizes: bytes of each block.
    """

    words: Words
    blocks: Words
    events: Words
    modules: Words
    sizes: Words

    @property
    def key(self) -> bytes:
        """Equal for regions that fuse alike, among the same ops."""
        return self.words.tobytes() + self.sizes.tobytes()

    def named(self, words: Words) -> Words:
        """Words that were made of `self.words`, with the region's own blocks, events and modules."""
        kinds, out = words & KIND_MASK, words.copy()
        for named, names in ((IS_BLOCK, self.blocks), (IS_EVENT, self.events), (IS_MODULE, self.modules)):
            at = named[kinds]
            out[at] = names[words[at] >> KIND_BITS] << KIND_BITS | kinds[at]
        return out


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
        blocks, events, modules, words = (
            slice(firsts[number], firsts[number + 1])
            for firsts in (self.first_block, self.first_event, self.first_module, self.first)
        )
        return Region(
            self.words[words], self.blocks[blocks], self.events[events], self.modules[modules], self.sizes[blocks]
        )


def region_of(words: Words, block_bytes: Any) -> Region:
    """Words that are a region by themselves."""
    return Regions(words, np.zeros(1, np.int64), np.array([words.size]), block_bytes)[0]


def fuse_words(words: Sequence[int], ops: list[Op], block_bytes: Any) -> tuple[list[int], list[Op]]:
    """(words of a region of which nothing more is known, fused, ops with the fused ones added at the end)."""
    found = fuse_region(words, ops, [Facts.of(op) for op in ops], block_bytes, Beyond())
    return found.words, found.ops


def fuse_region(
    words: Sequence[int], ops: list[Op], facts: Sequence[Facts], block_bytes: Sequence[int], beyond: Beyond
) -> Fused:
    """Words that are not ops keep their order; a fused op stands where the last of its ops stood. facts: of each op."""
    nodes, others, freed = _nodes(words, facts, block_bytes)
    for node in nodes:
        for block, what in beyond.again.items():
            if block in node.reads:
                del node.reads[block]
                node.reads.setdefault(*what)
    returned = set(nodes[-1].writes) if nodes else set()
    groups = _group(nodes)
    wanted = _wanted_outside(groups, freed | beyond.ended)
    again = _made_again(groups, wanted, beyond.back - returned)
    out_ops = list(ops)
    launched: dict[int, int] = {}
    written: set[int] = set()
    for group, outside in zip(groups, wanted, strict=True):
        if not group.fusible:
            launched[group.at] = group.ops[0]
            written |= group.writes.keys() | group.reads.keys()
            continue
        writes = {block: size for block, size in group.writes.items() if block in outside and block not in again}
        if not writes:
            continue  # nothing of it is used: a compiler drops it
        written |= writes.keys()
        out_ops.append(_fused_op(group, writes, [ops[index] for index in group.ops]))
        launched[group.at] = len(out_ops) - 1
    kept = [(at, entry) for at, entry in others] + [(at, word(Kind.OP, op)) for at, op in launched.items()]
    return Fused([entry for _, entry in sorted(kept)], out_ops, again, _unmade(groups, written, others, again))


def _unmade(groups: list[Node], written: set[int], others: list[tuple[int, int]],
            again: Mapping[int, Instead]) -> tuple[int, ...]:  # fmt: skip
    """Blocks allocated here that only fused kernels would write, none of which does. One that the backward makes again of
    another such block, which itself is made of nothing, is held after all."""
    made = {entry >> KIND_BITS for _, entry in others if entry & KIND_MASK == ALLOC}
    found = (made & {block for group in groups for block in group.writes}) - written
    while True:
        held = {block for block in found if block in again and again[block].block in found - again.keys()}
        if not held:
            return tuple(sorted(found))
        found -= held


def _made_again(groups: list[Node], wanted: list[set[int]], back: set[int] | frozenset[int]) -> dict[int, Instead]:
    """Blocks of `back` that a fused kernel makes and no later kernel of the region reads -> what the backward makes each
    of again: of the kernel's other tensors of at least a quarter of the size one that is read later anyway, or the smallest."""
    last_read = {block: place for place, group in enumerate(groups) for block in group.reads}
    found: dict[int, Instead] = {}
    for place, group in enumerate(groups):
        mine = {block for block in wanted[place] & back if last_read.get(block, -1) <= place}
        if not group.fusible or not mine:
            continue
        left = {block: size for block, size in (group.writes | group.reads).items() if block not in mine}
        for block in mine:
            able = [(one not in back, size, one) for one, size in left.items() if 4 * size >= group.writes[block]]
            if able:
                _, size, one = min(able)
                found[block] = Instead(one, size)
    return found


def _nodes(
    words: Sequence[int], facts: Sequence[Facts], block_bytes: Sequence[int]
) -> tuple[list[Node], list[tuple[int, int]], set[int]]:
    """(one node per op, all other words but USE and DEF with their places, blocks freed inside the region)."""
    nodes: list[Node] = []
    others: list[tuple[int, int]] = []
    freed: set[int] = set()
    uses: list[int] = []
    defs: list[int] = []

    def close() -> None:
        if nodes:
            node, fact = nodes[-1], facts[nodes[-1].ops[0]]
            node.reads = _sizes(uses, fact.reads, block_bytes)
            node.writes = _sizes(defs, fact.writes, block_bytes)
        uses.clear()
        defs.clear()

    for at, entry in enumerate(words):
        kind, payload = entry & KIND_MASK, entry >> KIND_BITS
        if kind == USE:
            uses.append(payload)
        elif kind == DEF:
            defs.append(payload)
        elif kind == OP:
            close()
            fact = facts[payload]
            nodes.append(Node([payload], at, fact.elements, fact.fusible, fact.flop, fact.dtype))
        else:
            others.append((at, entry))
            if kind == FREE:
                freed.add(payload)
            elif kind == ALLOC:
                freed.discard(payload)
    close()
    return nodes, others, freed


def _sizes(blocks: list[int], touched: tuple[int, ...], block_bytes: Sequence[int]) -> dict[int, int]:
    """Bytes that the op touches of each block: of its tensors where they answer one to one (several views of one block
    add up, to the block's size at most), else the whole block's."""
    if blocks and len(blocks) == 2 * len(touched) and blocks[: len(touched)] == blocks[len(touched) :]:
        blocks = blocks[: len(touched)]  # told twice, by a region within a backward
    sizes: dict[int, int] = {}
    one_to_one = len(touched) == len(blocks)
    for index, block in enumerate(blocks):
        most = block_bytes[block]
        sizes[block] = min(sizes.get(block, 0) + (touched[index] if one_to_one else most), most)
    return sizes


def _group(nodes: list[Node]) -> list[Node]:
    """Join each fusible node to the latest group that it may join. Groups stand in launch order."""
    groups: list[Node] = []
    for node in nodes:
        home, is_needed = _home(groups, node) if node.fusible else (None, False)
        if home is None:
            groups.append(replace(node, ops=list(node.ops), reads=dict(node.reads), writes=dict(node.writes)))
            continue
        known = home.writes.keys() | home.reads.keys()
        home.reads |= {block: size for block, size in node.reads.items() if block not in known}
        home.writes |= node.writes
        home.ops += node.ops
        home.flop += node.flop
        if not is_needed:
            home.at = node.at
            groups.remove(home)
            groups.append(home)
        _take_in(groups, home, node)
    return groups


def _take_in(groups: list[Node], home: Node, node: Node) -> None:
    """Join to a group the others that make what its new node reads, where nothing between needs them: a sum of two results is
    one kernel with both."""
    at = groups.index(home)
    between = Node([], 0, 0, False, 0, "")
    for place in range(at - 1, max(at - LOOK_BACK, 0) - 1, -1):
        group = groups[place]
        makes = group.fusible and group.elements == home.elements and not node.reads.keys().isdisjoint(group.writes)
        if (
            makes
            and between.reads.keys().isdisjoint(group.writes)
            and between.writes.keys().isdisjoint(group.reads | group.writes)
        ):
            home.reads = group.reads | {block: size for block, size in home.reads.items() if block not in group.writes}
            home.writes = group.writes | home.writes
            home.ops = group.ops + home.ops
            home.flop += group.flop
            del groups[place]
        else:
            between.reads |= group.reads
            between.writes |= group.writes


def _home(groups: list[Node], node: Node) -> tuple[Node | None, bool]:
    """The latest group of as many elements that shares a block with the node and may run together with it, and
    whether a kernel after that group needs it (then the node moves up to it, else the group down to the node)."""
    for place in range(len(groups) - 1, max(len(groups) - LOOK_BACK, 0) - 1, -1):
        group = groups[place]
        if not group.fusible or group.elements != node.elements:
            continue
        if node.reads.keys().isdisjoint(group.writes) and node.reads.keys().isdisjoint(group.reads):
            continue
        reads_after = set[int]().union(*(later.reads for later in groups[place + 1 :]))
        writes_after = set[int]().union(*(later.writes for later in groups[place + 1 :]))
        is_needed = not reads_after.isdisjoint(group.writes)
        stuck = not writes_after.isdisjoint(node.reads) or not (reads_after | writes_after).isdisjoint(node.writes)
        if not (is_needed and stuck):
            return group, is_needed
    return None, False


def _wanted_outside(groups: list[Node], freed: set[int]) -> list[set[int]]:
    """Of each group the blocks it writes that a later group reads, or that outlive the region."""
    last_read = {block: place for place, group in enumerate(groups) for block in group.reads}
    return [
        {block for block in group.writes if last_read.get(block, -1) > place or block not in freed}
        for place, group in enumerate(groups)
    ]


def _fused_op(group: Node, writes: dict[int, int], ops: list[Op]) -> Op:
    """One op whose tensors are flat byte ranges: what it reads from outside, what it leaves there."""
    reads = tuple(_flat(size) for size in group.reads.values())
    names = tuple(dict.fromkeys(op.name.split(".")[1] for op in ops))
    return Op("anychip.fused", (reads,), (("flop", group.flop), ("ops", names), ("dtype", group.dtype)),
              tuple(_flat(size) for size in writes.values()))  # fmt: skip


def _flat(size: int) -> TensorMeta:
    return TensorMeta((size,), (1,), "uint8")
