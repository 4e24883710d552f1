"""How far a host runs ahead of a stream whose queue holds so many launches."""

from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anychip.cluster import simulate
from anychip.cost.price import Prices
from anychip.record.tape import KIND_BITS
from anychip.spec import load_chip
from anychip.timeline import Engine, price
from anychip.timeline.queue import LaunchQueue
from tests.cluster.jobs import Rank, Wire, job
from tests.timeline.tapes import Kind, Mark, mark, op, program, t, w, whole_and_cut
from tests.timeline.test_engine import ISSUE, LARGE, LONG, OPS, WORDS
from tests.timeline.test_fusion import MATMUL, UNARY, call, region
from tests.timeline.test_fusion import OPS as REGION_OPS

A100 = load_chip("a100")


def holding(room, chip=A100):
    """The chip, with a queue of so many launches."""
    platform = replace(chip.platform, launch_queue=room)
    return replace(chip, platform=platform, digest=f"{chip.digest} {room}")


def run(chip, words, ops=OPS):
    clocks = Engine(chip, list(ops))
    clocks.run(words)
    return clocks


def test_what_a_queue_holds_is_in_the_platforms_file():
    assert A100.platform.launch_queue == 1024
    assert load_chip("mi300x").platform.launch_queue > 1024
    assert load_chip("hygon-k100").platform.launch_queue is None  # nobody says


@pytest.mark.parametrize("number", [10, 100])  # word by word, and as a stretch
def test_a_host_waits_for_room_in_a_full_queue(number):
    # 4 are issued ahead; each later one when the one that is 4 before it has ended
    clocks = run(holding(4), [w(Kind.OP, 1)] * number)
    assert clocks.host_s == pytest.approx(ISSUE + (number - 4) * LONG)
    assert clocks.stream_end_s(0) == pytest.approx(ISSUE + number * LONG)  # the chip never waits
    timeline = price(program([w(Kind.OP, 1)] * number, OPS), holding(4))
    assert timeline.host_s[4] == pytest.approx(ISSUE + LONG)
    assert timeline.host_s[-1] == pytest.approx(clocks.host_s)


def test_without_a_number_nothing_holds_a_host_up():
    assert run(holding(None), [w(Kind.OP, 1)] * 5000).host_s == pytest.approx(5000 * ISSUE)


def test_each_stream_has_a_queue_and_one_that_was_waited_for_is_empty():
    words = [w(Kind.OP, 1)] * 4
    assert run(holding(4), [*words, w(Kind.STREAM, 1), *words]).host_s == pytest.approx(8 * ISSUE)
    waited = run(holding(4), [*words, w(Kind.SYNC), *words])
    assert waited.host_s == pytest.approx(5 * ISSUE + 4 * LONG)


def test_time_that_a_host_needs_is_hidden_only_as_far_as_the_queue_holds():
    # A step: large ops, then small ones that the chip is faster at than its host. Of one after the other with nothing read all small
    # ones but the last step's are issued ahead without a limit.
    step = [w(Kind.OP, 1)] * 20 + [w(Kind.OP, 0)] * 1000
    free, held = (run(holding(room), np.array(step * 8)).stream_end_s() for room in (None, 50))
    assert free < 8 * (20 * LONG + 1000 * ISSUE) * 0.75
    assert held == pytest.approx(8 * (20 * LONG + (1000 - 50) * ISSUE), rel=0.02)


def test_an_op_of_more_kernels_than_a_queue_holds_waits_for_those_before_it():
    lists = tuple(t(10) for _ in range(330))  # 3 kernels
    neg = op("aten._foreach_neg_.default", lists, mutates=range(330))
    for number in (3, 100):
        clocks = run(holding(2), [w(Kind.OP, 1), w(Kind.OP, 0)] * number, [neg, LARGE])
        assert clocks.host_s >= ISSUE + (number - 1) * LONG
        assert clocks.stream_end_s() < ISSUE + number * (LONG + 40e-6)


def walked(words, room):
    """Ops alone, one after the other, with nothing but a list of when each launch has ended."""
    prices = Prices(list(OPS), A100)
    host, free, ends, clock = 0.0, 0.0, [], []
    for word in words:
        index = word >> KIND_BITS
        begun, kernels, time_s = host, int(prices.kernels[index]), prices.body_s[index] + prices.floors_s[index]
        host += prices.host_s[index]
        if kernels:
            if (at := min(len(ends), len(ends) + kernels - room)) > 0:
                host = max(host, ends[at - 1])
            first = min(prices.host_s[index], ISSUE)
            free = max(free + time_s, begun + first + time_s, host + time_s / kernels)
            ends += [free] * kernels
        clock.append(host)
    return clock, free


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 90)), min_size=1, max_size=8), st.sampled_from([1, 3, 40]))
def test_a_stretch_is_as_its_ops_one_by_one(runs, room):
    words = [w(Kind.OP, index) for index, number in runs for _ in range(number)]
    timeline = price(program(words, OPS), holding(room))
    clock, free = walked(words, room)
    assert timeline.host_s == pytest.approx(np.array(clock), abs=1e-12)
    assert timeline.end_s.max() == pytest.approx(free, abs=1e-12) or not free


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, max_size=200), st.integers(1, 60), st.sampled_from([1, 7, 50]))
def test_however_the_tape_is_cut_the_clocks_agree(words, size, room):
    words = words + [w(Kind.OP, 1), w(Kind.OP, 2)] * 60
    chip = holding(room)
    whole, parts = whole_and_cut(chip, words, size, OPS)
    assert parts.host_s == pytest.approx(whole.host_s, abs=1e-12)
    assert parts.stream_end_s() == pytest.approx(whole.stream_end_s(), abs=1e-12)


def test_a_graph_and_a_chip_that_compiles_whole_have_no_queue():
    replayed = [w(Kind.GRAPH, 1), *[w(Kind.OP, 1)] * 20, w(Kind.GRAPH, 0)]
    assert run(holding(4), replayed).host_s == pytest.approx(10e-6)
    tpu = holding(4, load_chip("tpu-v5p"))
    assert run(tpu, [w(Kind.OP, 1)] * 40 + [mark(Mark.OPTIMIZER_END)]).host_s < LONG


def test_a_compiled_region_is_launched_kernel_by_kernel():
    ops = [*REGION_OPS, op("anychip.sleep", 1e-3)]
    words = [
        w(Kind.OP, len(REGION_OPS)),
        *region(call(UNARY, [0], [1]), call(MATMUL, [1, 9], [2]), freed=[1]).tape.tolist() * 20,
    ]
    found = {}
    for room in (3, None):
        chip = holding(room)
        timeline = price(program(words, ops, [6000] * 20), chip)
        whole, parts = whole_and_cut(chip, words, 1, ops, [6000] * 20)
        for clocks in (whole, parts):
            assert clocks.host_s == pytest.approx(timeline.host_s[-1], rel=1e-4)
            assert clocks.stream_end_s() == pytest.approx(timeline.end_s.max(), rel=1e-4)
        found[room] = whole.host_s, whole.stream_end_s()
    assert found[None][0] < 1e-3 < found[3][0]


@pytest.mark.parametrize("is_cut", [True, False])  # into a stretch for each op, or all one
def test_a_rank_of_a_job_waits_for_room_too(is_cut):
    rank = Rank(0, 8, [(tuple(range(8)), "dp")], range(8))
    for _ in range(400):
        rank.compute(0.1)
        rank.tape += [w(Kind.RECORD, 0), w(Kind.WAIT, 0)] if is_cut else []
    held, free = (simulate(job(rank), holding(room), Wire()).ranks[0].timeline for room in (160, None))
    assert held.total_s == pytest.approx(free.total_s) == pytest.approx(40.0, abs=1e-2)
    assert free.host_s[-1] < 0.1
    assert held.host_s[-1] == pytest.approx((400 - 160) * 0.1, rel=0.15)
    assert all(before <= after for before, after in pairwise(held.host_s.tolist()))


def test_a_rank_that_nobody_gets_on_without_is_held_up_as_in_any_other_order():
    # The first rank waits for the second, which waits for the third, whose host has to run ahead of its stream.
    def ranks():
        a, b, c = ((0, 1), "a"), ((1, 2), "b"), ((1, 2), "c", 1)
        first, second, third = Rank(0, 3, [a]), Rank(1, 3, [a, b, c]), Rank(2, 3, [b, c])
        first.run(first.call("allreduce_", 0, 8))
        for _ in range(40):
            first.compute(0.1)
            first.tape += [w(Kind.RECORD, 90), w(Kind.WAIT, 90)]
        second.run(second.call("allreduce_", 1, 8), stream=2000)
        second.add(w(Kind.STREAM, 3000), second.call("allreduce_", 2, 8), w(Kind.STREAM, 0))
        second.run(second.call("allreduce_", 0, 8))
        third.run(third.call("allreduce_", 1, 8), stream=3000)
        third.add(w(Kind.STREAM, 2000), third.call("allreduce_", 0, 8), w(Kind.STREAM, 0))
        return first, second, third

    clocks = [
        {rank.rank: rank.timeline.host_s[-1] for rank in simulate(job(*order), holding(16), Wire()).ranks}
        for order in permutations(ranks())
    ]
    assert all(one == pytest.approx(clocks[0]) for one in clocks)
    assert clocks[0][0] == pytest.approx((40 - 16) * 0.1, abs=0.3)


def test_work_does_not_grow_faster_than_the_tape(monkeypatch):
    # Each step fills the queue and empties it again, and nothing is read: the host and the chip take turns all along.
    looked, free_all_s = [0], LaunchQueue.free_all_s

    def counted(self, kernels, ends):
        looked[0] += ends.size
        return free_all_s(self, kernels, ends)

    monkeypatch.setattr(LaunchQueue, "free_all_s", counted)
    step = [w(Kind.OP, 1)] * 10 + [w(Kind.OP, 0)] * 200
    for steps in (10, 200):
        looked[0] = 0
        run(holding(50), np.array(step * steps))
        assert looked[0] < 12 * len(step) * steps


def test_a_queue_has_room_once_launches_have_ended():
    queue = LaunchQueue(4)
    queue.add_all(np.arange(1.0, 5.0))
    assert not queue.fits(1, 0.5)
    assert queue.fits(1, 1.0)
    assert not queue.fits(3, 2.0)
    assert not queue.fits(5, 9.0)  # more than it ever holds
