"""Which ranks of a job do the same: from a few that ran, classes that cover all.

Two ranks do the same if they issued the same ops on groups of the same sizes; whom they send to may differ. Ranks of one
group do the same unless some of them were seen to differ: pipeline stages differ, data-parallel replicas do not. On a
mesh, who shares a group with whom repeats itself, so from one rank's groups all ranks follow by shifting.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anychip.errors import MOST_RANKS
from anychip.network import collective_of
from anychip.record import Kind, Op, Program, TensorMeta

SENDS = ("c10d.send.default", "c10d.recv_.default")
FROM_ANY = "c10d.recv_any_source_.default"
OWN_BYTES = ("all_to_all", "send", "recv", "gather", "scatter")  # of which each rank of a group may have its own
LONG_RING = 64  # ranks of which not each is run
# By how much two ranks may part and yet have as much to do: of the elements of their pieces, and of their calls.
FRINGE, MORE_CALLS = 0.001, 0.25
RELATIVE = ("peer", "received")  # what names ranks: each has its own
# Overloads whose numbers are values (what a part of a vocabulary begins with), or show in the outputs.
VALUES = ("Scalar", "Tensor")


def stream(program: Program) -> npt.NDArray[np.uint64]:
    """One number per op that the rank issued since it first called a module, equal where ops are.

    Before that ranks differ in who draws the parameters and who gets them, which no step depends on.
    """
    numbers = np.array([_number(op, program) for op in program.ops], np.uint64)
    return numbers[_issued(program)] if numbers.size else numbers


def _issued(program: Program) -> npt.NDArray[np.int64]:
    """Which ops, in order, since a module was first called."""
    marks = np.flatnonzero(program.kinds == Kind.MARK)
    begin = int(marks[0]) if marks.size else 0
    return program.payloads[begin:][program.kinds[begin:] == Kind.OP]


def _number(op: Op, program: Program) -> int:
    return int.from_bytes(hashlib.blake2b(repr(_relative(op, program)).encode(), digest_size=8).digest())


def _relative(op: Op, program: Program) -> tuple[Any, ...]:
    """The op without what each rank has its own of. A root by its place in the group, which all of a group agree on."""
    args, kwargs = op.args, op.kwargs
    if op.name.startswith("c10d."):
        group = program.groups[args[2]]
        args = (*args[:2], len(group.ranks), group.copy)
        kwargs = tuple(
            (name, group.ranks.index(value) if name == "root" else value)
            for name, value in kwargs
            if name not in RELATIVE
        )
    elif op.name.rpartition(".")[2] in VALUES:
        args = tuple("number" if isinstance(one, int | float) else one for one in args)
    return op.name, args, kwargs, op.outputs


def alike(one: npt.NDArray[np.uint64], other: npt.NDArray[np.uint64]) -> bool:
    """Whether the shorter stream (its rank was ended earlier) is how the longer one begins."""
    size = min(one.size, other.size)
    return size > 0 and bool(np.array_equal(one[:size], other[:size]))


def within(program: Program, other: Program) -> bool:
    """Whether a rank issues the ops that another does, as far as both were recorded, none on larger tensors: the last to
    share a tensor that does not divide evenly has what is left of it, and nobody waits for it longer than for the others."""
    mine, its = _issued(program), _issued(other)
    size = min(mine.size, its.size)
    pairs = np.unique(np.stack([mine[:size], its[:size]]), axis=1).T.tolist()
    if any(_meet_unlike(program, here, other, there) for here, there in pairs):
        return False
    both = ((_relative(program.ops[here], program), _relative(other.ops[there], other)) for here, there in pairs)
    return size > 0 and all(
        _no_larger(mine, its) and (not mine[0].startswith("c10d.") or mine[1][2] == its[1][2]) for mine, its in both
    )


def _meet_unlike(program: Program, here: int, other: Program, there: int) -> bool:
    """Whether two ranks of one group call a collective of it on sizes that do not fit: then nothing was divided, and the job may hang."""
    one, two = collective_of(program.ops[here]), collective_of(other.ops[there])
    if one is None or two is None or one.kind in OWN_BYTES:
        return False
    return one.nbytes != two.nbytes and program.groups[one.group].ranks == other.groups[two.group].ranks


def _no_larger(mine: Any, its: Any) -> bool:
    if type(mine) is not type(its):
        return False
    if isinstance(mine, TensorMeta):
        return mine[2:] == its[2:] and len(mine.shape) == len(its.shape) and _no_larger(mine.shape, its.shape)
    if isinstance(mine, tuple):
        return len(mine) == len(its) and all(map(_no_larger, mine, its))
    return bool(mine <= its if isinstance(mine, int) and not isinstance(mine, bool) else mine == its)


def cut_otherwise(one: Program, its: npt.NDArray[np.uint64], other: Program, others: npt.NDArray[np.uint64]) -> bool:
    """Whether two ranks do the same but for operators on tensors of one dimension, which have as many elements in all, in some more or
    fewer pieces: of a flat parameter each has a part, which lies otherwise over the borders of those inside. its, others: their streams."""
    (whole, pieces), (other_whole, other_pieces) = _split(one, its), _split(other, others)
    if not np.array_equal(whole, other_whole):
        return False
    sizes = [sum(calls for calls, _ in found.values()) for found in (pieces, other_pieces)]
    none = (0, 0)
    apart = sum(abs(pieces.get(name, none)[1] - other_pieces.get(name, none)[1]) for name in {*pieces, *other_pieces})
    in_all = sum(elements for _, elements in pieces.values())
    return apart <= FRINGE * in_all and abs(sizes[0] - sizes[1]) <= MORE_CALLS * (whole.size + min(sizes))


def _split(program: Program, its: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], dict[str, tuple[int, int]]]:
    """(What of a rank's stream communicates or has a tensor of more than one dimension; of the other operators by name how often they
    are called, and on how many elements)."""
    issued = _issued(program)
    tensors = [(*op.tensors, *op.outputs) for op in program.ops]
    is_whole = np.array(
        [op.name.startswith("c10d.") or any(len(one.shape) > 1 for one in those)
         for op, those in zip(program.ops, tensors, strict=True)], bool,
    )  # fmt: skip
    found: dict[str, tuple[int, int]] = {}
    for op, times in enumerate(np.bincount(issued, minlength=len(program.ops)).tolist()):
        if times and not is_whole[op]:
            name = program.ops[op].name
            calls, elements = found.get(name, (0, 0))
            found[name] = calls + times, elements + times * sum(one.numel for one in tensors[op])
    return its[is_whole[issued]], found


def wanted(programs: Mapping[int, Program], streams: Mapping[int, npt.NDArray[np.uint64]]) -> set[int]:
    """Ranks that have to run because one that ran sends to them or receives from them and they may differ.

    A group whose members exchange among themselves is first judged by the peers of one; if these do the same (a ring),
    so do all, else (a pipeline) each is run, but for a long ring, whose first and last say of all that they do the same. Where ranks send in the group of all, or in one that lies as no pipeline does (a learner
    with its actors), who sends to whom is followed, which in the end leaves nobody out either.
    """
    missing: set[int] = set()
    rings = long_rings(programs, streams)
    for rank, program in programs.items():
        for op in program.ops:
            if op.name == FROM_ANY and len(program.groups[op.args[2]].ranks) <= MOST_RANKS:
                missing |= set(program.groups[op.args[2]].ranks) - set(programs)  # who sends may be any of them
            if op.name not in SENDS:
                continue
            peer = op.kwarg("peer")
            ranks = around(program, peer, program.groups[op.args[2]].ranks)
            if ranks in rings:
                continue
            seen = [one for one in ranks if one in programs]
            differ = any(not alike(streams[rank], streams[one]) for one in seen)
            each = differ and len(ranks) <= MOST_RANKS and len(ranks) < program.world_size and stride(ranks) > 0
            missing |= (set(ranks) if each else {peer}) - set(programs)
    return missing


def fullest(program: Program, known: Iterable[int]) -> set[int]:
    """Whom a rank gives most and gets most from in uneven all-to-alls, unless one of the known ranks has as much: such an
    exchange is over with its fullest member, which may do as no other. (Rings, in which each names one other, have none.)"""
    totals: dict[tuple[str, tuple[int, ...]], npt.NDArray[np.int64]] = {}
    for op in program.ops:
        call = collective_of(op) if op.name.startswith("c10d.alltoall") else None
        if call is None or call.places_on(0) is not None:
            continue
        for side, amounts in (("sent", call.sent), ("received", call.received)):
            if amounts:
                key = side, program.groups[call.group].ranks
                totals[key] = totals.get(key, 0) + np.array(amounts, np.int64)
    ran, found = set(known) - {program.rank}, set()
    for (_, ranks), total in totals.items():
        others = {rank: amount for rank, amount in zip(ranks, total.tolist(), strict=True) if rank != program.rank}
        most = max(others.values(), default=0)
        if most > max((others[rank] for rank in others if rank in ran), default=min(others.values(), default=0)):
            found.add(max(others, key=lambda rank: others[rank]))
    return found


def long_rings(programs: Mapping[int, Program], streams: Mapping[int, npt.NDArray[np.uint64]]) -> set[tuple[int, ...]]:
    """Groups of many ranks whose first, second and last do the same, and exchange with who is as far from each: so do those between.
    The ranks of a shorter one all run, and each has its own place in time."""
    found: set[tuple[int, ...]] = set()
    for rank, program in programs.items():
        for ranks in lines(program):
            if len(ranks) <= LONG_RING or rank != ranks[0]:
                continue
            ends = [
                one for one in (ranks[0], ranks[1], ranks[-1]) if one in programs and alike(streams[rank], streams[one])
            ]
            if len(ends) == 3 and len({_offsets(programs[one], ranks) for one in ends}) == 1:
                found.add(ranks)
    return found


def _offsets(program: Program, ranks: tuple[int, ...]) -> frozenset[int]:
    """How far those that a rank exchanges with in a ring are from it."""
    here = ranks.index(program.rank)
    peers = {op.kwarg("peer") for op in program.ops if op.name in SENDS} & {*ranks}
    return frozenset((ranks.index(peer) - here) % len(ranks) for peer in peers)


def around(program: Program, peer: int | None, ranks: tuple[int, ...]) -> tuple[int, ...]:
    """The smallest of a rank's groups with a peer in it: stages of a pipeline may exchange in the group of all ranks."""
    known = (group.ranks for group in program.groups)
    return min((one for one in known if peer in one and program.rank in one), key=len, default=ranks)


def members(owner: npt.NDArray[np.int64]) -> dict[int, list[int]]:
    """The ranks that each representative stands for, itself included. owner: who stands for each rank of the world."""
    return {int(rank): np.flatnonzero(owner == rank).tolist() for rank in np.unique(owner)}


def reached(
    programs: Mapping[int, Program], streams: Mapping[int, npt.NDArray[np.uint64]], world_size: int
) -> npt.NDArray[np.int64]:
    """Who stands for each rank of the world, by what those that ran did and by their groups.

    Ranks that no representative reaches by its groups, since somebody in these differs (the last of those that share an
    optimizer's state has less of it), go with those that they are the replicas of, or that stand at their place in a line, else with
    the nearest one below.
    """
    owner = np.full(world_size, -1, np.int64)
    rings = long_rings(programs, streams)
    same = likeness(programs, streams)
    for rank in sorted(programs):
        if owner[rank] >= 0 and same(rank, int(owner[rank])):
            continue
        twin = next((one for one in sorted(programs) if owner[one] == one and same(rank, one)), None)
        if twin is not None and rank not in neighbours(programs[twin], rings):
            owner[rank] = twin
            continue
        found = orbit(programs[rank], {other for other in streams if not same(rank, other)}, world_size)
        free = found[owner[found] < 0]
        owner[free] = rank
        owner[rank] = rank
    for rank in programs:  # one that ran and was claimed by another that does otherwise speaks for itself
        if not same(rank, int(owner[rank])):
            owner[rank] = rank
    for rank in sorted(programs):
        spread(owner, programs[rank], rings)
    for rank in sorted(programs):
        tile(owner, programs[rank], rings)
    left = np.flatnonzero(owner < 0)
    known = np.array(sorted(set(owner[owner >= 0].tolist())), np.int64)
    owner[left] = known[np.searchsorted(known, left, side="right") - 1]
    return owner


def as_told(
    owner: npt.NDArray[np.int64], ran: Sequence[int], kinds: npt.NDArray[np.int64], samples_of: Mapping[int, int]
) -> npt.NDArray[np.int64]:
    """Who stands for each rank: one that the source does not tell apart from it, where its own representative has none such."""
    of_kind: dict[int, list[int]] = {}
    for rank, its in sorted([*((rank, int(owner[rank])) for rank in ran), *samples_of.items()]):
        of_kind.setdefault(int(kinds[rank]), []).append(its)
    found = owner.copy()
    for rank in np.flatnonzero(~np.isin(np.arange(owner.size), ran)).tolist():
        mine = of_kind.get(int(kinds[rank]), [])
        if mine and owner[rank] not in mine:
            found[rank] = max((one for one in mine if one <= rank), default=mine[0])
    return found


def likeness(
    programs: Mapping[int, Program], streams: Mapping[int, npt.NDArray[np.uint64]]
) -> Callable[[int, int], bool]:
    """Whether two ranks do the same, and exchange with ranks that do the same, and so on along a pipeline: one that
    receives from a rank that does otherwise has to be there for it."""
    first = sorted(programs)
    sends = {rank: {op.kwarg("peer") for op in one.ops if op.name in SENDS} for rank, one in programs.items()}

    def matched(one: int, other: int) -> bool:
        """One may be ended sooner, but not before the other is through with communicating."""
        shorter, longer = sorted((one, other), key=lambda rank: streams[rank].size)
        if not alike(streams[one], streams[other]):
            return False
        return streams[shorter].size == streams[longer].size or not leaves(programs[shorter], programs[longer])

    kind = {rank: next(one for one in first if one == rank or matched(rank, one)) for rank in first}
    partners: dict[int, set[int]] = {}

    def mixed(one: int, other: int) -> bool:
        mine, its = partners[one], partners[other]
        return bool(mine and its and mine != its)

    while True:  # each round tells apart what is one exchange further from what differs
        partners = {rank: {kind[peer] for peer in sends[rank] if peer in kind} for rank in first}
        finer = {rank: next(one for one in first if kind[one] == kind[rank] and not mixed(rank, one)) for rank in first}
        if finer == kind:
            break
        kind = finer

    def same(one: int, other: int) -> bool:
        return matched(one, other) and not mixed(one, other)

    return same


def leaves(program: Program, other: Program) -> bool:
    """Whether a rank ended before another, as long as both ran, was through with communicating."""
    further = np.unique(_issued(other)[_issued(program).size :])
    return any(other.ops[op].name.startswith("c10d.") for op in further)


def spread(owner: npt.NDArray[np.int64], program: Program, rings: Collection[tuple[int, ...]]) -> None:
    """Give ranks without an owner that of a rank which one of this one's groups puts at their place: distant groups (replicas)
    before near ones (parts of a layer), in each the nearest, and none along which ranks send."""
    line = neighbours(program, rings)
    groups = [one.ranks for one in program.groups if 1 < len(one.ranks) < owner.size and not line.issuperset(one.ranks)]
    for ranks in sorted(groups, key=lambda one: one[0] - one[1]):
        for offset in [one - program.rank for one in ranks if one > program.rank]:
            free = np.flatnonzero(owner < 0)
            free = free[free >= offset]
            owner[free] = owner[free - offset]


def tile(owner: npt.NDArray[np.int64], program: Program, rings: Collection[tuple[int, ...]]) -> None:
    """Give ranks without an owner that of the rank at their place in a line along which this one sends, where only the group of all
    ranks leads from one such line to the next (rings of attention, replicas that sum up over the whole job). Lines are taken to lie one
    after the other, as the first does."""
    line = neighbours(program, rings)
    for ranks in sorted((one.ranks for one in program.groups if line.issuperset(one.ranks)), key=len):
        step, free = stride(ranks), np.flatnonzero(owner < 0)
        if ranks[0] < step:
            owner[free] = owner[np.array(ranks)[free // step % len(ranks)]]


def stride(ranks: tuple[int, ...]) -> int:
    """How far apart the ranks of a group are; 0 where that differs."""
    step = max(ranks[1] - ranks[0], 0) if len(ranks) > 1 else 0
    return step if step and ranks == tuple(range(ranks[0], ranks[-1] + 1, step)) else 0


def neighbours(program: Program, rings: Collection[tuple[int, ...]]) -> set[int]:
    """Those that a rank exchanges with in a line, so that each has its own place in time though it may do the same; none of long rings."""
    return {rank for ranks in lines(program).difference(rings) for rank in ranks}


def lines(program: Program) -> set[tuple[int, ...]]:
    """The groups along which a rank exchanges with others."""
    sends = {(op.kwarg("peer"), op.args[2]) for op in program.ops if op.name in SENDS}
    return {around(program, peer, program.groups[group].ranks) for peer, group in sends}


def orbit(program: Program, different: Iterable[int], world_size: int) -> npt.NDArray[np.int64]:
    """The ranks that are reached from a rank through its groups, leaving out groups in which somebody differs."""
    others = set(different)
    open_ = [set(group.ranks) for group in program.groups if others.isdisjoint(group.ranks)]
    reached = np.array([program.rank], np.int64)  # near ones first: these stand in their groups where the rank does
    for ranks in sorted(open_, key=len):
        offsets = np.array(sorted(ranks)) - program.rank
        found, parts = np.zeros(world_size, bool), [reached]
        for rank in reached.tolist():
            if not found[rank]:  # else its group is there already: groups may have more than one rank in common
                its = offsets + rank
                parts.append(its[(its >= 0) & (its < world_size)])
                found[parts[-1]] = True
        together = np.concatenate(parts)
        reached = together[np.sort(np.unique(together, return_index=True)[1])]
    return np.sort(reached)
