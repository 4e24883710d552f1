"""What a compiler makes of a compiled region: chains of point-wise ops and reductions become one kernel each.

In: words of a region with USE and DEF words (which block each op read and wrote). Out: words that launch
`anychip.fused` ops beside the untouched matrix products, convolutions and attention. A fused op's bytes are what it
reads from outside and what is wanted outside: read by other kernels, or alive at the region's end. Ops join when they
work on as many elements and share a block, and when moving them together breaks no dependency: as Inductor does.

Left out: recomputing cheap ops in the backward instead of saving their results; epilogues of matrix products.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anychip.cost.work import mutated, work
from anychip.record import Kind, Op, Program, TensorMeta, word
from anychip.record.tape import KIND_BITS, KIND_MASK

FUSIBLE = frozenset({"elementwise", "reduction", "copy", "index"})


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
    known: dict[bytes, list[int]] = {}
    for start in starts.tolist():
        if start < at:
            continue
        after = stops[stops > start]
        stop = int(after[0]) if after.size else program.tape.size
        inside = program.tape[start + 1 : stop]
        key = inside.tobytes()
        if key not in known:
            words, all_ops = fuse_words(inside.tolist(), ops, program.block_bytes)
            ops[len(ops) :] = all_ops[len(ops) :]
            known[key] = words
        tape += [program.tape[at : start + 1], np.asarray(known[key], np.int64)]
        at = stop
    tape.append(program.tape[at:])
    return Program(np.concatenate(tape), ops, program.block_bytes, program.modules, program.places,
                   program.questions, program.meta)  # fmt: skip


def fuse_words(words: Sequence[int], ops: list[Op], block_bytes: Any) -> tuple[list[int], list[Op]]:
    """(words of the fused region, ops with the fused ones added at the end). Words that are not ops keep their order; a
    fused op stands where the last of its ops stood."""
    nodes, others, freed = _nodes(words, ops, block_bytes)
    groups = _group(nodes)
    wanted = _wanted_outside(groups, freed)
    out_ops = list(ops)
    launched: dict[int, int] = {}
    for group in groups:
        if len(group.ops) == 1 and not group.fusible:
            launched[group.at] = group.ops[0]
            continue
        writes = {block: size for block, size in group.writes.items() if block in wanted[id(group)]}
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
    """Join each fusible node to the latest group that it may join."""
    groups: list[Node] = []
    for node in nodes:
        home = next((g for g in reversed(groups) if _joins(g, node, groups)), None) if node.fusible else None
        if home is None:
            groups.append(Node(list(node.ops), node.at, node.elements, node.fusible, node.flop, node.dtype,
                               dict(node.reads), dict(node.writes)))  # fmt: skip
            continue
        inside = home.writes.keys()
        home.reads |= {b: size for b, size in node.reads.items() if b not in inside and b not in home.reads}
        home.writes |= node.writes
        home.ops += node.ops
        home.flop += node.flop
        later = groups[groups.index(home) + 1 :]
        if not any(home.writes.keys() & g.reads.keys() for g in later):
            home.at = node.at
            groups.remove(home)
            groups.append(home)
    return groups


def _joins(group: Node, node: Node, groups: list[Node]) -> bool:
    """Same number of elements, a block in common, and no kernel in between that must run before or after."""
    if not group.fusible or group.elements != node.elements:
        return False
    if not (node.reads.keys() & (group.writes.keys() | group.reads.keys())):
        return False
    later = groups[groups.index(group) + 1 :]
    waits = any(node.reads.keys() & g.writes.keys() for g in later)  # node needs what came after the group
    feeds = any(group.writes.keys() & g.reads.keys() for g in later)  # somebody needs the group before node
    overwrites = any(node.writes.keys() & (g.reads.keys() | g.writes.keys()) for g in later)
    return not (waits and feeds) and not (overwrites and feeds)


def _wanted_outside(groups: list[Node], freed: set[int]) -> dict[int, set[int]]:
    """Of each group the blocks it writes that another group reads, or that outlive the region."""
    wanted: dict[int, set[int]] = {}
    for place, group in enumerate(groups):
        read_later = set().union(*(g.reads.keys() for g in groups[place + 1 :])) if groups[place + 1 :] else set()
        wanted[id(group)] = {b for b in group.writes if b in read_later or b not in freed}
    return wanted


def _fused_op(group: Node, writes: dict[int, int], ops: list[Op]) -> Op:
    """One op whose tensors are flat byte ranges: what it reads from outside, what it leaves there."""
    reads = tuple(_flat(size) for size in group.reads.values())
    names = tuple(dict.fromkeys(op.name.split(".")[1] for op in ops))
    return Op("anychip.fused", (reads,), (("flop", group.flop), ("ops", names), ("dtype", group.dtype)),
              tuple(_flat(size) for size in writes.values()))  # fmt: skip


def _flat(size: int) -> TensorMeta:
    return TensorMeta((size,), (1,), "uint8")
