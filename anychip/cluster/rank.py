"""`RankEngine`: one rank's recording on its own clock, as far as it can be told without the others.

The engine of one chip, with streams that can be held up: a collective whose partners have not arrived holds its stream,
and whatever is put on it, or on a stream that waits for an event of it, waits in a queue; the host goes on issuing until
it needs such a stream itself. Then `advance` returns, and goes on once partners have arrived. Holding back is a matter
of the simulation only: no time depends on the order in which ranks are advanced.
"""

from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from anychip.cluster.board import Board, Launch, Leg
from anychip.cluster.match import POINT_TO_POINT, Meeting
from anychip.cluster.stragglers import lag
from anychip.cost.price import Prices
from anychip.network import Collective
from anychip.record import Kind, Mark, Program
from anychip.record.tape import (
    BATCH,
    COMPILED,
    HOST,
    KIND_BITS,
    KIND_MASK,
    OP,
    READ,
    RECORD,
    STREAM,
    SYNC,
    SYNC_EVENT,
    WAIT,
)
from anychip.timeline.engine import COUPLING, Engine

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TIMED = (Kind.OP, Kind.HOST, Kind.BATCH, Kind.MARK, *COUPLING)  # all other words take no time
SWITCH = [RECORD, STREAM, WAIT]
FEW = 64  # a stretch of so many words is walked in Python: cheaper than two dozen numpy calls


@dataclass(slots=True, eq=False)
class Moment:
    """When an event happens that is not known yet, and the streams that wait for it."""

    time_s: float | None = None
    streams: list[int] = field(default_factory=list)


def is_cut(meeting: Meeting, every: bool) -> bool:
    """Does this collective need more than its price? A send and its receive meet even within one class (a ring)."""
    return every or meeting.at.joint or len(meeting.at.parties) > 1


@dataclass
class Script:
    """A rank's tape without the words that take no time. keep: positions of its words on the tape. kinds, payloads: of
    its words. edges: where clocks couple or ranks meet. together: for the ops of a batch, the time of its collectives over
    what they take one by one. Does not depend on times: shared by the simulations of a job."""

    program: Program
    calls: dict[int, Collective]
    meetings: dict[int, Meeting]
    keep: Ints
    words: Ints
    kinds: list[int]
    payloads: list[int]
    edges: list[int]
    together: Callable[[tuple[int, ...]], float]

    @classmethod
    def of(cls, program: Program, prices: Prices, calls: dict[int, Collective], meetings: dict[int, Meeting],
           together: Callable[[tuple[int, ...]], float], every: bool) -> "Script":  # fmt: skip
        """every: also collectives that need no other recording are told apart from other ops."""
        kinds, payloads = program.kinds, program.payloads
        mask = _flags(TIMED)[kinds]
        mask &= (kinds != Kind.MARK) | ((payloads == Mark.OPTIMIZER_END) & prices.on.graph)
        keep = np.flatnonzero(mask)
        kinds, payloads = kinds[keep], payloads[keep]
        cuts = _flags((*COUPLING, Kind.BATCH))[kinds]
        launched = np.flatnonzero(kinds == Kind.OP)
        of_op = prices.blocks | prices.on.called
        meet = np.zeros(of_op.size, bool)
        for op, meeting in meetings.items():
            meet[op] = True
            of_op[op] |= is_cut(meeting, every)
        cuts[launched] |= of_op[payloads[launched]]
        batched = np.cumsum(np.where(kinds == Kind.BATCH, np.where(payloads > 0, 1, -1), 0))[launched] > 0
        cuts[launched] |= batched & meet[payloads[launched]]
        return cls(program, calls, meetings, keep, program.tape[keep], kinds.tolist(), payloads.tolist(),
                   np.flatnonzero(cuts).tolist(), together)  # fmt: skip


def _flags(kinds: tuple[Kind, ...]) -> npt.NDArray[np.bool_]:
    found = np.zeros(KIND_MASK + 1, bool)
    found[list(kinds)] = True
    return found


class Notes:
    """What was launched, in the order in which it became known: columns of positions in the script, starts and durations;
    streams as (how many in a row, stream)."""

    def __init__(self) -> None:
        self.position, self.start_s, self.duration_s = array("q"), array("d"), array("d")
        self.streams: list[tuple[int, int]] = []

    def add(self, position: int, start_s: float, duration_s: float, stream: int) -> None:
        self.position.append(position)
        self.start_s.append(start_s)
        self.duration_s.append(duration_s)
        self.streams.append((1, stream))

    def add_all(self, positions: Ints, starts: Floats, durations: Floats, stream: int) -> None:
        self.position.frombytes(np.ascontiguousarray(positions, np.int64).tobytes())
        self.start_s.frombytes(starts.tobytes())
        self.duration_s.frombytes(durations.tobytes())
        self.streams.append((positions.size, stream))

    def place(self, ops: "list[Issued]", end_s: float, stream: int) -> float:
        """Ops in a row on a stream whose work so far ends at `end_s`; when they end."""
        at, start, took = self.position.append, self.start_s.append, self.duration_s.append
        for position, duration, ready in ops:
            end_s += duration
            if ready > end_s:
                end_s = ready
            at(position)
            start(end_s - duration)
            took(duration)
        self.streams.append((len(ops), stream))
        return end_s


Issued = tuple[
    int, float, float
]  # position of an op in the script, its duration, the earliest time at which it can end


class RankEngine(Engine):
    """Invariant: a stream is in `queues` exactly while what comes next on it is not known. heads: the launch that a
    stream is held up by. clock_s: the host's clock after each word of the script."""

    def __init__(self, index: int, script: Script, prices: Prices, board: Board, extra_s: Floats | None,
                 jitter: float) -> None:  # fmt: skip
        super().__init__(prices.chip, [], script.program.block_bytes, fused=True)
        self.prices = prices
        self.index, self.script, self.board, self.jitter = index, script, board, jitter
        self.extra_s = extra_s
        self.at = self.edge = 0
        self.notes = Notes()
        self.clock_s = array("d")
        self.queues: dict[int, deque[tuple[Any, ...]]] = {}
        self.heads: dict[int, Launch] = {}
        self.moments: dict[int, Moment] = {}
        self.batch: list[tuple[int, int]] | None = None
        self.held: list[tuple[int, int, int]] = []
        self.launches: list[Launch] = []
        self.turns: dict[Meeting, int] = {}
        self.busy_s = 0.0
        self.synced: dict[int, tuple[float, ...]] = {}
        self.of_op = self._lists()
        self.compiled = True
        self.of_compiled_op = self._lists()
        self.compiled = False

    def _lists(self) -> list[tuple[float, float, float, int]]:
        """By op, for `_few`: what a launch costs the host, until its first kernel starts, and takes on the chip; as things
        stand, in a compiled region or not."""
        prices = self.prices
        host, first = self._host_costs(prices.host_s, prices.kernels)
        took = prices.body_s + prices.floors_s
        return list(zip(host.tolist(), first.tolist(), took.tolist(), prices.kernels.tolist(), strict=True))

    @property
    def done(self) -> bool:
        return self.at >= self.script.words.size and not self.queues

    def advance(self) -> bool:
        """Walk on until the host has to wait for what is not known yet, or to the end. True if any word was walked."""
        kinds, payloads, edges, clock = self.script.kinds, self.script.payloads, self.script.edges, self.clock_s
        at, number, size = self.at, self.edge, len(kinds)
        while at < size:
            edge = edges[number] if number < len(edges) else size
            if edge > at:
                self._plain(at, edge)
                at = edge
                continue
            if kinds[at : at + 3] == SWITCH and self._switch(*payloads[at : at + 3]):
                clock.extend((self.host_s,) * 3)
                at += 3
                number += 3
                continue
            if not self._word(kinds[at], payloads[at], at):
                break
            clock.append(self.host_s)
            at += 1
            number += 1
        moved = at > self.at
        self.at, self.edge = at, number
        return moved

    # Words that couple nothing -------------------------------------------------------------------------------------------

    def _plain(self, at: int, stop: int) -> None:
        """Words at..stop, none of which couples clocks."""
        is_plain = not self.on.called and (self.on.graph or not self.in_graph)
        if is_plain and stop - at <= FEW:
            self._few(at, stop)
            return
        words = self.script.words[at:stop]
        self.clock_s.frombytes(self._run_through(words & KIND_MASK, words >> KIND_BITS, at).tobytes())

    def _few(self, at: int, stop: int) -> None:
        """The same word by word, on lists."""
        kinds, payloads, of_op, clock, extra = (
            self.script.kinds,
            self.script.payloads,
            self.of_compiled_op if self.compiled else self.of_op,
            self.clock_s,
            self.extra_s,
        )
        host, stream = self.host_s, self.stream
        busy = 0.0
        issued: list[Issued] = []
        for position in range(at, stop):
            kind = kinds[position]
            if kind == OP:
                cost, first, duration, kernels = of_op[payloads[position]]
                if extra is not None:
                    duration += extra[position]
                begun = host + first
                host += cost
                if kernels:
                    last = host + duration / kernels
                    begun += duration
                    issued.append((position, duration, begun if begun > last else last))
                    busy += duration
                else:
                    issued.append((position, duration, 0.0))
            elif kind == HOST:
                host += payloads[position] * 1e-9
            else:  # an optimizer has stepped on a chip that compiles whole steps
                host += self.on.host_replay_s
            clock.append(host)
        self.host_s = host
        self.busy_s += busy
        queue = self.queues.get(stream)
        if queue is not None:
            queue.append(("few", issued))
        else:
            self.ends[stream] = self.notes.place(issued, self.ends[stream], stream)

    # Words that do -------------------------------------------------------------------------------------------------------

    def _word(self, kind: int, payload: int, position: int) -> bool:
        """Do a word that couples clocks; False if it cannot be done yet."""
        if kind == STREAM:
            self.stream = payload
            self.ends.setdefault(payload, 0.0)
        elif kind in (RECORD, WAIT):
            if self.batch:
                self.held.append((self.stream, kind, payload))
            elif kind == RECORD:
                self._record(payload)
            else:
                self._wait(payload)
        elif kind == OP:
            return self._op(payload, position)
        elif kind == BATCH:
            self._batch(payload)
        elif kind == COMPILED:
            self.compiled = bool(payload)
        elif self._held_up(kind, payload):
            return False
        else:
            self._synchronise(kind, payload)
        return True

    def _switch(self, event: int, stream: int, other: int) -> bool:
        """Record an event, go to another stream and wait there for one, as happens around each collective; False where a
        stream is held up or a batch is open: then word by word."""
        queues, ends = self.queues, self.ends
        if self.batch or self.stream in queues or stream in queues or other in self.moments:
            return False
        self.moments.pop(event, None)
        self.events[event] = max(ends[self.stream], self.host_s)
        self.stream = stream
        ends[stream] = max(ends.get(stream, 0.0), self.events.get(other, 0.0))
        return True

    def _held_up(self, kind: int, payload: int) -> bool:
        """Would the host wait for something that is not known yet?"""
        if kind == SYNC:
            return bool(self.queues) if payload == 0 else payload - 1 in self.queues
        if kind == READ:
            return self.stream in self.queues
        return kind == SYNC_EVENT and payload in self.moments

    def _op(self, op: int, position: int) -> bool:
        meeting = self.script.meetings.get(op)
        if meeting is not None and self.batch is not None:
            self.batch.append((position, op))
        elif meeting is not None and is_cut(meeting, self.jitter > 0):
            self._issue([(position, op)])
        elif (self.prices.blocks[op] or self.on.called) and self.stream in self.queues:
            return False
        else:
            self._launch(op, position)
        return True

    def _record(self, event: int) -> None:
        queue = self.queues.get(self.stream)
        if queue is None:
            self.moments.pop(event, None)
            self.events[event] = max(self.ends[self.stream], self.host_s)
        else:
            moment = self.moments[event] = Moment()
            queue.append(("record", moment, event, self.host_s))

    def _wait(self, event: int) -> None:
        moment, queue = self.moments.get(event), self.queues.get(self.stream)
        if queue is not None:
            queue.append(("wait", moment, self.event_time_s(event)))
        elif moment is not None:
            self.queues[self.stream] = deque([("wait", moment, 0.0)])
            moment.streams.append(self.stream)
        else:
            self.ends[self.stream] = max(self.ends[self.stream], self.event_time_s(event))

    # Ops: placed at once, or queued behind what holds their stream up ---------------------------------------------------

    def _place(self, op: int, position: int, duration: float, ready: float) -> float:
        self.busy_s += duration
        queue = self.queues.get(self.stream)
        if queue is not None:
            queue.append(("few", [(position, duration, ready)]))
            return 0.0
        self.ends[self.stream] = end = self.notes.place(
            [(position, duration, ready)], self.ends[self.stream], self.stream
        )
        return end

    def _place_all(self, ops: Ints, positions: Ints, durations: Any, ready: Any) -> None:
        self.busy_s += float(durations.sum())
        queue = self.queues.get(self.stream)
        if queue is not None:
            queue.append(("ops", positions, durations, ready))
        else:
            self._put_all(positions, durations, ready)

    def _put_all(self, positions: Ints, durations: Floats, ready: Floats) -> None:
        ends = self._ends(durations, ready)
        self.notes.add_all(positions, ends - durations, durations, self.stream)

    # Collectives ---------------------------------------------------------------------------------------------------------

    def _batch(self, begins: int) -> None:
        if begins:
            self.batch = []
            return
        ops, self.batch = self.batch, None
        if ops:
            self._issue(ops)
        current = self.stream
        for stream, kind, event in self.held:
            self.stream = stream
            self._record(event) if kind == RECORD else self._wait(event)
        self.held, self.stream = [], current

    def _issue(self, ops: list[tuple[int, int]]) -> None:
        """Collectives that the host launches as one, on the current stream."""
        eager = sum(self.of_op[op][0] for _, op in ops) - (len(ops) - 1) * self.on.host_launch_s
        self.host_s += self._host_cost(max(eager, 0.0), 1)[0]
        launch = Launch(self.index, self.stream, [self._leg(*one) for one in ops], self.host_s)
        if len(ops) > 1:
            share = self.script.together(tuple(op for _, op in ops))
            for leg in launch.legs:
                leg.time_s *= share if leg.call.kind not in POINT_TO_POINT else 1.0
        if self.jitter:
            self._lag(launch)
        self.launches.append(launch)
        queue = self.queues.get(self.stream)
        if queue is not None:
            queue.append(("launch", launch))
        elif not self._arrive(launch):
            self.queues[self.stream] = deque()

    def _leg(self, position: int, op: int) -> Leg:
        meeting = self.script.meetings[op]
        turn = self.turns[meeting] = self.turns.get(meeting, -1) + 1
        extra = float(self.extra_s[position]) if self.extra_s is not None else 0.0
        return Leg(position, op, self.script.calls[op], meeting, turn, self.of_op[op][2] + extra)

    def _lag(self, launch: Launch) -> None:
        """By how much the slowest of the ranks that meet is later than this one; see `stragglers`."""
        for leg in launch.legs:
            self.synced, leg.lag_s = lag(self.jitter, self.synced, leg.meeting.at, self.busy_s)

    def _arrive(self, launch: Launch) -> bool:
        """A launch has come to the head of its stream; False if it holds the stream up."""
        launch.ready_s = max(self.ends[launch.stream], launch.issued_s)
        if not self.board.arrive(launch):
            self.heads[launch.stream] = launch
            return False
        self._finish(launch)
        return True

    def _finish(self, launch: Launch) -> None:
        self.ends[launch.stream] = end = max(self.ends[launch.stream], launch.end_s)
        max(launch.legs, key=lambda leg: leg.end_s).end_s = end
        for leg in launch.legs:
            self.notes.add(leg.position, leg.start_s, leg.end_s - leg.start_s, launch.stream)

    def settle(self, launch: Launch) -> None:
        """All partners of a launch that held up its stream have arrived: place what waited behind it."""
        assert self.heads.pop(launch.stream) is launch
        self._finish(launch)
        current = self.stream
        woken = [launch.stream]
        while woken:
            self.stream = woken.pop()
            self._drain(self.queues[self.stream], woken)
        self.stream = current

    def _drain(self, queue: deque[tuple[Any, ...]], woken: list[int]) -> None:
        """Place the current stream's queue until something holds it up again."""
        stream = self.stream
        while queue:
            item = queue[0]
            if item[0] == "few":
                self.ends[stream] = self.notes.place(item[1], self.ends[stream], stream)
            elif item[0] == "ops":
                self._put_all(*item[1:])
            elif item[0] == "record":
                woken += self._happen(*item[1:])
            elif item[0] == "launch":
                if not self._arrive(item[1]):
                    queue.popleft()
                    return
            else:
                _, moment, time_s = item
                if moment is not None and moment.time_s is None:
                    moment.streams.append(stream)
                    return
                self.ends[stream] = max(self.ends[stream], moment.time_s if moment is not None else time_s)
            queue.popleft()
        del self.queues[stream]

    def _happen(self, moment: Moment, event: int, issued_s: float) -> list[int]:
        """An event's moment has come; the streams that waited for it."""
        moment.time_s = max(self.ends[self.stream], issued_s)
        if self.moments.get(event) is moment:
            del self.moments[event]
            self.events[event] = moment.time_s
        return moment.streams

    def waiting(self) -> list[tuple[Launch, Leg]]:
        """What holds this rank up: legs whose partners have not arrived."""
        return [(launch, leg) for launch in self.heads.values() for leg in launch.legs if leg.late < 0]
