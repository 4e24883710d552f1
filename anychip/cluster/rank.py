"""`RankEngine`: one rank's recording on its own clock, as far as it can be told without the others.

The engine of one chip, with streams that can be held up: a collective whose partners have not arrived holds its stream,
and whatever is put on it, or on a stream that waits for an event of it, waits in a queue; the host goes on issuing until
it needs such a stream itself. Then `advance` returns, and goes on once partners have arrived. Holding back is a matter
of the simulation only: no time depends on the order in which ranks are advanced.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from anychip.cluster.board import Board, Launch, Leg
from anychip.cluster.match import Meeting
from anychip.cluster.stragglers import lag
from anychip.cost.price import Prices
from anychip.network.collective import Collective
from anychip.record import Kind, Mark, Program
from anychip.record.tape import KIND_MASK
from anychip.timeline.engine import COUPLING, Engine

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TIMED = (Kind.OP, Kind.HOST, Kind.BATCH, Kind.MARK, *COUPLING)  # all other words take no time


@dataclass(slots=True, eq=False)
class Moment:
    """When an event happens that is not known yet, and the streams that wait for it."""

    time_s: float | None = None
    streams: list[int] = field(default_factory=list)


@dataclass
class Script:
    """A rank's tape without the words that take no time. keep: positions of its words on the tape. cuts: where clocks
    couple or ranks meet. Does not depend on times: shared by all simulations of a program on a chip."""

    program: Program
    calls: dict[int, Collective]
    meetings: dict[int, Meeting]
    keep: Ints
    words: Ints
    edges: list[int]

    @classmethod
    def of(cls, program: Program, prices: Prices, calls: dict[int, Collective], meetings: dict[int, Meeting],
           every: bool) -> "Script":  # fmt: skip
        """every: also collectives that need no other recording are told apart from other ops."""
        kinds, payloads = program.kinds, program.payloads
        wanted = np.zeros(KIND_MASK + 1, bool)
        wanted[list(TIMED)] = True
        mask = wanted[kinds]
        mask &= (kinds != Kind.MARK) | ((payloads == Mark.OPTIMIZER_END) & prices.on.graph)
        keep = np.flatnonzero(mask)
        kinds, payloads = kinds[keep], payloads[keep]
        cut = np.zeros(KIND_MASK + 1, bool)
        cut[[*COUPLING, Kind.BATCH]] = True
        cuts = cut[kinds]
        launched = np.flatnonzero(kinds == Kind.OP)
        of_op = prices.blocks.copy()
        meet = np.zeros(of_op.size, bool)
        for op, meeting in meetings.items():
            meet[op] = True
            of_op[op] |= is_cut(meeting, every)
        cuts[launched] |= of_op[payloads[launched]]
        batched = np.cumsum(np.where(kinds == Kind.BATCH, np.where(payloads > 0, 1, -1), 0))[launched] > 0
        cuts[launched] |= batched & meet[payloads[launched]]
        return cls(program, calls, meetings, keep, program.tape[keep], np.flatnonzero(cuts).tolist())


def is_cut(meeting: Meeting, every: bool) -> bool:
    """Does this collective need more than its price? A send and its receive meet even within one class (a ring)."""
    return every or meeting.at.joint or len(meeting.at.parties) > 1


class RankEngine(Engine):
    """Invariant: a stream is in `queues` exactly while its next item cannot be placed. heads: the launch that holds up
    a stream."""

    def __init__(self, index: int, script: Script, prices: Prices, board: Board, time_s: Floats, extra_s: Floats | None,
                 jitter: float) -> None:  # fmt: skip
        super().__init__(prices.chip, [], script.program.block_bytes, record=True, fused=True)
        self.prices = prices
        self.index, self.script, self.board, self.jitter = index, script, board, jitter
        self.extra_s, self.time_s = extra_s, time_s
        self.words = script.words
        self.word_kinds, self.word_payloads = self.words & KIND_MASK, self.words >> 5
        self.at = self.edge = 0
        self.queues: dict[int, deque[tuple[Any, ...]]] = {}
        self.heads: dict[int, Launch] = {}
        self.moments: dict[int, Moment] = {}
        self.batch: list[tuple[int, int]] | None = None
        self.held: list[tuple[int, Kind, int]] = []
        self.launches: list[Launch] = []
        self.busy_s = 0.0
        self.synced: dict[int, tuple[float, ...]] = {}

    @property
    def done(self) -> bool:
        return self.at >= self.words.size and not self.queues

    def advance(self) -> bool:
        """Walk on until the host has to wait for what is not known yet, or to the end. True if any word was walked."""
        began, edges, size = self.at, self.script.edges, self.words.size
        recorded = self.recorded
        assert recorded is not None
        while self.at < size:
            edge = edges[self.edge] if self.edge < len(edges) else size
            if edge > self.at:
                self._stretch(self.words, self.word_kinds, self.word_payloads, self.at, edge)
                self.at = edge
                continue
            if not self._edge(int(self.word_kinds[edge]), int(self.word_payloads[edge]), edge):
                break
            recorded.host.append(self.host_s)
            self.at += 1
            self.edge += 1
        return self.at > began

    def _edge(self, kind: int, payload: int, position: int) -> bool:
        """Do a word that couples clocks; False if it cannot be done yet."""
        if kind == Kind.OP:
            return self._op(payload, position)
        if kind == Kind.RECORD or kind == Kind.WAIT:
            if self.batch:
                self.held.append((self.stream, Kind(kind), payload))
            else:
                self._event(kind, payload)
        elif kind == Kind.BATCH:
            self._batch(payload)
        elif kind == Kind.COMPILED:
            self.compiled = bool(payload)
        elif self._held_up(kind, payload):
            return False
        else:
            self._synchronise(kind, payload)
        return True

    def _held_up(self, kind: int, payload: int) -> bool:
        """Would the host wait for something that is not known yet?"""
        if kind == Kind.SYNC:
            return bool(self.queues) if payload == 0 else payload - 1 in self.queues
        if kind == Kind.READ:
            return self.stream in self.queues
        return kind == Kind.SYNC_EVENT and payload in self.moments

    def _op(self, op: int, position: int) -> bool:
        meeting = self.script.meetings.get(op)
        if meeting is not None and self.batch is not None:
            self.batch.append((position, op))
        elif meeting is not None and is_cut(meeting, self.jitter > 0):
            self._issue([(position, op)])
        elif self.prices.blocks[op] and self.stream in self.queues:
            return False
        else:
            self._launch(op, position)
        return True

    # Events ------------------------------------------------------------------------------------------------------------

    def _event(self, kind: int, event: int) -> None:
        if kind == Kind.RECORD:
            if self.stream not in self.queues:
                self.moments.pop(event, None)
                self.events[event] = max(self.ends[self.stream], self.host_s)
                return
            moment = self.moments[event] = Moment()
            self.queues[self.stream].append(("record", moment, event, self.host_s))
        else:
            self._wait(self.moments.get(event) or self.event_time_s(event))

    def _wait(self, event: Moment | float) -> None:
        """The current stream waits for an event."""
        if isinstance(event, Moment) and event.time_s is not None:
            event = event.time_s
        if self.stream in self.queues:
            self.queues[self.stream].append(("wait", event))
        elif isinstance(event, Moment):
            self.queues[self.stream] = deque([("wait", event)])
            event.streams.append(self.stream)
        else:
            self.ends[self.stream] = max(self.ends[self.stream], event)

    # Ops: placed at once, or queued behind what holds their stream up ---------------------------------------------------

    def _place(self, op: int, position: int, duration: float, ready: float) -> float:
        self.busy_s += duration
        if self.stream in self.queues:
            self.queues[self.stream].append(("op", op, position, duration, ready))
            return 0.0
        return super()._place(op, position, duration, ready)

    def _place_all(self, ops: Ints, positions: Ints, durations: Any, ready: Any) -> None:
        self.busy_s += float(durations.sum())
        if self.stream in self.queues:
            self.queues[self.stream].append(("ops", ops, positions, durations, ready))
            return
        super()._place_all(ops, positions, durations, ready)

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
            self._event(kind, event)
        self.held, self.stream = [], current

    def _issue(self, ops: list[tuple[int, int]]) -> None:
        """Collectives that the host launches as one, on the current stream."""
        eager = float(sum(self.prices.host_s[op] for _, op in ops)) - (len(ops) - 1) * self.on.host_launch_s
        self.host_s += self._host_cost(max(eager, 0.0), 1)[0]
        legs = [Leg(position, op, self.script.calls[op], self.script.meetings[op], float(self.time_s[op]))
                for position, op in ops]  # fmt: skip
        launch = Launch(self.index, self.stream, legs, self.host_s)
        if self.jitter:
            self._lag(launch)
        self.launches.append(launch)
        if self.stream in self.queues:
            self.queues[self.stream].append(("launch", launch))
        else:
            self._arrive(launch)

    def _lag(self, launch: Launch) -> None:
        """By how much the slowest of the ranks that meet is later than this one; see `stragglers`."""
        for leg in launch.legs:
            self.synced, leg.lag_s = lag(self.jitter, self.synced, leg.meeting.at, self.busy_s)

    def _arrive(self, launch: Launch) -> None:
        launch.ready_s = max(self.ends[launch.stream], launch.issued_s)
        if self.board.arrive(launch):
            self._finish(launch)
        else:
            self.heads[launch.stream] = launch
            self.queues.setdefault(launch.stream, deque())

    def _finish(self, launch: Launch) -> None:
        assert self.recorded is not None
        self.ends[launch.stream] = end = max(self.ends[launch.stream], launch.end_s)
        max(launch.legs, key=lambda leg: leg.end_s).end_s = end
        for leg in launch.legs:
            self.recorded.chunks.append((leg.position, leg.op, leg.start_s, leg.end_s - leg.start_s, launch.stream))

    def settle(self, launch: Launch) -> None:
        """All partners of a launch that held up its stream have arrived: place what waited behind it."""
        assert self.heads.pop(launch.stream) is launch
        self._finish(launch)
        current = self.stream
        woken = [launch.stream]
        while woken:
            self.stream = woken.pop()
            self._drain(woken)
        self.stream = current

    def _drain(self, woken: list[int]) -> None:
        """Place the current stream's queue until something holds it up again."""
        queue = self.queues.pop(self.stream)
        while queue:
            item = queue.popleft()
            if item[0] == "op":
                super()._place(*item[1:])
            elif item[0] == "ops":
                super()._place_all(*item[1:])
            elif item[0] == "wait":
                self._wait(item[1])
            elif item[0] == "launch":
                self._arrive(item[1])
            else:
                woken += self._happen(*item[1:])
            if self.stream in self.queues:
                self.queues[self.stream].extend(queue)
                return

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
