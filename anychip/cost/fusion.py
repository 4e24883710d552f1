"""What a compiler makes of a compiled region: chains of point-wise ops and reductions become one kernel each.

In: words of a region with USE and DEF words (which block each op read and wrote). Out: words that launch
`anychip.fused` ops beside the untouched matrix products, convolutions and attention. A fused op's bytes are what it
reads from outside and what is wanted outside: read by other kernels, or alive at the region's end. Ops join when they
work on as many elements and share a block, and when moving them together breaks no dependency: as Inductor does.

Left out: recomputing cheap ops in the backward instead of saving their results; epilogues of matrix products.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from anychip.cost.work import mutated, work
from anychip.record import Kind, Op, Program, TensorMeta, word
from anychip.record.tape import KIND_BITS, KIND_MASK

FUSIBLE = frozenset({"elementwise", "reduction", "copy", "index"})
OF_BLOCKS = (Kind.ALLOC, Kind.FREE, Kind.USE, Kind.DEF, Kind.RECORD_STREAM)
OF_EVENTS = (Kind.RECORD, Kind.WAIT, Kind.SYNC_EVENT)
Words = npt.NDArray[np.int64]
LOOK_BACK = 64  # groups that a node may still join: keeps a long region from taking quadratic time


@dataclass
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


def fuse(program: Program) -> Program:
    """The program with every compiled region fused; the same one where there is none."""
    kinds = program.kinds
    starts = np.flatnonzero((kinds == Kind.COMPILED) & (program.payloads > 0))
    if not starts.size:
        return program
    ops, tape, at = list(program.ops), [], 0
    stops = np.flatnonzero((kinds == Kind.COMPILED) & (program.payloads == 0))
    known: dict[bytes, Words] = {}
    for start in starts.tolist():
        if start < at:
            continue
        after = stops[stops > start]
        stop = int(after[0]) if after.size else program.tape.size
        region = Region(program.tape[start + 1 : stop], program.block_bytes)
        if region.key not in known:
            words, all_ops = fuse_words(region.words.tolist(), ops, region.sizes)
            ops[len(ops) :] = all_ops[len(ops) :]
            known[region.key] = np.asarray(words, np.int64)
        tape += [program.tape[at : start + 1], region.named(known[region.key])]
        at = stop
    tape.append(program.tape[at:])
    return replace(program, tape=np.concatenate(tape), ops=ops)


class Region:
    """A region's words with its blocks and events numbered as they come: the same where a region comes again.

    words: so numbered. sizes: bytes of each block. key: equal for regions that fuse alike, among the same ops.
    """

    def __init__(self, words: Words, block_bytes: Any) -> None:
        kinds, payloads = words & KIND_MASK, words >> KIND_BITS
        self.words = words.copy()
        self._names = []
        for named in (OF_BLOCKS, OF_EVENTS):
            at = np.isin(kinds, named)
            names, first, which = np.unique(payloads[at], return_index=True, return_inverse=True)
            order = np.argsort(first)
            numbers = np.empty_like(order)
            numbers[order] = np.arange(order.size)
            self.words[at] = numbers[which] << KIND_BITS | kinds[at]
            self._names.append(names[order])
        self.sizes = [int(block_bytes[block]) for block in self._names[0].tolist()]
        self.key = self.words.tobytes() + np.asarray(self.sizes, np.int64).tobytes()

    def named(self, words: Words) -> Words:
        """Words that were made of `self.words`, with the region's own blocks and events."""
        kinds, out = words & KIND_MASK, words.copy()
        for named, names in zip((OF_BLOCKS, OF_EVENTS), self._names, strict=True):
            at = np.isin(kinds, named)
            out[at] = names[words[at] >> KIND_BITS] << KIND_BITS | kinds[at]
        return out


def fuse_words(words: Sequence[int], ops: list[Op], block_bytes: Any) -> tuple[list[int], list[Op]]:
    """(words of the fused region, ops with the fused ones added at the end). Words that are not ops keep their order; a
    fused op stands where the last of its ops stood."""
    nodes, others, freed = _nodes(words, ops, block_bytes)
    groups = _group(nodes)
    wanted = _wanted_outside(groups, freed)
    out_ops = list(ops)
    launched: dict[int, int] = {}
    for group, outside in zip(groups, wanted, strict=True):
        if not group.fusible:
            launched[group.at] = group.ops[0]
            continue
        writes = {block: size for block, size in group.writes.items() if block in outside}
        if not writes:
            continue  # nothing of it is used: a compiler drops it
        out_ops.append(_fused_op(group, writes, [ops[index] for index in group.ops]))
        launched[group.at] = len(out_ops) - 1
    kept = [(at, entry) for at, entry in others] + [(at, word(Kind.OP, op)) for at, op in launched.items()]
    return [entry for _, entry in sorted(kept)], out_ops


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
    reads_after: set[int] = set()
    writes_after: set[int] = set()
    for group in reversed(groups[-LOOK_BACK:]):
        shares = node.reads.keys() & (group.writes.keys() | group.reads.keys())
        if group.fusible and group.elements == node.elements and shares:
            is_needed = not reads_after.isdisjoint(group.writes)
            stuck = not writes_after.isdisjoint(node.reads) or not (reads_after | writes_after).isdisjoint(node.writes)
            if not (is_needed and stuck):
                return group, is_needed
        reads_after |= group.reads.keys()
        writes_after |= group.writes.keys()
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
