"""`simulate(program, chip, fabric)`: a job's recordings on many chips, as one `ClusterTimeline`.

Each distinct rank's tape is walked by an engine of its own (`rank`); where ranks meet the `board` says when all go on.
Collectives whose ranks are all of one class cost their price and meet nobody: nothing here grows with the world size.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import ceil
from typing import Protocol

import numpy as np
import numpy.typing as npt

from anychip.cluster.board import Board, Launch, Leg
from anychip.cluster.contention import Taken, extra_s
from anychip.cluster.deadlock import complain_of, complain_of_waiting, unlike_text
from anychip.cluster.match import POINT_TO_POINT, match, with_sources
from anychip.cluster.rank import KNOWN, PAST, QUEUED, RankEngine
from anychip.cluster.script import Script
from anychip.cluster.stragglers import Stragglers
from anychip.cost.fusion import fuse_ranks
from anychip.cost.price import EVIDENCE, LIMITS, Prices
from anychip.garbage import uncollected
from anychip.network import Collective, CollectiveCost, Tier, collective_of
from anychip.record import Kind, Program
from anychip.record.failure import cut_short
from anychip.record.steps import find_steps
from anychip.spec import Chip
from anychip.timeline.price import Timeline

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Network(Protocol):
    """What is asked of `network.Fabric`, whose answer is a `network.CollectiveCost`."""

    def cost(self, kind: str, nbytes: int, ranks: Sequence[int], dtype: str) -> CollectiveCost: ...
    def degraded(self, tier: str, share: float) -> "Network": ...
    @property
    def tiers(self) -> Sequence[Tier]: ...


@dataclass(frozen=True)
class Wait:
    """A collective that a rank was ready for before its partners were. position: on its tape; op: what it called;
    late: index of the recording whose rank came last."""

    position: int
    op: int
    ready_s: float
    start_s: float
    end_s: float
    late: int


@dataclass(frozen=True)
class RankTimeline:
    """One distinct rank's time. program: its recording, whose `members` it stands for. calls: what its collectives ask
    for, by op. waits: those that met other recordings, in order of their start."""

    timeline: Timeline
    members: tuple[int, ...]
    calls: dict[int, Collective]
    waits: tuple[Wait, ...]

    @property
    def program(self) -> Program:
        return self.timeline.program

    @property
    def rank(self) -> int:
        """The rank that ran, or the first of those that were split off from it."""
        return self.program.rank if self.program.rank in self.members else self.members[0]

    def is_wire(self) -> npt.NDArray[np.bool_]:
        """By op: is it a collective?"""
        found = np.zeros(len(self.program.ops), bool)
        found[list(self.calls)] = True
        return found


@dataclass(frozen=True)
class ClusterTimeline:
    """All distinct ranks of a job on one clock. steps: how many all ranks took of a job that a failure or the user ended; None:
    all that were recorded. warnings: what they do that no chip refuses, and that makes no sense. pace: how many times longer
    arithmetic takes than on a chip of mean speed."""

    ranks: tuple[RankTimeline, ...]
    chip: Chip
    num_chips: int
    steps: int | None = None
    warnings: tuple[str, ...] = ()
    pace: float = 1.0

    @property
    def total_s(self) -> float:
        return max(rank.timeline.total_s for rank in self.ranks)


@uncollected()
def simulate(program: Program, chip: Chip, fabric: Network, *, stragglers: Stragglers | None = None,
             node_chips: int = 8, part_of: int = 1, contention: bool = True) -> ClusterTimeline:  # fmt: skip
    """Run a job's recordings on chips joined by a fabric.

    stragglers: None: all ranks are alike. node_chips: how many ranks share a node, for stragglers. part_of: of
    how many chips the job is a part, where it is recorded on fewer (fewer stages of a pipeline). contention: collectives slow down kernels beside them.
    Raises Deadlock where ranks wait for one another for ever or call what does not fit, BadProgramFile for recordings
    that do not make up a job.
    """
    wanted = stragglers or Stragglers(spread=0.0)
    programs, origin, odd = _split(fuse_ranks(program), wanted, node_chips)
    programs, calls = with_sources(programs, [_calls(rank) for rank in programs])
    first = Prices(programs[0].ops, chip)
    prices = [first, *(first.like(rank.ops) for rank in programs[1:])]
    worn = _worn(fabric, wanted.degraded_link)
    coupled = max(_coupled(programs, calls), part_of) if wanted.spread else 1
    pace, of_node = wanted.pace(coupled), wanted.pace(min(coupled, node_chips))
    taken = [
        _price(
            rank, asked, priced, worn if unlike else fabric, *((wanted.slow_node, of_node) if unlike else (1.0, pace))
        )
        for rank, asked, priced, unlike in zip(programs, calls, prices, odd, strict=True)
    ]
    meetings = match(programs, calls, origin)
    every = wanted.jitter > 0
    together = [
        _together(rank, asked, worn if unlike else fabric)
        for rank, asked, unlike in zip(programs, calls, odd, strict=True)
    ]
    scripts = [Script.of(*parts, every) for parts in zip(programs, prices, calls, meetings, together, strict=True)]
    steps = _steps_of_all(program)
    ranks, warnings = _run(scripts, prices, None, wanted.jitter, steps)
    if contention:
        extra = [extra_s(rank.timeline, mine) for rank, mine in zip(ranks, taken, strict=True)]
        if any(one.any() for one in extra):
            by_position = [
                _by_position(script, rank.timeline, one)
                for script, rank, one in zip(scripts, ranks, extra, strict=True)
            ]
            ranks, _ = _run(scripts, prices, by_position, wanted.jitter, steps)
    return ClusterTimeline(tuple(ranks), chip, program.world_size, steps, warnings, pace)


def _coupled(programs: Sequence[Program], calls: Sequence[dict[int, Collective]]) -> int:
    """How many ranks wait for one another in their steps, directly or through others. Members of a class have groups of their own: where
    one lies in a grid as all do that are as far apart and as many, each rank has its line of it."""
    grids: set[tuple[int, int]] = set()
    others: list[Ints] = []
    for program, mine in zip(programs, calls, strict=True):
        for ranks in _met(program, mine):
            apart, size = ranks[1] - ranks[0], len(ranks)
            start = ranks[0] // max(apart * size, 1) * apart * size + ranks[0] % max(apart, 1)
            if apart > 0 and ranks == tuple(range(start, start + apart * size, apart)):
                grids.add((apart, size))
            else:
                others.append(np.array(ranks, np.int64))
    parts: list[Ints] = []
    for program in programs:
        if not any(program.rank in part for part in parts):
            parts.append(_reached(program.rank, program.world_size, grids, others))
    return max((part.size for part in parts), default=1)


def _met(program: Program, calls: dict[int, Collective]) -> set[tuple[int, ...]]:
    """The ranks of each group in which a rank calls something from its first step on; of what is sent the two."""
    steps = find_steps(program)
    inside = slice(steps[0].begin if steps else 0, None)
    launched = np.zeros(len(program.ops), bool)
    launched[program.payloads[inside][program.kinds[inside] == Kind.OP]] = True
    called = {*np.flatnonzero(launched).tolist()}
    found = {call.group for op, call in calls.items() if op in called and call.peer is None}
    pairs = {
        tuple(sorted((program.rank, call.peer))) for op, call in calls.items() if op in called and call.peer is not None
    }
    return {ranks for ranks in (*(program.groups[group].ranks for group in found), *pairs) if len(set(ranks)) > 1}


def _reached(rank: int, world: int, grids: Iterable[tuple[int, int]], others: Sequence[Ints]) -> Ints:
    """The ranks that a rank leads to by lines of grids and by other groups."""
    found = np.array([rank], np.int64)
    size = 0
    while size < found.size < world:
        size = found.size
        for apart, count in grids:
            starts = np.unique(found // (apart * count) * (apart * count) + found % apart)
            line = (starts[:, None] + np.arange(count) * apart).ravel()
            found = np.union1d(found, line[line < world])
        for group in others:
            if np.isin(group, found).any():
                found = np.union1d(found, group)
    return found


def _split(programs: list[Program], wanted: Stragglers, node_chips: int) -> tuple[list[Program], list[int], list[bool]]:
    """Recordings, which class each was split from, and whether it is of the odd node (the last one), whose ranks get a
    class of their own."""
    if not wanted.split:
        return programs, list(range(len(programs))), [False] * len(programs)
    world = programs[0].world_size
    first = (ceil(world / node_chips) - 1) * node_chips
    found: list[Program] = []
    origin: list[int] = []
    odd: list[bool] = []
    for number, program in enumerate(programs):
        for unlike in (False, True):
            members = tuple(rank for rank in program.members if (rank >= first) == unlike)
            if members:
                found.append(replace(program, members=members, others=[]))
                origin.append(number)
                odd.append(unlike)
    return found, origin, odd


def _calls(program: Program) -> dict[int, Collective]:
    found = {index: collective_of(op) for index, op in enumerate(program.ops) if op.name.startswith("c10d.")}
    return {index: call for index, call in found.items() if call is not None}


def _worn(fabric: Network, share: float) -> Network:
    """The fabric with the tiers outside of a node at a share of their rates; all tiers where none is outside."""
    if share == 1:
        return fabric
    outside = [tier.name for tier in fabric.tiers if tier.role == "scale_out"]
    for name in outside or [tier.name for tier in fabric.tiers]:
        fabric = fabric.degraded(name, share)
    return fabric


def _price(program: Program, calls: dict[int, Collective], prices: Prices, fabric: Network,
           slower: float, pace: float) -> Taken:  # fmt: skip
    """Write the network's times over those of the ops that are collectives; kernels take `slower` times as long, arithmetic
    `pace` times more. What collectives take of the chip meanwhile."""
    size, names = len(program.ops), [tier.name for tier in fabric.tiers]
    taken = Taken(
        np.zeros(size, bool),
        np.zeros(size),
        np.zeros(size),
        np.full(size, -1),
        np.zeros(size),
        np.zeros(size, bool),
        np.zeros(size, bool),
    )
    prices.body_s = prices.body_s * slower * np.where(prices.limit == LIMITS.index("compute"), pace, 1.0)
    for index, call in calls.items():
        ranks: Sequence[int] = program.groups[call.group].ranks
        if call.peer is not None:
            ranks = (program.rank, call.peer)
        cost = _cost(fabric, call, ranks, program.rank)
        prices.body_s[index], prices.floors_s[index] = cost.time_s, 0.0
        prices.kernels[index], prices.blocks[index] = 1, False
        prices.evidence[index], prices.limit[index] = EVIDENCE.index(cost.evidence), LIMITS.index("network")
        taken.wire[index] = True
        if call.host:  # it takes nothing of the chip
            continue
        taken.moved_bytes[index], taken.cores[index] = cost.memory_bytes, cost.cores
        taken.out[index], taken.into[index] = call.kind != "recv", call.kind != "send"
        if cost.carrying > 0:
            taken.tier[index], taken.carrying[index] = names.index(cost.tier), cost.carrying
    return taken


def _cost(fabric: Network, call: Collective, ranks: Sequence[int], rank: int) -> CollectiveCost:
    """An all-to-all in which each rank has one other to give to is so many messages at once, and over with the slowest. Any
    other takes this rank what an even one does of what it gives others, or gets of them."""
    place = ranks.index(rank) if call.sent and rank in ranks else None
    ahead = None if place is None else call.places_on(place)
    if ahead is None:
        nbytes = call.nbytes if place is None else call.travelling_bytes(place)
        return fabric.cost(call.kind, nbytes, ranks, call.dtype)
    pairs = zip(ranks, (*ranks[ahead:], *ranks[:ahead]), strict=True)
    slowest = max((fabric.cost("send", call.nbytes, pair, call.dtype) for pair in pairs), key=lambda cost: cost.time_s)
    return slowest._replace(memory_bytes=2 * slowest.memory_bytes)  # what comes is written, too


def _together(program: Program, calls: dict[int, Collective], fabric: Network) -> Callable[[tuple[int, ...]], float]:
    """For ops of one batch the time of its collectives over what they take one by one: those of one kind and group are
    one message, which pays its latency once."""

    @cache
    def share(ops: tuple[int, ...]) -> float:
        sizes: dict[tuple[str, int, str], list[int]] = {}
        for call in (calls[op] for op in ops):
            if call.kind not in POINT_TO_POINT:
                sizes.setdefault((call.kind, call.group, call.dtype), []).append(call.nbytes)
        apart = whole = 0.0
        for (kind, group, dtype), all_bytes in sizes.items():
            ranks = program.groups[group].ranks
            apart += sum(fabric.cost(kind, nbytes, ranks, dtype).time_s for nbytes in all_bytes)
            whole += fabric.cost(kind, sum(all_bytes), ranks, dtype).time_s
        return min(whole / apart, 1.0) if apart else 1.0

    return share


def _run(scripts: list[Script], prices: list[Prices], extra: list[Floats] | None, jitter: float,
         steps: int | None) -> tuple[list[RankTimeline], tuple[str, ...]]:  # fmt: skip
    """Advance every rank as far as it gets, until all have ended; with warnings. steps: as a ClusterTimeline's."""
    engines: list[RankEngine] = []

    def complain(one: Leg, first: int, other: Leg, second: int) -> None:
        complain_of(engines, one, first, other, second)

    board = Board(complain)
    for index, (script, priced) in enumerate(zip(scripts, prices, strict=True)):
        engines.append(RankEngine(index, script, priced, board, extra[index] if extra else None, jitter))
    _advance(engines, board)
    may_lack = steps is not None or cut_short(script.program for script in scripts)
    # Where the user stopped them, who had come to his end by then waits for others.
    stopped = any(script.program.meta.get("interrupted") for script in scripts)
    over = [engine.done or stopped or _has_done(engine, steps, may_lack) for engine in engines]
    if not all(
        one or (may_lack and _stands_by(engine, engines, board, over))
        for one, engine in zip(over, engines, strict=True)
    ):
        complain_of_waiting(engines, board)
    timelines = [_timeline(engine, priced) for engine, priced in zip(engines, prices, strict=True)]
    return timelines, tuple(unlike_text(engines, *pair) for pair in board.unlike.values())


def _advance(engines: list[RankEngine], board: Board) -> None:
    """Each rank in turn as far as it gets without the others. Only where none gets on does the host of one run ahead of
    its streams, by which it may come to what another waits for."""
    while sum(_moved(engine, engines, board, KNOWN) for engine in engines) or any(
        _moved(engine, engines, board, ahead) for ahead in (QUEUED, PAST) for engine in engines
    ):
        pass


def _moved(engine: RankEngine, engines: list[RankEngine], board: Board, ahead: int) -> bool:
    going = engine.advance(ahead)
    while board.settled:
        going = True
        launch = board.settled.popleft()
        engines[launch.index].settle(launch)
    return going


def _steps_of_all(program: Program) -> int | None:
    """As a ClusterTimeline's. What a rank did after another had failed it would have waited for in vain."""
    if not program.meta.get("interrupted") and not program.meta.get("exit_code"):
        return None
    return min((len(steps) for rank in program.ranks if (steps := find_steps(rank))), default=0)


def _has_done(engine: RankEngine, steps: int | None, may_lack: bool) -> bool:
    """Does a rank wait only for what others did after they were ended? Recordings stop when a rank has done its steps, each
    at its own place, or where another's failure stopped them. Of ranks that all came to their own end nothing is missing."""
    if not may_lack:
        return False
    found = find_steps(engine.script.program)[:steps]
    waiting = [int(engine.script.keep[leg.position]) for _, leg in engine.waiting()]
    return bool(found and waiting) and min(waiting) >= found[-1].end


def _stands_by(engine: RankEngine, engines: Sequence[RankEngine], board: Board, over: Sequence[bool]) -> bool:
    """Does a rank that takes no training steps wait only for ranks that do, and were ended when they had (an actor for its learner)?"""
    if any(step.kind == "train" for step in find_steps(engine.script.program)):
        return False
    late = {index for _, leg in engine.waiting() for index, _ in leg.meeting.at.parties - set(board.here(leg))}
    ended = [engines[index].script.program for index in late if over[index]]
    return len(ended) == len(late) > 0 and cut_short(ended)


def _by_position(script: Script, timeline: Timeline, extra: Floats) -> Floats:
    found = np.zeros(script.kinds.size)
    found[np.searchsorted(script.keep, timeline.position)] = extra
    return found


def _timeline(engine: RankEngine, prices: Prices) -> RankTimeline:
    """What an engine has noted, in the order of its tape."""
    script, stretches = engine.script, engine.stretches
    size = script.kinds.size
    start, duration, stream = np.full(size, np.nan), np.zeros(size), np.zeros(size, np.int64)
    began = np.full(len(engine.spans), np.nan)
    began[: len(engine.began_s)] = engine.began_s
    start[stretches.positions] = stretches.ends(began, np.array(engine.free_s)) - stretches.durations
    duration[stretches.positions] = stretches.durations
    stream[stretches.positions] = np.repeat(engine.streams, stretches.sizes)
    if engine.noted:
        noted, starts, durations, streams = zip(*engine.noted, strict=True)
        at = np.array(noted)
        start[at], duration[at], stream[at] = starts, durations, streams
    stream[script.aside] = script.in_turn
    at = np.flatnonzero(~np.isnan(start))
    position = script.keep[at]
    # Words that a rank did not come to, when it waited for others that were ended before, happen when all else is over.
    clock = stretches.host_clock(began)
    clock[script.edges] = began[1:]  # a stretch begins when the edge before it is done
    clock = np.concatenate(([0.0], np.nan_to_num(clock, nan=engine.host_s)))
    before = np.zeros(script.program.tape.size, np.int64)
    before[script.keep] = 1
    timeline = Timeline(script.program, prices.chip, position, script.program.payloads[position], start[at], duration[at],
                        stream[at], clock[np.cumsum(before)], prices)  # fmt: skip
    return RankTimeline(timeline, script.program.members, script.calls, _waits(engine.launches, script))


def _waits(launches: list[Launch], script: Script) -> tuple[Wait, ...]:
    found = [
        Wait(int(script.keep[leg.position]), leg.op, launch.ready_s, leg.start_s, leg.end_s, leg.late)
        for launch in launches
        for leg in launch.legs
        if leg.late >= 0
    ]
    return tuple(sorted(found, key=lambda wait: wait.start_s))
