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

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anychip.cost.work import mutated, work
from anychip.record import Kind, Op, Program, TensorMeta, word
from anychip.record.tape import ALLOC, FREE, KIND_BITS, KIND_MASK, OP

FUSIBLE = frozenset({"elementwise", "reduction", "copy", "index"})
OF_BLOCKS = (Kind.ALLOC, Kind.FREE, Kind.USE, Kind.DEF, Kind.RECORD_STREAM)
OF_EVENTS = (Kind.RECORD, Kind.WAIT, Kind.SYNC_EVENT)
Words = npt.NDArray[np.int64]


def _table(kinds: tuple[Kind, ...]) -> npt.NDArray[np.bool_]:
    """Whether a kind is one of these, by its number."""
    found = np.zeros(KIND_MASK + 1, bool)
    found[list(kinds)] = True
    return found


IS_BLOCK, IS_EVENT = _table(OF_BLOCKS), _table(OF_EVENTS)
LOOK_BACK = 64  # groups that a node may still join: keeps a long region from taking quadratic time


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
    kinds = program.kinds
    starts = np.flatnonzero((kinds == Kind.COMPILED) & (program.payloads > 0))
    if not starts.size:
        return program
    shared = fusions or Fusions()
    numbers = np.array([shared.number(op) for op in program.ops], np.int64)
    common, tape, at = _renumbered(program.tape, numbers), [], 0
    stops = np.flatnonzero((kinds == Kind.COMPILED) & (program.payloads == 0))
    lives, size, unmade = Lives(program), 0, Unmade()
    for start in starts.tolist():
        if start < at:
            continue
        after = stops[np.searchsorted(stops, start, side="right") :]
        stop = int(after[0]) if after.size else program.tape.size
        region = Region(common[start + 1 : stop], program.block_bytes)
        done = shared.of(region, lives.beyond(region.blocks, start, stop))
        lives.remember(region.blocks, stop, done.again)
        tape += [common[at : start + 1], region.named(done.words)]
        size += len(tape[-2]) + len(done.words)
        unmade.add(region.blocks, size, done)
        at = stop
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


def _renumbered(words: Words, numbers: Words) -> Words:
    """The words with other numbers of their ops: numbers[op] instead of op."""
    at = np.flatnonzero((words & KIND_MASK) == OP)
    out = words.copy()
    out[at] = numbers[words[at] >> KIND_BITS] << KIND_BITS | OP
    return out


class Unmade:
    """Blocks that no kernel of their region writes, with where on the fused tape that region ends, and what each is made of."""

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self.ends: list[int] = []
        self.sources: list[int] = []  # -1: of nothing that has to stay

    def add(self, blocks: list[int], end: int, done: "Done") -> None:
        for place in done.unmade:
            self.blocks.append(blocks[place])
            self.ends.append(end)
            self.sources.append(blocks[done.again[place].block] if place in done.again else -1)

    def taken_out(self, words: Words, block_bytes: Words) -> tuple[Words, Words]:
        """(the tape without their ALLOC and FREE words, and the FREE of what a block is made of no earlier than the block's own,
        bytes of each block). Latest first, so that of a chain each is held as long as the last that is made of it. A block
        number that is taken anew meanwhile is another block's then."""
        if not self.blocks:
            return words, block_bytes
        order, kept, out = np.arange(words.size, dtype=np.float64), np.ones(words.size, bool), words.copy()
        concerned = np.unique([*self.blocks, *self.sources])
        allocs, frees = Places(words, ALLOC, concerned), Places(words, FREE, concerned)
        new: list[int] = []
        for block, end, source in sorted(
            zip(self.blocks, self.ends, self.sources, strict=True), key=lambda one: -one[1]
        ):
            made = allocs.before(block, end)
            gone = frees.after(block, made)
            until = order[gone] if gone < words.size else np.inf
            kept[[made, gone] if gone < words.size else [made]] = False
            let = frees.after(source, end) if source >= 0 else words.size
            if let == words.size or order[let] >= until:
                continue
            order[let] = until
            if until > allocs.after(source, let):
                number = block_bytes.size + len(new)
                out[let], out[allocs.before(source, let)] = number << KIND_BITS | FREE, number << KIND_BITS | ALLOC
                new.append(int(block_bytes[source]))
        at = np.argsort(order, kind="stable")
        return out[at[kept[at]]], np.append(block_bytes, np.array(new, block_bytes.dtype))


class Places:
    """Where words of a kind stand, by block, of some blocks."""

    def __init__(self, words: Words, kind: int, blocks: Words) -> None:
        at = np.flatnonzero((words & KIND_MASK) == kind)
        at = at[np.isin(words[at] >> KIND_BITS, blocks)]
        block = words[at] >> KIND_BITS
        self.end = words.size
        self._at: dict[int, list[int]] = {}
        for one, place in zip(block.tolist(), at.tolist(), strict=True):
            self._at.setdefault(one, []).append(place)

    def after(self, block: int, place: int) -> int:
        """The first after a place; the tape's end where there is none."""
        own = self._at.get(block, [])
        found = bisect_right(own, place)
        return own[found] if found < len(own) else self.end

    def before(self, block: int, place: int) -> int:
        """The last before a place, which there is."""
        own = self._at[block]
        return own[bisect_left(own, place) - 1]


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
    """A region fused, for all programs that have it."""

    words: Words
    again: Mapping[int, Instead]
    unmade: tuple[int, ...]


class Fusions:
    """Regions that were fused, for all programs that have the same: the ranks of a job, each with an op table of its own.

    ops: of all these programs, each once, with what they were fused to.
    """

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self._numbers: dict[Op, int] = {}
        self._known: dict[object, Done] = {}

    def number(self, op: Op) -> int:
        if op not in self._numbers:
            self._numbers[op] = len(self.ops)
            self.ops.append(op)
        return self._numbers[op]

    def of(self, region: "Region", beyond: Beyond) -> Done:
        """A region, whose ops are numbered as here, fused."""
        key = region.key, beyond.key
        if key not in self._known:
            fused = fuse_region(region.words.tolist(), self.ops, region.sizes, beyond)
            own = np.arange(len(self.ops))
            new = [self.number(op) for op in fused.ops[own.size :]]
            words = _renumbered(np.asarray(fused.words, np.int64), np.concatenate((own, np.array(new, np.int64))))
            self._known[key] = Done(words, fused.again, fused.unmade)
        return self._known[key]


class Lives:
    """When blocks are freed and when regions read them, over a whole program."""

    def __init__(self, program: Program) -> None:
        self.kinds, self.payloads = program.kinds, program.payloads
        self._kinds, self._payloads = self.kinds.tolist(), self.payloads.tolist()
        self.end = self.kinds.size
        self.frees, self.reads = self._places(Kind.FREE), self._places(Kind.USE)
        self.again: dict[int, tuple[Instead, int]] = {}  # block -> (what, since where)

    def _places(self, kind: Kind) -> Words:
        """block * end + where a word of the kind stands, in order, and a last one of no block."""
        at = np.flatnonzero(self.kinds == kind)
        return np.append(np.sort(self.payloads[at] * self.end + at), np.iinfo(np.int64).max)

    def beyond(self, blocks: list[int], start: int, stop: int) -> Beyond:
        """Of the region between these places, by the numbers that its blocks have there."""
        ended = self._freed_next(stop)
        named = np.array(blocks, np.int64)
        back = self._next(self.reads, named, stop) < self._next(self.frees, named, stop)
        places = {block: place for place, block in enumerate(blocks)}
        known = {place: self.again[block] for block, place in places.items() if block in self.again}
        return Beyond(
            frozenset(place for place, block in enumerate(blocks) if block in ended),
            frozenset(np.flatnonzero(back).tolist()),
            {
                place: Instead(
                    places.get(what.block, place) if self._holds(what.block, since, start) else place, what.size
                )
                for place, (what, since) in known.items()
                if self._holds(blocks[place], since, start)
            },
        )

    def _next(self, places: Words, blocks: Words, after: Any) -> Words:
        """Where each block's next word stands; the program's end where there is none."""
        found = places[np.searchsorted(places, blocks * self.end + after)]
        return np.where(found // self.end == blocks, found % self.end, self.end)

    def _holds(self, block: int, since: int, until: int) -> bool:
        """Whether the block holds the same all the while."""
        found = int(self.frees[self.frees.searchsorted(block * self.end + since)])
        return found // self.end != block or found % self.end > until

    def _freed_next(self, stop: int) -> set[int]:
        """Blocks freed between a region's end and the next op; their frees stand before or right after its word."""
        found, has_op = set(), False
        for at in range(stop + 1, len(self._kinds)):
            kind = self._kinds[at]
            if kind == FREE:
                found.add(self._payloads[at])
            elif has_op:
                break
            has_op = has_op or kind == OP
        return found

    def remember(self, blocks: list[int], stop: int, again: Mapping[int, Instead]) -> None:
        for place, what in again.items():
            self.again[blocks[place]] = Instead(blocks[what.block], what.size), stop


class Region:
    """A region's words with its blocks and events numbered as they come: the same where a region comes again.

    words: so numbered. sizes: bytes of each block. key: equal for regions that fuse alike, among the same ops.
    """

    def __init__(self, words: Words, block_bytes: Any) -> None:
        kinds, payloads = words & KIND_MASK, words >> KIND_BITS
        self.words = words.copy()
        self._names = []
        for named in (IS_BLOCK, IS_EVENT):
            at = named[kinds]
            names: dict[int, int] = {}  # (regions are short: faster than sorting)
            numbers = [names.setdefault(name, len(names)) for name in payloads[at].tolist()]
            self.words[at] = np.array(numbers, np.int64) << KIND_BITS | kinds[at]
            self._names.append(np.array(list(names), np.int64))
        self.blocks = self._names[0].tolist()
        self.sizes = [int(block_bytes[block]) for block in self.blocks]
        self.key = self.words.tobytes() + np.asarray(self.sizes, np.int64).tobytes()

    def named(self, words: Words) -> Words:
        """Words that were made of `self.words`, with the region's own blocks and events."""
        kinds, out = words & KIND_MASK, words.copy()
        for named, names in zip((IS_BLOCK, IS_EVENT), self._names, strict=True):
            at = named[kinds]
            out[at] = names[words[at] >> KIND_BITS] << KIND_BITS | kinds[at]
        return out


def fuse_words(words: Sequence[int], ops: list[Op], block_bytes: Any) -> tuple[list[int], list[Op]]:
    """(words of a region of which nothing more is known, fused, ops with the fused ones added at the end)."""
    found = fuse_region(words, ops, block_bytes, Beyond())
    return found.words, found.ops


def fuse_region(words: Sequence[int], ops: list[Op], block_bytes: Any, beyond: Beyond) -> Fused:
    """Words that are not ops keep their order; a fused op stands where the last of its ops stood."""
    nodes, others, freed = _nodes(words, ops, block_bytes)
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


def _nodes(words: Sequence[int], ops: list[Op], block_bytes: Any) -> tuple[list[Node], list[tuple[int, int]], set[int]]:
    """(one node per op, all other words but USE and DEF with their places, blocks freed inside the region)."""
    nodes: list[Node] = []
    others: list[tuple[int, int]] = []
    freed: set[int] = set()
    uses: list[int] = []
    defs: list[int] = []

    def close() -> None:
        if nodes:
            node, op = nodes[-1], ops[nodes[-1].ops[0]]
            node.reads = _sizes(uses, op.tensors, block_bytes)
            node.writes = _sizes(defs, op.outputs + mutated(op), block_bytes)
        uses.clear()
        defs.clear()

    for at, entry in enumerate(words):
        kind, payload = entry & KIND_MASK, entry >> KIND_BITS
        if kind == Kind.OP:
            close()
            nodes.append(_node(payload, ops[payload], at))
        elif kind == Kind.USE:
            uses.append(payload)
        elif kind == Kind.DEF:
            defs.append(payload)
        else:
            others.append((at, entry))
            if kind == Kind.FREE:
                freed.add(payload)
            elif kind == Kind.ALLOC:
                freed.discard(payload)
    close()
    return nodes, others, freed


def _node(index: int, op: Op, at: int) -> Node:
    task = work(op)
    across_link = task.host_bytes > 0
    elements = max((t.numel for t in op.tensors + op.outputs if t.on_chip), default=0)
    return Node([index], at, elements, task.kind in FUSIBLE and not across_link, task.flop, task.dtype)


def _sizes(blocks: list[int], tensors: tuple[TensorMeta, ...], block_bytes: Any) -> dict[int, int]:
    """Bytes that the op touches of each block: of its tensors where they answer one to one (several views of one block
    add up, to the block's size at most), else the whole block's."""
    tensors = tuple(t for t in tensors if t.on_chip and t.nbytes)
    if blocks and len(blocks) == 2 * len(tensors) and blocks[: len(tensors)] == blocks[len(tensors) :]:
        blocks = blocks[: len(tensors)]  # told twice, by a region within a backward
    sizes: dict[int, int] = {}
    for index, block in enumerate(blocks):
        most = int(block_bytes[block])
        touched = tensors[index].nbytes if len(tensors) == len(blocks) else most
        sizes[block] = min(sizes.get(block, 0) + touched, most)
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
    return groups


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
