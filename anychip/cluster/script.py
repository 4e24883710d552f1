"""A rank's recording made ready for the engine: what couples clocks one by one, all between as stretches summed up.

In a stretch the host issues op after op on one stream, and nothing waits. With D the running sum of durations and ready[j]
the earliest end of an op that the host allows (`timeline.engine`), counted from where the host begins,

    end[i] = D[i] + max(stream's end before, host's clock before + max(ready[j] - D[j], j <= i)),

so that a stretch is three numbers while ranks are advanced, whatever its length, and its ops get their times afterwards. An op on
a stream that its own stream always waits for at once (a collective of tensor parallelism) is one of the row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anychip.cluster.match import Meeting
from anychip.cost.price import Prices
from anychip.network import Collective
from anychip.record import Kind, Mark, Program
from anychip.record.tape import flags, order_of
from anychip.timeline.engine import COUPLING
from anychip.timeline.queue import Turn, grain_of, turns_of

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

SWITCH = (Kind.RECORD, Kind.STREAM, Kind.WAIT)
EDGES = {*COUPLING, Kind.BATCH} - {Kind.COMPILED}  # of fused regions; whether it is in one each word tells
TIMED = (Kind.OP, Kind.HOST, Kind.BATCH, Kind.MARK, *COUPLING)  # all other words take no time


@dataclass
class Script:
    """A rank's tape without the words that take no time. Does not depend on times: shared by the simulations of a job.

    keep: positions of its words on the tape. kinds, payloads: of its words; compiled: whether each is in a compiled region.
    edges: those where clocks couple or ranks meet, of which an event recorded, another stream taken and one waited for in a
    row, as around each collective, are one, its switch; edge_words: of each its kind, its payload and its position, and of a
    switch the payloads of the two that follow. aside: ops of a stretch that run on a stream of their own, in_turn: which. met: ops that are collectives which need more than their price: a send and
    its receive meet even within one class (a ring).
    together: for the ops of a batch, the time of its collectives over what they take one by one. turns: of its stretches, as
    `timeline.queue` has them; None until they are made.
    """

    program: Program
    calls: dict[int, Collective]
    meetings: dict[int, Meeting]
    keep: Ints
    kinds: Ints
    payloads: Ints
    compiled: Flags
    edges: Ints
    edge_words: list[tuple[int, int, int, tuple[int, int] | None]]
    aside: Ints
    in_turn: Ints
    met: frozenset[int]
    together: Callable[[tuple[int, ...]], float]
    turns: dict[int, Turn] | None = None

    @classmethod
    def of(cls, program: Program, prices: Prices, calls: dict[int, Collective], meetings: dict[int, Meeting],
           together: Callable[[tuple[int, ...]], float], every: bool) -> "Script":  # fmt: skip
        """every: also collectives that need no other recording are told apart from other ops. So they are where the thread
        that calls an op runs it, which it does not do for those."""
        kinds, payloads = program.kinds, program.payloads
        mask = flags(TIMED)[kinds]
        mask &= (kinds != Kind.MARK) | ((payloads == Mark.OPTIMIZER_END) & prices.on.graph)
        mask[_unheard(kinds, payloads)] = False
        keep = np.flatnonzero(mask)
        kinds, payloads = kinds[keep], payloads[keep]
        cuts = flags(EDGES)[kinds]
        launched = np.flatnonzero(kinds == Kind.OP)
        of_op = prices.blocks | prices.on.called
        every = every or prices.on.called
        met = [op for op, one in meetings.items() if every or one.at.joint or len(one.at.parties) > 1]
        of_op[met] = True
        meet = np.zeros(of_op.size, bool)
        meet[list(meetings)] = True
        cuts[launched] |= of_op[payloads[launched]]
        batched = np.cumsum(np.where(kinds == Kind.BATCH, np.where(payloads > 0, 1, -1), 0))[launched] > 0
        cuts[launched] |= batched & meet[payloads[launched]]
        switches = _switches(kinds)
        alone = np.zeros(kinds.size, bool)
        alone[launched] = ~cuts[launched] & ~batched & (prices.kernels[payloads[launched]] > 0)
        aside, in_turn = _in_turn(kinds, payloads, switches, alone)
        for place in range(7):  # two switches and the op between them
            cuts[aside - 3 + place] = False
        grain = grain_of(prices.on.launch_queue)
        if prices.on.launch_queue and np.diff(np.flatnonzero(cuts), prepend=0, append=cuts.size).max(initial=0) > grain:
            stretch = np.cumsum(cuts, dtype=np.int64)[launched]
            launches = np.where(_state(kinds, payloads, Kind.GRAPH)[launched], 0, prices.kernels[payloads[launched]])
            launches[np.searchsorted(launched, aside)] = 0  # in a queue of its own
            cuts[launched[_full(stretch, launches, grain)]] = True
        switches = switches[cuts[switches]]
        cuts[switches + 1] = cuts[switches + 2] = False
        edges = np.flatnonzero(cuts)
        return cls(program, calls, meetings, keep, kinds, payloads, _state(kinds, payloads, Kind.COMPILED), edges,
                   _edge_words(kinds, payloads, edges, switches), aside, in_turn, frozenset(met), together)  # fmt: skip


def _full(stretch: Ints, launches: Ints, grain: int) -> Ints:
    """Ops, of which each is so many launches of a stretch, by which a stretch has come to another `grain` of them: a queue that holds
    less than one stretch would wait for nothing of it before all has ended."""
    total = np.cumsum(launches)
    begins = np.diff(stretch, prepend=-1) != 0
    passed = (total - np.maximum.accumulate(np.where(begins, total - launches, 0))) // grain
    found: Ints = np.flatnonzero((np.diff(passed, prepend=0) > 0) & ~begins)
    return found


def _unheard(kinds: Ints, payloads: Ints) -> Ints:
    """Words that record an event which nobody waits for until it is recorded again: FSDP's are by the thousand."""
    found: Ints = np.flatnonzero((kinds == Kind.RECORD) & (_records(kinds, payloads)[1] == 0))
    return found


def _switches(kinds: Ints) -> Ints:
    """Where words of the kinds of SWITCH stand in a row."""
    found: Ints = np.flatnonzero(np.all([kinds[i : kinds.size - 2 + i] == kind for i, kind in enumerate(SWITCH)], 0))
    return found


def _in_turn(kinds: Ints, payloads: Ints, switches: Ints, alone: Flags) -> tuple[Ints, Ints]:
    """Ops that run as if they were on the stream that they are launched from, by their words, and the stream that each is on. All
    that is put on that one waits for what the other has done since it was left; the other has waited for all before the op, and
    waits for it at once."""
    at = np.flatnonzero(kinds == Kind.STREAM)
    if not at.size:
        return at, at
    to, home = payloads[at], np.concatenate(([0], payloads[at][:-1]))
    recorded, heard, waiter = _records(kinds, payloads)
    # By word: does a switch stand here that waits for what it records, for which nobody else waits?
    waits = np.zeros(kinds.size + 1, bool)
    waits[switches] = (payloads[switches] == payloads[switches + 2]) & (heard[switches] == 1)
    # Of each stay on a stream: where it ends, where the one before it had ended, and where that was waited for.
    back = np.append(at[1:] - 1, kinds.size - 1)
    since, caught = np.full(at.size, -1), np.zeros(at.size, np.int64)
    order = order_of(to)
    again = np.flatnonzero(np.diff(to[order]) == 0)
    since[order[again + 1]] = back[order[again]]
    caught[order[again + 1]] = waiter[back[order[again]]]

    def stream_at(words: Ints) -> Ints:
        return np.concatenate(([0], to))[np.searchsorted(at, words)]

    begun = np.append(recorded, -1)[at + 1]  # what it first waits for was recorded there
    streams, of = np.unique(to, return_inverse=True)
    bound = ~np.isin(streams, payloads[kinds == Kind.SYNC] - 1)
    one_home = home == home[np.unique(of, return_index=True)[1]][of]
    bound[of[~(one_home & (begun > since) & (stream_at(begun) == home))]] = False

    is_caught = (caught >= 0) & (caught < at - 1) & ((since < 0) | (stream_at(caught) == home))
    by_itself = bound[of] & waits[at - 1] & (back == at + 3) & waits[back] & (np.append(to[1:], -1) == home) & is_caught
    ops = at[by_itself] + 2
    return ops[alone[ops]], to[by_itself][alone[ops]]


def _records(kinds: Ints, payloads: Ints) -> tuple[Ints, Ints, Ints]:
    """By word: of one that waits for an event where that was recorded last; of one that records how many wait for it, and which
    stream's word does so first. -1: none."""
    at = np.flatnonzero((kinds == Kind.RECORD) | (kinds == Kind.WAIT) | (kinds == Kind.SYNC_EVENT))
    at = at[order_of(payloads[at])]
    makes, event = kinds[at] == Kind.RECORD, payloads[at]
    number = np.cumsum(makes) - 1  # the latest of any event
    own = np.flatnonzero(makes)
    known = (number >= 0) & (np.append(own, 0)[number] >= np.searchsorted(event, event))  # it is of this one
    recorded, heard, waiter = np.full(kinds.size, -1), np.zeros(kinds.size, np.int64), np.full(kinds.size, -1)
    waiting = known & ~makes
    recorded[at[waiting]] = at[own[number[waiting]]]
    heard[at[own]] = np.bincount(number[waiting], minlength=own.size)
    first = own[(heard[at[own]] > 0) & (kinds[np.append(at, 0)[own + 1]] == Kind.WAIT)]
    waiter[at[first]] = at[first + 1]
    return recorded, heard, waiter


def _edge_words(kinds: Ints, payloads: Ints, edges: Ints,
                switches: Ints) -> list[tuple[int, int, int, tuple[int, int] | None]]:  # fmt: skip
    to: list[tuple[int, int] | None] = [None] * edges.size
    pairs = zip(payloads[switches + 1].tolist(), payloads[switches + 2].tolist(), strict=True)
    for at, pair in zip(np.searchsorted(edges, switches).tolist(), pairs, strict=True):
        to[at] = pair
    return list(zip(kinds[edges].tolist(), payloads[edges].tolist(), edges.tolist(), to, strict=True))


class Stretches:
    """The n-th is what stands before the n-th edge of a script, and after the last.

    host_s: what the host takes. duration_s: of its ops, one after the other. ready_s: from when the host begins until they
    end, on a stream that is free; minus infinity where none of them has a kernel. sizes: how many ops it has. turns: the script's.
    """

    def __init__(self, script: Script, prices: Prices, extra_s: Floats | None) -> None:
        """extra_s: by word what a launch takes beyond its op's price."""
        kinds, payloads, on = script.kinds, script.payloads, prices.on
        in_graph = _state(kinds, payloads, Kind.GRAPH) | on.graph
        plain = np.ones(kinds.size, bool)
        plain[script.edges] = False
        self.positions = np.flatnonzero(plain & (kinds == Kind.OP))
        ops, in_graph, compiled = payloads[self.positions], in_graph[self.positions], script.compiled[self.positions]
        kernels = prices.kernels[ops]
        host = np.where(compiled, kernels * on.host_launch_s, prices.host_s[ops])
        first = np.where(compiled, on.host_launch_s, np.minimum(host, on.host_op_s + on.host_launch_s))
        host[in_graph] = first[in_graph] = 0.0
        floors = np.where(in_graph & (not on.graph), kernels * on.graph_floor_s, prices.floors_s[ops])
        self.durations = prices.body_s[ops] + floors
        if extra_s is not None:
            self.durations += extra_s[self.positions]
        spent = np.zeros(kinds.size)
        spent[self.positions] = host
        own = plain & (kinds == Kind.HOST)
        spent[own] = payloads[own] * 1e-9
        spent[plain & (kinds == Kind.MARK)] = on.host_replay_s  # a whole step was compiled: its launch is all
        # Sums from each stretch's beginning on: what came before an edge is taken off.
        begins = np.concatenate(([0], script.edges + 1))
        ends = np.append(script.edges, kinds.size)
        clock = np.concatenate(([0.0], np.cumsum(spent)))
        self.words = np.diff(np.append(begins, kinds.size))  # with the edge that ends it
        self.clock = clock[1:] - np.repeat(clock[begins], self.words)
        self.host_s = clock[ends] - clock[begins]
        self.first = np.searchsorted(self.positions, begins)  # number of the first op of each stretch
        stop = np.searchsorted(self.positions, ends)
        self.sizes = stop - self.first
        if script.turns is None:
            in_queue = ~in_graph & ~np.isin(self.positions, script.aside)
            launched = np.concatenate(([0], np.cumsum(np.where(in_queue, kernels, 0))))
            launches = launched[stop] - launched[self.first] + np.where(self.sizes > 0, _alone(script, prices), 0)
            switched = np.flatnonzero(kinds == Kind.STREAM)
            streams = np.concatenate(([0], payloads[switched]))[np.searchsorted(switched, begins)]
            script.turns = turns_of(streams, launches, on.launch_queue)
        self.turns = script.turns
        total = np.concatenate(([0.0], np.cumsum(self.durations)))
        self.total = total[1:] - np.repeat(total[self.first], self.sizes)
        self.duration_s = total[stop] - total[self.first]
        issued = self.clock[self.positions]
        ready = np.maximum(issued - host + first + self.durations, issued + self.durations / np.maximum(kernels, 1))
        ready[kernels == 0] = -np.inf
        self.late = _highest_so_far(ready - self.total, self.first, self.sizes)
        last = np.append(self.late, -np.inf)[np.where(self.sizes > 0, stop - 1, -1)]
        self.ready_s = last + self.duration_s

    def ends(self, began_s: Floats, free_s: Floats) -> Floats:
        """When their ops end. By stretch: the host's clock, and when its stream is free (not a number: its ops never run)."""
        begun, free = np.repeat(began_s, self.sizes), np.repeat(free_s, self.sizes)
        found: Floats = self.total + np.maximum(free, begun + self.late)
        return found

    def host_clock(self, began_s: Floats) -> Floats:
        """The host's clock after each word of the stretches; what it says of edges is of no use."""
        found: Floats = np.repeat(began_s, self.words) + self.clock
        return found


def _alone(script: Script, prices: Prices) -> Ints:
    """For each stretch the launches of an op by itself that ends it, on the same stream; ranks meet on streams of their own."""
    at = np.flatnonzero(script.kinds[script.edges] == Kind.OP)
    ops = script.payloads[script.edges[at]]
    found = np.zeros(script.edges.size + 1, np.int64)
    found[at] = np.where(np.isin(ops, list(script.met)), 0, prices.kernels[ops])
    return found


def _state(kinds: Ints, payloads: Ints, kind: Kind) -> Flags:
    """By word whether the last word of a kind before it said so."""
    at = np.flatnonzero(kinds == kind)
    said: Flags = np.concatenate(([False], payloads[at] > 0))[np.cumsum(kinds == kind)]
    return said


def _highest_so_far(values: Floats, first: Ints, sizes: Ints) -> Floats:
    """The running maximum within each stretch, by doubling."""
    found, place = values.copy(), np.arange(values.size) - np.repeat(first, sizes)
    step = 1
    while step < sizes.max(initial=0):
        at = np.flatnonzero(place >= step)
        found[at] = np.maximum(found[at], found[at - step])
        step *= 2
    return found
