"""Random jobs take the time that walking them word by word, over and over, comes to."""

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from anychip.cluster import simulate
from anychip.errors import Deadlock
from anychip.record import Kind, Mark
from anychip.spec import load_chip
from tests.cluster.brute_force import brute_force
from tests.cluster.jobs import COMM, Rank, Wire, job
from tests.timeline.tapes import add, mm, op, t, w
from tests.timeline.test_engine import READ, SMALL, VIEW

PRODUCT, RELU = mm(512, 512, 512), op("aten.relu.default", t(2**20), out=t(2**20))
MANY = op("aten._foreach_neg_.default", tuple(t(10) for _ in range(330)), mutates=range(330))  # three launches
OPS = [SMALL, add(2**24), VIEW, PRODUCT, READ, MANY, op("anychip.sleep", 2e-4)]
EVENTS = st.integers(100, 101)
STREAMS = [0, 1, COMM, COMM + 1]
WIRE = Wire(1e9, 2e-5)

# What a rank does; each adds words to its tape. A call is (name, ranks, elements), for a message ("to", (from, to), elements),
# and among the ranks that a recording stands for ("own", None, elements).


def word_of(me, call):
    name, ranks, elements = call
    if name == "own":
        return me.call("allreduce_", 0, elements)
    if name == "to":
        return me.send(ranks[1], elements, 1) if me.rank == ranks[0] else me.recv(ranks[0], elements, 1)
    return me.call(name, [group.ranks for group in me.groups].index(ranks), elements)


def runs(me, which, times):
    me.add(*[me.op(OPS[which])] * times)


def says(me, kind, payload):
    me.add(w(kind, payload))


def steps(me):
    for mark in (Mark.FORWARD_BEGIN, Mark.FORWARD_END, Mark.OPTIMIZER_BEGIN, Mark.OPTIMIZER_END):
        me.mark(mark)


def compiled(me, *calls):
    """Two point-wise ops that become one kernel, collectives, a product."""
    read, write = len(me.blocks), len(me.blocks) + 1
    me.blocks += [2 * 2**20] * 2
    point = [me.op(RELU), w(Kind.USE, read), w(Kind.DEF, write)]
    me.add(w(Kind.ALLOC, read), w(Kind.ALLOC, write), w(Kind.COMPILED, 1), *point, *point)
    me.add(*(word_of(me, call) for call in calls), me.op(PRODUCT), w(Kind.COMPILED, 0))


def replayed(me, *calls):
    """A graph that was captured."""
    me.add(w(Kind.GRAPH, 1), *[me.op(SMALL)] * 3, *(word_of(me, call) for call in calls), w(Kind.GRAPH, 0))


def calls(me, stream, *calls):
    """On a stream, as they come."""
    me.add(w(Kind.STREAM, stream), *(word_of(me, call) for call in calls))


def starts(me, stream, *calls):
    """On a stream of their own, several as a batch."""
    me.start(*(word_of(me, call) for call in calls), stream=stream)


def switches(me, event, stream, other):
    me.add(w(Kind.RECORD, event), w(Kind.STREAM, stream), w(Kind.WAIT, other))


def aside(me, stream, home, which, *calls):
    """On another stream, which waits for this one, and this one for it: once as a communicator does it, again on events of others."""
    for first, last in ((me.events + 1000, me.events + 1001), (100, 101)):
        done = [me.op(OPS[which])] if not calls else [word_of(me, one) for one in calls]
        me.add(w(Kind.RECORD, first), w(Kind.STREAM, stream), w(Kind.WAIT, first), *done)
        me.add(w(Kind.RECORD, last), w(Kind.STREAM, home), w(Kind.WAIT, last))


def waits(me):
    """For what was started last."""
    if me.events:
        me.wait(me.events - 1)


def batches(me, stream, *calls):
    """In whose midst an event is recorded, for which another stream waits."""
    first, *others = (word_of(me, call) for call in calls)
    noted = [w(Kind.RECORD, 100), w(Kind.STREAM, 0), w(Kind.WAIT, 100), w(Kind.STREAM, stream)]
    me.add(w(Kind.STREAM, stream), w(Kind.BATCH, 1), first, *noted, *others, w(Kind.BATCH, 0))


def crossing(me, other, ahead):
    """Each sends to the other, one only after it has received; the other has issued work on what it receives before."""
    held = [(says, Kind.STREAM, COMM), (runs, 0, 1), (says, Kind.RECORD, 100), (says, Kind.STREAM, 0)]
    received = held if ahead else [(waits,), (says, Kind.READ, 0)]
    return [(starts, COMM, ("to", (other, me), 1000)), *received, (starts, COMM + 1, ("to", (me, other), 1000))]


ON_EVENTS = st.one_of(
    st.tuples(st.just(says), st.just(Kind.STREAM), st.sampled_from(STREAMS)),
    st.tuples(st.just(switches), EVENTS, st.sampled_from(STREAMS), EVENTS),
    st.tuples(st.just(says), st.sampled_from([Kind.RECORD, Kind.WAIT, Kind.SYNC_EVENT]), EVENTS),
)
ALONE = st.one_of(
    ON_EVENTS,
    st.tuples(st.just(runs), st.integers(0, len(OPS) - 1), st.integers(1, 3)),
    st.tuples(st.just(says), st.just(Kind.SYNC), st.integers(0, 2)),
    st.tuples(st.sampled_from([starts, calls]), st.sampled_from(STREAMS), st.just(("own", None, 1000))),
    st.tuples(st.just(aside), st.sampled_from([1, COMM]), st.sampled_from([0, 0, 1]), st.integers(0, len(OPS) - 1)),
    st.tuples(st.just(aside), st.sampled_from([1, COMM]), st.just(0), st.just(0), st.just(("own", None, 1000))),
    st.sampled_from([(says, Kind.READ, 0), (says, Kind.HOST, 70_000), (waits,), (compiled,), (replayed,), (steps,)]),
)
WITH_OTHERS = st.one_of(
    st.tuples(st.sampled_from([starts, starts, calls, batches]), st.sampled_from(STREAMS)),
    st.sampled_from([(compiled,), (replayed,)]),
)


@st.composite
def jobs(draw):
    """A job whose ranks do things in one order, of which some are moved on some ranks, or left out."""
    copies = draw(st.integers(1, 2))  # for how many ranks a recording stands
    everyone = tuple(range(0, copies * draw(st.integers(2, 4)), copies))
    subsets = st.sets(st.sampled_from(everyone), min_size=1).map(lambda ranks: tuple(sorted(ranks)))
    some = draw(subsets.filter(lambda ranks: len(ranks) > 1))
    ranks = []
    for rank in everyone:
        own = tuple(range(rank, rank + copies))
        groups = [(own, "dp"), (everyone, "all")] + [(some, "some")] * (rank in some and some != everyone)
        ranks.append(Rank(rank, copies * len(everyone), groups, own))
    todo = {rank: [] for rank in everyone}
    for _ in range(draw(st.integers(0, 14))):
        for rank in draw(subsets):
            todo[rank].append(draw(ALONE))
        together = draw(st.sampled_from([everyone, some, everyone[:2], everyone[-2:]]))
        sizes = st.lists(st.sampled_from([1000, 50_000]), min_size=1, max_size=2)  # 4 and 200 us, beside the latency
        if together in (everyone, some) and draw(st.booleans()):
            wanted = [("allreduce_", together, size) for size in draw(sizes)]
        elif len(together) == 2:
            ways = st.sampled_from([together, together[::-1]])
            wanted = [("to", draw(ways), size) for size in draw(sizes)]
            wanted += [("own", None, 1000)] * draw(st.integers(0, 1))
        else:
            continue
        for rank in together:
            todo[rank].append((*draw(WITH_OTHERS), *wanted))
        if draw(st.booleans()):
            one, other = draw(st.sampled_from([together[:2], together[1::-1]]))
            todo[one] += crossing(one, other, ahead=True) + draw(st.lists(ON_EVENTS, max_size=5)) + [(runs, 0, 1)]
            todo[other] += crossing(other, one, ahead=False)
    for rank, at, to in draw(st.lists(st.tuples(*[st.integers(0, 30)] * 3), max_size=3)):
        mine = todo[everyone[rank % len(everyone)]]
        if mine:
            one = mine.pop(at % len(mine))
            if to:
                mine.insert(to % (len(mine) + 1), one)
    for me in ranks:
        for do, *arguments in todo[me.rank]:
            do(me, *arguments)
    return job(*ranks)


def check(program, chip):
    """Both say the same of the job; whether it hangs."""
    try:
        walks, met = brute_force(program, chip, WIRE)
    except Deadlock:
        with pytest.raises(Deadlock):
            simulate(program, chip, WIRE, contention=False)
        return True
    found = simulate(program, chip, WIRE, contention=False)
    for walk, rank in zip(walks, found.ranks, strict=True):
        timeline = rank.timeline
        np.testing.assert_allclose(timeline.host_s, walk.clock, rtol=0, atol=1e-11)
        expected = sorted(walk.ran.items())
        assert timeline.position.tolist() == [position for position, _ in expected]
        assert timeline.stream.tolist() == [stream for _, (_, _, stream) in expected]
        np.testing.assert_allclose(timeline.start_s, [start for _, (start, _, _) in expected], rtol=0, atol=1e-11)
        np.testing.assert_allclose(timeline.end_s, [end for _, (_, end, _) in expected], rtol=0, atol=1e-11)
        waited = {wait.position: wait for wait in rank.waits if rank.calls[wait.op].group}
        legs = {
            position: (met[key], walk.come[key, way][0])
            for (key, way), position in walk.legs.items()
            if key in met and key[0] != rank.members
        }
        assert waited.keys() == legs.keys()
        for position, ((start, _, last), ready) in legs.items():
            assert waited[position].late in last
            assert waited[position].ready_s == pytest.approx(ready, abs=1e-11)
            assert waited[position].start_s == pytest.approx(start, abs=1e-11)
            if position in walk.ran:
                assert waited[position].end_s == pytest.approx(walk.ran[position][1], abs=1e-11)
    return False


@settings(max_examples=200, deadline=None)
@given(jobs(), st.sampled_from(["a100", "a100", "tpu-v5p", "generic-cpu"]), st.booleans())
def test_random_jobs(program, chip, stopped):
    if stopped:  # by the user: then all that can happen does
        for rank in program.ranks:
            rank.meta["interrupted"] = True
    event(f"hangs: {check(program, load_chip(chip))}")
