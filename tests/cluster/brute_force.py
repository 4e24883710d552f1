"""A job on its clocks by brute force: an oracle for `anychip.cluster.simulate`, as simple as can be, however slow.

Every rank walks its tape word by word from the start, with what is known of the collectives so far; a time that depends on
one whose partners have not all come is None, and so is what depends on that. A host stops where it would wait for a None.
After each round the collectives whose parties all have a time to come at get their start; then all walk anew, until a
round finds nothing more. Written from `anychip.record.tape` and `anychip.timeline.engine`, sharing nothing with the engines.
Left out: noise, contention, recordings of which one rank meets some that another stands for, or that ended when
they had enough steps (`stopped`).
"""

from anychip.cost.fusion import fuse
from anychip.cost.price import Prices
from anychip.errors import Deadlock
from anychip.network import collective_of
from anychip.record import Kind, Mark


def latest(*times):
    return None if None in times else max(times)


class Walk:
    """One rank's walk. ran: position on the tape -> (start, end, stream) of what it launched. clock: the host's after each
    word. come: (meeting, way) -> when its stream is ready for that leg, its call, its seconds. legs: the same -> where on the
    tape. done: it got through, and everything that it launched has ended."""

    def __init__(self, rank, prices, wire, met):
        self.rank, self.prices, self.on, self.wire, self.met = rank, prices, prices.on, wire, met
        self.host, self.stream, self.ends, self.events = 0.0, 0, {0: 0.0}, {}
        self.graph, self.compiled, self.batch, self.held = False, False, None, []
        self.turns, self.ran, self.clock, self.come, self.legs = {}, {}, [], {}, {}
        for position, (kind, payload) in enumerate(zip(rank.kinds.tolist(), rank.payloads.tolist(), strict=True)):
            if not self.word(position, Kind(kind), payload):
                break
            self.clock.append(self.host)
        whole = len(self.clock) == len(rank.tape)
        self.done = whole and None not in self.ends.values()
        self.clock += [self.host] * (len(rank.tape) - len(self.clock))

    def word(self, position, kind, payload):
        """False where the host waits for what is not known."""
        until = 0.0
        if kind == Kind.OP:
            if collective_of(self.rank.ops[payload]) is None:
                return self.op(position, payload)
            if self.batch is None:
                self.launch([(position, payload)])
            else:
                self.batch.append((position, payload))
        elif kind == Kind.STREAM:
            self.stream = payload
            self.ends.setdefault(payload, 0.0)
        elif kind in (Kind.RECORD, Kind.WAIT):
            if self.batch:  # what a batch has begun with is launched at its end
                self.held.append((self.stream, kind, payload))
            else:
                self.event(self.stream, kind, payload)
        elif kind == Kind.SYNC:
            until = latest(*self.ends.values()) if payload == 0 else self.ends.get(payload - 1, 0.0)
        elif kind == Kind.SYNC_EVENT:
            until = self.events.get(payload, 0.0)
        elif kind == Kind.READ:
            until = self.ends[self.stream]
        elif kind == Kind.HOST:
            self.host += payload * 1e-9
        elif kind == Kind.GRAPH:
            self.graph = payload == 1
            self.host += payload * self.on.host_replay_s
        elif kind == Kind.COMPILED:
            self.compiled = payload > 0
        elif kind == Kind.MARK and payload == Mark.OPTIMIZER_END and self.on.graph:
            self.host += self.on.host_replay_s
        elif kind == Kind.BATCH and payload:
            self.batch = []
        elif kind == Kind.BATCH:
            issued, held, self.batch, self.held = self.batch, self.held, None, []
            if issued:
                self.launch(issued)
            for one in held:
                self.event(*one)
        if until is None:
            return False
        self.host = max(self.host, until) + (self.on.host_read_s if kind == Kind.READ else 0.0)
        return True

    def event(self, stream, kind, event):
        if kind == Kind.RECORD:
            self.events[event] = latest(self.ends[stream], self.host)
        else:
            self.ends[stream] = latest(self.ends[stream], self.events.get(event, 0.0))

    def issue(self, eager, kernels):
        """(what issuing takes the host, until the first of so many kernels is launched)."""
        if self.graph or self.on.graph:
            return 0.0, 0.0
        if self.compiled:
            return kernels * self.on.host_launch_s, self.on.host_launch_s
        return eager, min(eager, self.on.host_op_s + self.on.host_launch_s)

    def op(self, position, op):
        prices, on, free = self.prices, self.on, self.ends[self.stream]
        waits = on.called or prices.blocks[op]
        if waits and free is None:
            return False
        kernels = int(prices.kernels[op])
        in_graph = self.graph and not on.graph
        took = float(prices.body_s[op]) + (kernels * on.graph_floor_s if in_graph else float(prices.floors_s[op]))
        host, first = self.issue(float(prices.host_s[op]), kernels)
        begun, self.host = self.host, self.host + host
        if on.called:
            ready = self.host + took
        else:
            ready = max(begun + first + took, self.host + took / kernels) if kernels else 0.0
        self.ends[self.stream] = end = None if free is None else max(free + took, ready)
        if end is not None:
            self.ran[position] = end - took, end, self.stream
        if waits:
            self.host = end if on.called else max(self.host, end)
        return True

    def launch(self, issued):
        """Collectives as one launch on the current stream."""
        eager = sum(float(self.prices.host_s[op]) for _, op in issued) - (len(issued) - 1) * self.on.host_launch_s
        self.host += self.issue(max(eager, 0.0), 1)[0]
        ready = latest(self.ends[self.stream], self.host)
        calls = [collective_of(self.rank.ops[op]) for _, op in issued]
        legs = []
        for (position, _), call, seconds in zip(issued, calls, self.seconds(calls), strict=True):
            key, way = self.meeting(call)
            legs.append((position, key, call))
            if ready is not None:
                self.come[key, way], self.legs[key, way] = (ready, call, seconds), position
        self.ends[self.stream] = end = self.end(legs)
        if end is None:
            return
        last = max(range(len(legs)), key=lambda at: self.met[legs[at][1]][1])
        for at, (position, key, _) in enumerate(legs):
            start, own_end, _ = self.met[key]
            self.ran[position] = start, end if at == last else own_end, self.stream

    def seconds(self, calls):
        """What each takes by itself; those of one kind and group in a batch are one message."""
        alone = [self.cost(call, call.nbytes) for call in calls]
        many = [at for at, call in enumerate(calls) if call.kind not in ("send", "recv")]
        sizes = {}
        for at in many:
            key = calls[at].kind, calls[at].group, calls[at].dtype
            sizes[key] = calls[at], sizes.get(key, (None, 0))[1] + calls[at].nbytes
        whole, apart = sum(self.cost(*one) for one in sizes.values()), sum(alone[at] for at in many)
        share = min(whole / apart, 1.0) if apart and len(calls) > 1 else 1.0
        found = [one * (share if at in many else 1.0) for at, one in enumerate(alone)]
        if self.graph and not self.on.graph:
            found[0] += self.on.graph_floor_s  # as for any launch
        return found

    def cost(self, call, nbytes):
        ranks = self.rank.groups[call.group].ranks if call.peer is None else (self.rank.rank, call.peer)
        return self.wire.cost(call.kind, nbytes, ranks, call.dtype).time_s

    def meeting(self, call):
        """The n-th of a group meets the n-th of all its ranks; the n-th send to a rank its n-th receive from there."""
        ranks, ends = self.rank.groups[call.group].ranks, ()
        if call.kind == "send":
            ends = self.rank.rank, call.peer
        elif call.kind == "recv":
            ends = call.peer, self.rank.rank
        way = call.kind if ends else self.rank.rank
        turn = self.turns[ranks, ends, way] = self.turns.get((ranks, ends, way), -1) + 1
        return (ranks, ends, turn), way

    def end(self, legs):
        """When a launch is over, whose legs in one direction are sent one after the other."""
        if any(key not in self.met for _, key, _ in legs) or self.ends[self.stream] is None:
            return None
        end = max(self.met[key][1] for _, key, _ in legs)
        if len(legs) > 1:
            ways = {"send": 0.0, "recv": 0.0, "others": 0.0}
            for _, key, call in legs:
                ways[call.kind if call.kind in ways else "others"] += self.met[key][1] - self.met[key][0]
            end = max(end, min(self.met[key][0] for _, key, _ in legs) + max(ways.values()))
        return max(end, self.ends[self.stream])


def brute_force(program, chip, wire):
    """(each rank's `Walk`, what met: meeting -> (start, end, who came last)). Raises Deadlock."""
    ranks = [fuse(rank) for rank in program.ranks]
    prices = [Prices(rank.ops, chip) for rank in ranks]
    own, met = {rank.rank for rank in ranks}, {}
    while True:
        walks = [Walk(rank, priced, wire, met) for rank, priced in zip(ranks, prices, strict=True)]
        came = {}
        for index, walk in enumerate(walks):
            for (key, way), (ready, call, seconds) in walk.come.items():
                came.setdefault(key, {})[way] = ready, call, seconds, index
        for legs in came.values():
            if len({(call.nbytes, call.kind in ("send", "recv") or call.kind) for _, call, _, _ in legs.values()}) > 1:
                raise Deadlock("collectives do not fit")
        found = {
            key: legs for key, legs in came.items() if key not in met and len(legs) == len(own & set(key[1] or key[0]))
        }
        if not found:
            break
        for key, legs in found.items():
            start = max(ready for ready, _, _, _ in legs.values())
            last = {index for ready, _, _, index in legs.values() if ready > start - 1e-12}
            met[key] = start, start + max(seconds for _, _, seconds, _ in legs.values()), last
    for rank, walk in zip(ranks, walks, strict=True):
        if not walk.done and not rank.meta.get("interrupted"):
            raise Deadlock("ranks wait for what never comes")
    return walks, met
