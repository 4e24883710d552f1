"""`Engine`: walks tape words and keeps the clocks of a host and of a chip's streams.

The host issues ops, each at its cost; a stream runs them in order, each when it was issued and the one before has ended:

    end[i] = max(end[i-1] + duration[i], ready[i]),    ready[i] = earliest end allowed by the host

which unrolls to end[i] = D[i] + max(ready[j] - D[j], j <= i) with D the running sum of durations: a stretch without
synchronisation is one cumsum and one maximum.accumulate. Words that couple host and streams cut the tape into such
stretches. The virtual device keeps its clock with this same engine, a few words at a time. Where a stream's queue is full the host
waits for room in it (`queue`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anychip.cost.kernels import fuse_words
from anychip.cost.price import Prices
from anychip.cost.regions import Regions, bytes_of, one_region
from anychip.record import Kind, Op
from anychip.record.tape import (
    COMPILED,
    GRAPH,
    HOST,
    HOST_STREAM,
    KIND_BITS,
    KIND_MASK,
    MARK,
    OP,
    READ,
    RECORD,
    STREAM,
    SYNC,
    SYNC_EVENT,
    WAIT,
    Mark,
    flags,
)
from anychip.spec import Chip
from anychip.timeline.queue import LaunchQueue

Words = npt.NDArray[np.int64]

COUPLING = (Kind.STREAM, Kind.RECORD, Kind.WAIT, Kind.SYNC, Kind.SYNC_EVENT, Kind.READ, Kind.COMPILED, Kind.GRAPH)
_CUTS = flags(COUPLING)
OPTIMIZER_END = int(Mark.OPTIMIZER_END)
SHORT = 24  # a stretch of fewer words is walked in Python: cheaper than a dozen numpy calls
PIECE = 8  # queues, of which at a time ops are placed in turns with the host


@dataclass
class Recorded:
    """What was launched, in chunks to be joined: position of the word, op, start, duration, stream; and the
    host's clock after every word."""

    chunks: list[tuple[Any, Any, Any, Any, Any]] = field(default_factory=list)
    host: list[Any] = field(default_factory=list)


class Burst(NamedTuple):
    """Ops in a row on one stream, whatever came before. host_s: what the host takes to issue them; duration_s: theirs one
    after the other; ready_s: from when the host begins until they end, on a stream that is free; after_s: of each launch what comes after it."""

    host_s: float
    duration_s: float
    ready_s: float
    after_s: npt.NDArray[np.float64]


class Engine:
    """Clocks in seconds since the start.

    States: the current stream; eager, or inside a captured graph (one launch paid, shorter gaps), or inside a
    compiled region (words are held back until it ends, then fused). ops and block_bytes may grow between calls of `run`.
    """

    def __init__(self, chip: Chip, ops: list[Op], block_bytes: Sequence[int] | npt.NDArray[np.int64] = (),
                 record: bool = False, fused: bool = False) -> None:  # fmt: skip
        self.prices = Prices(ops, chip)
        self.on = self.prices.on
        self.block_bytes = block_bytes
        self.host_s = 0.0
        self.stream = 0
        self.ends: dict[int, float] = {0: 0.0}
        self.events: dict[int, float] = {}
        self.launched: dict[int, LaunchQueue] = {}  # by stream
        self.in_graph = self.on.graph
        self.compiled = False
        self._held: list[int] = []
        self._fused: dict[bytes, tuple[Words, Prices, Burst | None]] = {}
        self._is_fused = fused  # compiled regions on the tape have been fused already
        self.recorded = Recorded() if record else None
        self.extra_s: npt.NDArray[np.float64] | None = None  # by position: what a launch takes beyond its op's price
        self._position = 0

    @property
    def ops(self) -> list[Op]:
        return self.prices.ops

    def event_time_s(self, event: int) -> float:
        """When an event has happened; one that was never recorded counts as done at the start."""
        return self.events.get(event, 0.0)

    def stream_end_s(self, stream: int | None = None) -> float:
        """When the work issued to a stream so far has ended (all streams of the chip: None)."""
        if stream is not None:
            return self.ends.get(stream, 0.0)
        return max(end for stream, end in self.ends.items() if stream < HOST_STREAM)

    def run(self, words: Words | Sequence[int]) -> None:
        """Walk words in order. Payloads must be inside their tables."""
        if len(self.prices.ops) != self.prices.size:
            self.prices.extend()
        if len(words) <= SHORT or self._held:
            self._walk(words if isinstance(words, list) else np.asarray(words).tolist(), 0)
        else:
            self._split(np.asarray(words, np.int64))
        self._position += len(words)

    def _split(self, array: Words) -> None:
        """Cut at words that couple clocks and at ops that the host waits for."""
        kinds, payloads = array & KIND_MASK, array >> KIND_BITS
        cuts = _CUTS[kinds]
        is_op = kinds == OP
        cuts[is_op] |= self.prices.blocks[payloads[is_op]]
        edges, ends = np.flatnonzero(cuts), np.flatnonzero(array == COMPILED)
        at = 0
        for edge in edges.tolist():
            if edge < at:
                continue
            self._stretch(array, kinds, payloads, at, edge)
            at = self._couple(array, kinds, edge, ends)
        self._stretch(array, kinds, payloads, at, array.size)

    def _couple(self, array: Words, kinds: Words, edge: int, ends: Words) -> int:
        """Do the coupling word; returns where to go on: after it, or after the region that it begins. ends: where regions end."""
        if kinds[edge] == COMPILED and array[edge] >> KIND_BITS and not self._is_fused:
            number = int(ends.searchsorted(edge))
            if number < ends.size:
                self._run_region(array[edge + 1 : int(ends[number])])
                return int(ends[number]) + 1
            self._held = array[edge:].tolist()
            return array.size
        self._walk([int(array[edge])], edge)
        return edge + 1

    # One word at a time ----------------------------------------------------------------------------------------------

    def _walk(self, words: list[int], offset: int) -> None:
        for index, word in enumerate(words):
            kind, payload = word & KIND_MASK, word >> KIND_BITS
            if self._held and kind != COMPILED:
                self._held.append(word)
            elif kind == OP:
                self._launch(payload, offset + index)
            elif kind == HOST:
                self.host_s += payload * 1e-9
            elif kind == COMPILED:
                self._region(word, payload)
            elif _CUTS[kind]:
                self._synchronise(kind, payload)
            elif kind == MARK and payload == OPTIMIZER_END and self.on.graph:
                # A whole step was compiled: its launch is all that the host does.
                self.host_s += self.on.host_replay_s
            if self.recorded is not None:
                self.recorded.host.append(self.host_s)

    def _launch(self, op: int, position: int) -> None:
        prices = self.prices
        kernels = int(prices.kernels[op])
        host, first = self._host_cost(float(prices.host_s[op]), kernels)
        duration = float(prices.body_s[op]) + self._floor(float(prices.floors_s[op]), kernels)
        if self.extra_s is not None:
            duration += float(self.extra_s[self._position + position])
        begun = self.host_s
        self.host_s += host
        if self.on.called:
            # The thread that calls an op runs it: it is done when the call returns.
            self.host_s = self._place(op, self._position + position, duration, self.host_s + duration)
            return
        queue = self._queue() if kernels else None
        if queue is not None:
            self.host_s = max(self.host_s, queue.free_s(kernels))
        ready = max(begun + first + duration, self.host_s + duration / max(kernels, 1)) if kernels else 0.0
        end = self._place(op, self._position + position, duration if kernels else 0.0, ready)
        if queue is not None:
            queue.add(end, kernels)
        if prices.blocks[op]:
            self._wait_for(self.stream, end)

    def _queue(self) -> LaunchQueue | None:
        """The current stream's; None where nothing is queued one by one, or nobody says how many a queue holds."""
        if self.in_graph or not self.on.launch_queue:
            return None
        if self.stream not in self.launched:
            self.launched[self.stream] = LaunchQueue(self.on.launch_queue)
        return self.launched[self.stream]

    def _wait_for(self, stream: int | None, end_s: float) -> None:
        """The host waits for all that was launched on a stream (all streams: None)."""
        self.host_s = max(self.host_s, end_s)
        for one in self.launched if stream is None else (stream,):
            if one in self.launched:
                self.launched[one].drained()

    def _place(self, op: int, position: int, duration: float, ready: float) -> float:
        """One op onto the current stream, to end at `ready` at the earliest; when it ends."""
        end = max(self.ends[self.stream] + duration, ready)
        self.ends[self.stream] = end
        if self.recorded is not None:
            self.recorded.chunks.append((position, op, end - duration, duration, self.stream))
        return end

    def _host_cost(self, eager_s: float, kernels: int) -> tuple[float, float]:
        """(seconds to issue the op, seconds until its first kernel is launched)."""
        if self.in_graph:
            return 0.0, 0.0
        if self.compiled:
            return kernels * self.on.host_launch_s, self.on.host_launch_s
        return eager_s, min(eager_s, self.on.host_op_s + self.on.host_launch_s)

    def _floor(self, floors_s: float, kernels: int) -> float:
        return kernels * self.on.graph_floor_s if self.in_graph and not self.on.graph else floors_s

    def _synchronise(self, kind: int, payload: int) -> None:
        if kind == STREAM:
            self.stream = payload
            self.ends.setdefault(payload, 0.0)
        elif kind == RECORD:
            self.events[payload] = max(self.ends[self.stream], self.host_s)
        elif kind == WAIT:
            self.ends[self.stream] = max(self.ends[self.stream], self.event_time_s(payload))
        elif kind == SYNC:
            stream = payload - 1 if payload else None
            self._wait_for(stream, self.stream_end_s(stream))
        elif kind == SYNC_EVENT:
            self.host_s = max(self.host_s, self.event_time_s(payload))
        elif kind == READ:
            self._wait_for(self.stream, self.ends[self.stream])
            self.host_s += self.on.host_read_s
        elif kind == GRAPH:
            self.in_graph = bool(payload) or self.on.graph
            self.host_s += self.on.host_replay_s if payload else 0.0

    def _region(self, word: int, payload: int) -> None:
        """A compiled region is held back until its end, then run as the kernels that a compiler makes of it."""
        if self._is_fused:
            self.compiled = bool(payload)
            return
        if payload:
            self._held = self._held or [word]
            return
        words, self._held = np.asarray(self._held[1:], np.int64), []
        self._run_region(words)

    def _run_region(self, inner: Words) -> None:
        """The words between a region's begin and its end."""
        form = one_region(inner)
        sizes = bytes_of(form.blocks, self.block_bytes)
        key = form.words.tobytes() + sizes.tobytes()
        if key not in self._fused:
            self._fused[key] = self._fuse(form.words, sizes)
        words, prices, burst = self._fused[key]
        queue = self._queue()
        if burst is not None and not self.in_graph and (queue is None or queue.fits(burst.after_s.size, self.host_s)):
            ready = self.host_s + burst.ready_s
            self.ends[self.stream] = end = max(self.ends[self.stream] + burst.duration_s, ready)
            self.host_s += burst.host_s
            if queue is not None:
                queue.add_all(end - burst.after_s)
            return
        outer, self.prices, self.compiled = self.prices, prices, True
        regions = Regions([form], np.zeros(1, np.int64), np.array([inner.size]), self.block_bytes)
        self._walk(regions.named(words, np.zeros(words.size, np.int64)).tolist(), 0)
        self.prices, self.compiled = outer, False

    def _fuse(self, region: Words, sizes: Words) -> tuple[Words, Prices, Burst | None]:
        """A region's fused words, prices of the few ops that these launch, numbered among themselves, and where it does nothing
        but launch them, that."""
        used: dict[int, int] = {}
        words = [
            word if word & KIND_MASK != OP
            else used.setdefault(word >> KIND_BITS, len(used)) << KIND_BITS | OP
            for word in region.tolist()
        ]  # fmt: skip
        fused, ops = fuse_words(words, [self.prices.ops[op] for op in used], sizes.tolist())
        prices, array = self.prices.like(ops), np.asarray(fused, np.int64)
        return array, prices, self._burst_of(array, prices)

    def _burst_of(self, words: Words, prices: Prices) -> Burst | None:
        """The ops of fused words; None where they couple clocks."""
        kinds = words & KIND_MASK
        ops = words[kinds == OP] >> KIND_BITS
        if self.on.called or _CUTS[kinds].any() or np.isin(kinds, (HOST, MARK)).any() or prices.blocks[ops].any():
            return None
        kernels = prices.kernels[ops]
        durations = np.where(kernels > 0, prices.body_s[ops] + prices.floors_s[ops], 0.0)
        host, first = kernels * self.on.host_launch_s, self.on.host_launch_s
        issued = np.cumsum(host)
        ready = np.maximum(issued - host + first + durations, issued + durations / np.maximum(kernels, 1))
        after = durations.sum() - np.cumsum(durations)
        last = float((ready + after).max(initial=-np.inf, where=kernels > 0))
        return Burst(float(host.sum()), float(durations.sum()), last, np.repeat(after, kernels))

    # Many words at a time ----------------------------------------------------------------------------------------------

    def _stretch(self, array: Words, kinds: Words, payloads: Words, at: int, stop: int) -> None:
        """Words at..stop, none of which couples clocks."""
        if stop - at <= SHORT:
            self._walk(array[at:stop].tolist(), at)
            return
        # A queue settles at least what it holds in each turn over all words: of a piece at a time the turns are few.
        piece = max(PIECE * self.on.launch_queue, PIECE * SHORT) if self.on.launch_queue else stop - at
        for begin in range(at, stop, piece):
            end = min(begin + piece, stop)
            clock = self._run_through(kinds[begin:end], payloads[begin:end], self._position + begin)
            if self.recorded is not None:
                self.recorded.host.append(clock)

    def _run_through(self, kinds: Words, payloads: Words, start: int) -> npt.NDArray[np.float64]:
        """Words that couple no clocks, the first at position `start`; the host's clock after each."""
        spent = np.zeros(kinds.size)
        positions = np.flatnonzero(kinds == OP)
        ops = payloads[positions]
        kernels, eager = self.prices.kernels[ops], self.prices.host_s[ops]
        host, first = self._host_costs(eager, kernels)
        spent[positions] = host
        if self.on.called:
            spent[positions] += self._durations(ops, kernels, positions + start)
        own = kinds == HOST
        spent[own] = payloads[own] * 1e-9
        if self.on.graph:
            spent[(kinds == MARK) & (payloads == OPTIMIZER_END)] = self.on.host_replay_s
        clock = self.host_s + np.cumsum(spent)
        if ops.size:
            clock = self._burst(ops, kernels, clock, host, first, positions, start)
        if clock.size:
            self.host_s = float(clock[-1])
        return clock

    def _host_costs(self, eager: Any, kernels: Any) -> tuple[Any, Any]:
        """As `_host_cost`, for arrays."""
        if self.in_graph:
            return np.zeros(eager.size), np.zeros(eager.size)
        if self.compiled:
            return kernels * self.on.host_launch_s, np.full(eager.size, self.on.host_launch_s)
        return eager, np.minimum(eager, self.on.host_op_s + self.on.host_launch_s)

    def _burst(
        self, ops: Words, kernels: Words, clock: Any, host: Any, first: Any, positions: Words, start: int
    ) -> Any:
        """Ops at these positions of a stretch, on the current stream; the host's clock over the stretch, which is the one given but for
        what it has to wait for room in the stream's queue."""
        durations, issued = self._durations(ops, kernels, positions + start), clock[positions]
        if self.on.called:
            self._place_all(ops, positions + start, durations, self._ends(durations, issued))
            return clock
        least, most = int(kernels.min()), int(kernels.max())
        after = durations  # it was issued, it ends at the earliest
        if not least == most == 1:
            after = np.maximum(first - host + durations, durations / np.maximum(kernels, 1))
            after[kernels == 0] = -np.inf
        ends, queue = self._ends(durations, issued + after), self._queue()
        if queue is not None:
            counts = kernels if not least == most == 1 else None
            if not queue.fits(ops.size if counts is None else int(counts.sum()), self.host_s):
                late, ends = self._in_turn(queue, counts, issued, durations, after, ends)
                clock = clock + (late if late.size == clock.size else _after_each(positions, late, clock.size))
            queue.add_all(ends if counts is None else np.repeat(ends, counts))
        self._place_all(ops, positions + start, durations, ends)
        return clock

    def _in_turn(self, queue: LaunchQueue, counts: Words | None, issued: Any, durations: Any, after: Any,
                 ends: Any) -> tuple[Any, Any]:  # fmt: skip
        """By how much each op is issued later than without a limit, and the ends of ops, where each launch waits for room in the queue."""
        while True:
            late = np.maximum.accumulate(queue.free_all_s(counts, ends) - issued)
            np.maximum(late, 0.0, out=late)
            ready = issued + late + after
            if (ready <= ends).all():  # the chip is as far behind
                return late, ends
            before, ends = ends, self._ends(durations, ready)
            if np.array_equal(ends, before):
                return late, ends

    def _durations(self, ops: Words, kernels: Words, positions: Words) -> Any:
        graph = self.in_graph and not self.on.graph
        floors = kernels * self.on.graph_floor_s if graph else self.prices.floors_s[ops]
        durations = self.prices.body_s[ops] + floors
        return durations if self.extra_s is None else durations + self.extra_s[positions]

    def _place_all(self, ops: Words, positions: Words, durations: Any, ends: Any) -> None:
        """As `_place`, for ops in a row."""
        self.ends[self.stream] = float(ends[-1])
        if self.recorded is not None:
            self.recorded.chunks.append((positions, ops, ends - durations, durations, self.stream))

    def _ends(self, durations: Any, ready: Any) -> Any:
        """When ops in a row on the current stream would end."""
        total = np.cumsum(durations)
        return total + np.maximum(self.ends[self.stream], np.maximum.accumulate(ready - total))


def _after_each(positions: Words, late: Any, size: int) -> Any:
    """For each word of a stretch how late the op before it, or it itself, was."""
    found = np.zeros(size)
    found[positions] = late
    return np.maximum.accumulate(found)
