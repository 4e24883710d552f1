"""What a compiler makes of a compiled region: chains of point-wise ops and reductions become one kernel each.

In: words of a region with USE and DEF words (which block each op read and wrote). Out: words that launch
`anychip.fused` ops beside the untouched matrix products, convolutions and attention. A fused op's bytes are what it
reads from outside and what is wanted outside: read by other kernels, or alive at the region's end. Ops join when they
work on as many elements and share a block, and when moving them together breaks no dependency: as Inductor does.

What lives on only because a later region (its own backward) reads it is not written: the backward makes it again from what
the kernel read, or wrote for others, as Inductor's partitioner and hand-written kernels (Megatron-LM's, Transformer
Engine's) do. Autograd frees what ends with the region just before the next op, so those frees count as the region's.

A product of one row or column is a reduction where Inductor tunes by coordinate descent, and one kernel with the casts of its
weights: 8-bit weights are read as they are.

A product whose rows are no multiple of what a kernel loads at a time may be padded, as Inductor does where that is faster.

Left out: epilogues of matrix products.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from sys import maxsize
from typing import Any, NamedTuple

from anychip.cost.regions import Beyond, Instead
from anychip.cost.work import is_low, mutated, work
from anychip.record import Kind, Op, TensorMeta, word
from anychip.record.tape import ALLOC, DEF, FREE, KIND_BITS, KIND_MASK, OP, USE

FUSIBLE = frozenset({"elementwise", "reduction", "copy", "index"})
LOOK_BACK = 64  # groups that a node may still join: keeps a long region from taking quadratic time


class Facts(NamedTuple):
    """Of an op, whatever region it is in. elements: on which it works. reads, writes: bytes that it touches of its tensors on
    the chip; of a table or a cache that is indexed only as much as the op moves."""

    elements: int
    fusible: bool
    flop: int
    dtype: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    ragged: bool = False
    product: bool = False

    @classmethod
    def of(cls, op: Op) -> "Facts":
        task, changed = work(op), mutated(op)
        worked = op.tensors + op.outputs
        most = (maxsize, maxsize)
        if task.kind == "index":
            most = (task.bytes_read, task.bytes_written)
            worked = op.outputs if not changed else tuple(t for i, t in enumerate(op.tensors) if i not in op.mutates)
        elements = max((t.numel for t in worked if t.on_chip), default=0)
        fusible = task.kind in FUSIBLE and not task.host_bytes  # (what crosses the link to the host stays a kernel)
        reads, writes = _nbytes(op.tensors, most[0]), _nbytes(op.outputs + changed, most[1])
        return cls(elements, fusible, task.flop, task.dtype, reads, writes, task.ragged_bytes > 0 and not task.padded,
                   task.model_flop > 0)  # fmt: skip


def _nbytes(tensors: tuple[TensorMeta, ...], most: int) -> tuple[int, ...]:
    return tuple(min(size, most) for tensor in tensors if tensor.on_chip and (size := tensor.nbytes))


@dataclass(eq=False)
class Node:
    """A kernel to be: one op, or several fused. reads, writes: block -> bytes. at: where it is launched. sums: blocks that products
    among its ops write."""

    ops: list[int]
    at: int
    elements: int
    fusible: bool
    flop: int
    dtype: str
    reads: dict[int, int] = field(default_factory=dict)
    writes: dict[int, int] = field(default_factory=dict)
    sums: set[int] = field(default_factory=set)

    def waits_for(self, group: "Node") -> bool:
        """Whether it sums over what the group's products have yet to sum up: no one kernel does both."""
        return bool(self.sums) and not self.reads.keys().isdisjoint(group.sums)


@dataclass(frozen=True)
class Fused:
    """again: blocks that the region does not write, and what its backward reads to make each again. unmade: those of its own
    blocks that it does not write."""

    words: list[int]
    ops: list[Op]
    again: Mapping[int, Instead]
    unmade: tuple[int, ...]


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
    over = freed | beyond.ended
    if all(group.writes.keys() <= over for group in groups):
        # A call whose caller lets go of all that it returns: it is written all the same.
        over = freed | (beyond.ended - returned)
    wanted = _wanted_outside(groups, over)
    again = _made_again(groups, wanted, beyond.back - returned)
    out_ops = list(ops)
    launched: dict[int, int] = {}
    written: set[int] = set()
    for group, outside in zip(groups, wanted, strict=True):
        if not group.fusible:
            alone = group.ops[0]
            launched[group.at] = alone
            if facts[alone].ragged:
                launched[group.at] = len(out_ops)
                out_ops.append(replace(ops[alone], kwargs=(*ops[alone].kwargs, ("padded", True))))
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
            node.sums = set(node.writes) if fact.product else set()
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
    one_to_one, whole = len(touched) == len(blocks), sum(touched)
    for index, block in enumerate(blocks):
        most = block_bytes[block]
        sizes[block] = min(sizes.get(block, 0) + (touched[index] if one_to_one else min(most, whole)), most)
    return sizes


def _group(nodes: list[Node]) -> list[Node]:
    """Join each fusible node to the latest group that it may join. Groups stand in launch order."""
    groups: list[Node] = []
    for node in nodes:
        home, is_needed = _home(groups, node) if node.fusible else (None, False)
        if home is None:
            groups.append(replace(node, ops=list(node.ops), reads=dict(node.reads), writes=dict(node.writes),
                                  sums=set(node.sums)))  # fmt: skip
            continue
        known = home.writes.keys() | home.reads.keys()
        home.reads |= {block: size for block, size in node.reads.items() if block not in known}
        home.writes |= node.writes
        home.ops += node.ops
        home.flop += node.flop
        home.sums |= node.sums
        if not is_needed:
            home.at = node.at
            groups.remove(home)
            groups.append(home)
        _take_in(groups, home, node)
    return groups


def _take_in(groups: list[Node], home: Node, node: Node) -> None:
    """Join to a group the others that make what its new node reads, where nothing between needs them: a sum of two results is
    one kernel with both."""
    at, wanted = groups.index(home), node.reads.keys()
    makers = [
        place
        for place in range(at - 1, max(at - LOOK_BACK, 0) - 1, -1)
        if groups[place].fusible
        and groups[place].elements == home.elements
        and not wanted.isdisjoint(groups[place].writes)
        and not home.waits_for(groups[place])
    ]
    read, written = set[int](), set[int]()  # by what stays between, down to `seen`
    seen = at
    for place in makers:
        group, between = groups[place], groups[place + 1 : seen]
        read.update(*(other.reads for other in between))
        written.update(*(other.writes for other in between))
        seen = place + 1
        if read.isdisjoint(group.writes) and written.isdisjoint(group.reads | group.writes):
            home.reads = group.reads | {block: size for block, size in home.reads.items() if block not in group.writes}
            home.writes = group.writes | home.writes
            home.ops = group.ops + home.ops
            home.flop += group.flop
            home.sums |= group.sums
            del groups[place]
            seen = place


def _home(groups: list[Node], node: Node) -> tuple[Node | None, bool]:
    """The latest group of as many elements that shares a block with the node and may run together with it, and
    whether a kernel after that group needs it (then the node moves up to it, else the group down to the node)."""
    for place in range(len(groups) - 1, max(len(groups) - LOOK_BACK, 0) - 1, -1):
        group = groups[place]
        if not group.fusible or group.elements != node.elements or node.waits_for(group):
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
    """One op whose tensors are flat byte ranges: what it reads from outside, what it leaves there. Of those only casts to 8 bit
    keep their dtype, which their price depends on."""
    reads = tuple(_flat(size) for size in group.reads.values())
    names = tuple(dict.fromkeys(op.name.split(".")[1] for op in ops))
    low = Counter((one.nbytes, one.dtype) for op in ops for one in op.outputs if is_low(one))
    products = [task for task in map(work, ops) if task.model_flop]
    dtype = products[0].dtype if products else group.dtype
    told: tuple[tuple[str, Any], ...] = (("flop", group.flop), ("ops", names), ("dtype", dtype))
    told += (("model_flop", sum(task.model_flop for task in products)),) if products else ()
    return Op("anychip.fused", (reads,), told, tuple(_flat(size, _taken(low, size)) for size in writes.values()))


def _taken(low: Counter[tuple[int, str]], size: int) -> str:
    """The dtype of a cast to 8 bit of this size that has no place yet."""
    found = next((key for key, count in low.items() if key[0] == size and count), None)
    if found is None:
        return "uint8"
    low[found] -= 1
    return found[1]


def _flat(size: int, dtype: str = "uint8") -> TensorMeta:
    return TensorMeta((size,), (1,), dtype)
