"""`RankEngine`: one rank's recording on its own clock, as far as it can be told without the others.

The engine of one chip, with streams that can be held up: a collective whose partners have not arrived holds its stream,
and whatever is put on it, or on a stream that waits for an event of it, waits in a queue. A host that comes to such a stream
is not walked on, which saves the queue, until partners have arrived, or until nobody else gets on: then it runs `ahead`, as
it may issue what others wait for: as far as its launch queue holds (QUEUED), and only where that is not known yet of anybody, past
it (PAST). Short of that no time depends on the order in which ranks are advanced, nor on how far.
"""

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

from anychip.cluster.board import Board, Launch, Leg
from anychip.cluster.match import POINT_TO_POINT, Meeting
from anychip.cluster.script import Floats, Script, Stretches
from anychip.cluster.stragglers import lag
from anychip.cost.price import Prices
from anychip.record.tape import BATCH, HOST_STREAM, OP, READ, RECORD, STREAM, SYNC, SYNC_EVENT, WAIT
from anychip.timeline.engine import Engine
from anychip.timeline.queue import StretchQueue

NEVER = float("nan")
KNOWN, QUEUED, PAST = range(3)  # how far a host runs ahead


@dataclass(slots=True, eq=False)
class Moment:
    """When an event happens that is not known yet, and the streams that wait for it."""

    time_s: float | None = None
    streams: list[int] = field(default_factory=list)


class RankEngine(Engine):
    """Invariant: a stream is in `queues` exactly while what comes next on it is not known. heads: the launch that a
    stream is held up by.

    began_s, free_s, streams: of each stretch the host's clock when it begins, when its stream is free (NEVER while that is
    not known), which that is. noted: of every other launch its word, start, duration and stream.
    """

    def __init__(self, index: int, script: Script, prices: Prices, board: Board, extra_s: Floats | None,
                 jitter: float) -> None:  # fmt: skip
        super().__init__(prices.chip, [], script.program.block_bytes, fused=True)
        self.prices = prices
        self.index, self.script, self.board, self.jitter = index, script, board, jitter
        self.extra_s = extra_s
        self.stretches = Stretches(script, prices, extra_s)
        sums = self.stretches.host_s, self.stretches.duration_s, self.stretches.ready_s, self.stretches.sizes
        turns: list[tuple[StretchQueue, int, int] | None] = [None] * len(self.stretches.sizes)
        by_stream: defaultdict[int, StretchQueue] = defaultdict(lambda: StretchQueue(self.on.launch_queue))
        for number, turn in self.stretches.turns.items():
            turns[number] = by_stream[turn.stream], turn.before, turn.after
        self.spans = list(zip(*(one.tolist() for one in sums), turns, strict=True))
        self.edge = 0
        self.began_s: list[float] = []
        self.free_s, self.streams = [NEVER] * len(self.spans), [0] * len(self.spans)
        self.noted: list[tuple[int, float, float, int]] = []
        self.queues: dict[int, deque[tuple[Any, ...]]] = {}
        self.heads: dict[int, Launch] = {}
        self.moments: dict[int, Moment] = {}
        self.batch: list[tuple[int, int]] | None = None
        self.held: list[tuple[int, int, int]] = []
        self.launches: list[Launch] = []
        self.turns: dict[Meeting, int] = {}
        self.busy_s = 0.0
        self.synced: dict[int, tuple[float, ...]] = {}
        self.host_of, self.took_of = prices.host_s.tolist(), (prices.body_s + prices.floors_s).tolist()

    @property
    def done(self) -> bool:
        return len(self.began_s) == len(self.spans) and not self.queues

    def advance(self, ahead: int) -> bool:
        """Walk on until the host has to wait for what is not known yet, or to the end. ahead: KNOWN is no further than to a
        stream that is held up. True if it came past a word that couples clocks."""
        words, spans, began_s, queues = self.script.edge_words, self.spans, self.began_s, self.queues
        first = number = self.edge
        last, is_begun = len(words), len(began_s) > number
        while ahead or self.stream not in queues:
            if not is_begun:
                spent, duration, _, size, turn = spans[number]
                if turn is not None:
                    queue, before, after = turn
                    if ahead == QUEUED and not queue.is_known(before):
                        break
                    self.host_s = max(self.host_s, queue.free_s(before))
                began_s.append(self.host_s)
                self.host_s += spent
                if size:
                    self.busy_s += duration
                    if self.stream in queues:
                        queues[self.stream].append(("stretch", number))
                        if turn is not None:
                            queue.hold(after)
                    else:
                        self._put(number)
            is_begun = False
            if number == last:
                break
            kind, payload, position, switch = words[number]
            if switch is not None:
                self._switch(payload, *switch)
            elif not self._word(kind, payload, position):
                break
            number += 1
        self.edge = number
        return number > first

    def _put(self, number: int) -> None:
        """A stretch onto the current stream."""
        stream, ends = self.stream, self.ends
        _, duration, ready, _, turn = self.spans[number]
        self.free_s[number], self.streams[number] = ends[stream], stream
        ends[stream] = max(ends[stream] + duration, self.began_s[number] + ready)
        if turn is not None:
            turn[0].add(turn[2], ends[stream])

    def _queue(self) -> None:
        """Here it holds stretches; what is launched alone (a collective, an op that the host waits for) is not counted."""

    # Words that couple clocks ----------------------------------------------------------------------------------------------

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
        elif self._held_up(kind, payload):
            return False
        else:
            self._synchronise(kind, payload)
        return True

    def _switch(self, event: int, stream: int, other: int) -> None:
        """Record an event, go to another stream and wait there for one."""
        queues, ends = self.queues, self.ends
        if self.batch or self.stream in queues or stream in queues or other in self.moments:
            for kind, payload in zip((RECORD, STREAM, WAIT), (event, stream, other), strict=True):
                self._word(kind, payload, 0)
            return
        self.moments.pop(event, None)
        self.events[event] = max(ends[self.stream], self.host_s)
        self.stream = stream
        ends[stream] = max(ends.get(stream, 0.0), self.events.get(other, 0.0))

    def _held_up(self, kind: int, payload: int) -> bool:
        """Would the host wait for something that is not known yet?"""
        if kind == SYNC:
            return any(one < HOST_STREAM for one in self.queues) if payload == 0 else payload - 1 in self.queues
        if kind == READ:
            return self.stream in self.queues
        return kind == SYNC_EVENT and payload in self.moments

    def _op(self, op: int, position: int) -> bool:
        self.compiled = bool(self.script.compiled[position])
        if self.batch is not None and op in self.script.meetings:
            self.batch.append((position, op))
        elif op in self.script.met:
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
            queue.append(("op", position, duration, ready))
            return 0.0
        return self._put_op(position, duration, ready)

    def _put_op(self, position: int, duration: float, ready: float) -> float:
        self.ends[self.stream] = end = max(self.ends[self.stream] + duration, ready)
        self.noted.append((position, end - duration, duration, self.stream))
        return end

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
        eager = sum(self.host_of[op] for _, op in ops) - (len(ops) - 1) * self.on.host_launch_s
        self.host_s += self._host_cost(max(eager, 0.0), 1)[0]
        launch = Launch(self.index, self.stream, [self._leg(*one) for one in ops], self.host_s)
        if len(ops) > 1:
            share = self.script.together(tuple(op for _, op in ops))
            for leg in launch.legs:
                leg.time_s *= share if leg.call.kind not in POINT_TO_POINT else 1.0
        launch.legs[0].time_s += self._floor(0.0, 1)
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
        call = self.script.calls[op]
        program = self.script.program
        ranks = program.groups[call.group].ranks
        return Leg(position, op, call, program.rank, ranks, meeting, turn, self.took_of[op] + extra)

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
            self.noted.append((leg.position, leg.start_s, leg.end_s - leg.start_s, launch.stream))

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
            if item[0] == "stretch":
                self._put(item[1])
            elif item[0] == "op":
                self._put_op(*item[1:])
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
        """What holds this rank up: legs whose partners have not arrived, in the order of its tape."""
        found = [(launch, leg) for launch in self.heads.values() for leg in launch.legs if leg.late < 0]
        return sorted(found, key=lambda one: one[1].position)
