"""The clocks, by hand, and: however a tape is cut, the clocks come out the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anychip.cost import price_op
from anychip.spec import load_chip
from anychip.timeline import Engine, price
from tests.timeline.tapes import Kind, Mark, add, mark, mm, op, program, t, w, whole_and_cut

A100 = load_chip("a100")
SMALL, LARGE = add(10), add(128 * 2**20)
READ = op("aten._local_scalar_dense.default", t())
VIEW = op("aten.view.default", t(10), out=t(10))
OPS = [SMALL, LARGE, VIEW, mm(4096, 4096, 4096), READ]
LONG = price_op(LARGE, A100).time_s
SHORT = price_op(SMALL, A100).time_s
ISSUE = 12e-6  # 8 us to reach the launch and 4 us for it


def engine(*words, ops=OPS):
    found = Engine(A100, ops)
    found.run(list(words))
    return found


def test_small_ops_wait_for_the_host():
    # three launches at 8 us each; the last kernel runs after the last launch
    clocks = engine(*[w(Kind.OP, 0)] * 3)
    assert clocks.host_s == pytest.approx(3 * ISSUE)
    assert clocks.stream_end_s(0) == pytest.approx(3 * ISSUE + SHORT)


def test_the_host_runs_ahead_of_large_ops():
    clocks = engine(*[w(Kind.OP, 1)] * 3)
    assert clocks.host_s == pytest.approx(3 * ISSUE)
    assert clocks.stream_end_s(0) == pytest.approx(ISSUE + 3 * LONG)


def test_synchronising_makes_the_host_wait():
    clocks = engine(w(Kind.OP, 1), w(Kind.SYNC))
    assert clocks.host_s == pytest.approx(ISSUE + LONG)


def test_reading_a_value_waits_and_costs():
    clocks = engine(w(Kind.OP, 1), w(Kind.READ, 0))
    assert clocks.host_s == pytest.approx(ISSUE + LONG + 10e-6)


def test_a_metadata_op_takes_host_time_only():
    clocks = engine(w(Kind.OP, 2))
    assert clocks.host_s == pytest.approx(4e-6)
    assert clocks.stream_end_s(0) == 0


def test_host_time_of_its_own():
    assert engine(w(Kind.HOST, 1_000_000)).host_s == pytest.approx(1e-3)


def test_two_streams_overlap_and_an_event_orders_them():
    on_other = [w(Kind.STREAM, 1), w(Kind.OP, 1)]
    apart = engine(w(Kind.OP, 1), *on_other)
    assert apart.stream_end_s(1) == pytest.approx(2 * ISSUE + LONG)
    ordered = engine(w(Kind.OP, 1), w(Kind.RECORD, 7), w(Kind.STREAM, 1), w(Kind.WAIT, 7), w(Kind.OP, 1))
    assert ordered.stream_end_s(1) == pytest.approx(ISSUE + 2 * LONG)
    assert ordered.event_time_s(7) == pytest.approx(ISSUE + LONG)
    # waiting for one stream leaves the other alone
    synced = engine(w(Kind.OP, 1), w(Kind.OP, 1), *on_other, w(Kind.SYNC, 2))
    assert synced.host_s == pytest.approx(3 * ISSUE + LONG)
    assert synced.stream_end_s() == pytest.approx(ISSUE + 2 * LONG)


def test_elapsed_time_between_events():
    clocks = engine(w(Kind.RECORD, 1), w(Kind.OP, 1), w(Kind.RECORD, 2), w(Kind.SYNC_EVENT, 2))
    # from the first event (host at 0) to the end of the kernel
    assert clocks.event_time_s(2) - clocks.event_time_s(1) == pytest.approx(ISSUE + LONG)
    assert clocks.host_s == pytest.approx(ISSUE + LONG)


def test_a_graph_is_one_launch():
    many = [w(Kind.OP, 0)] * 100
    clocks = engine(w(Kind.GRAPH, 1), *many, w(Kind.GRAPH, 0))
    # 10 us for the replay, 2 us for each of its kernels (30 bytes are nothing)
    assert clocks.host_s == pytest.approx(10e-6)
    assert clocks.stream_end_s(0) == pytest.approx(10e-6 + 100 * 2e-6, rel=1e-3)
    assert engine(*many).stream_end_s(0) > 3 * clocks.stream_end_s(0)


def test_an_op_of_many_kernels_ends_after_its_last_launch():
    lists = tuple(t(10) for _ in range(330))
    # 330 tensors of one list: 3 launches; 8 + 3 * 4 us on the host
    clocks = engine(w(Kind.OP, 0), ops=[op("aten._foreach_neg_.default", lists, mutates=range(330))])
    assert clocks.host_s == pytest.approx(20e-6)
    assert clocks.stream_end_s(0) == pytest.approx(20e-6 + SHORT, rel=1e-2)


def test_a_blocking_copy_stops_the_host():
    host = t(2**20, dtype="float32", on_chip=False)
    copy = op("aten._to_copy.default", host, device="cuda:0", out=t(2**20, dtype="float32"))
    clocks = engine(w(Kind.OP, 0), ops=[copy])
    assert clocks.host_s == clocks.stream_end_s(0) > 160e-6  # 4 MiB at 26 GB/s


def test_a_sleeping_chip_sleeps():
    clocks = engine(w(Kind.OP, 0), ops=[op("anychip.sleep", 0.5)])
    assert clocks.stream_end_s(0) == pytest.approx(0.5, rel=1e-3)


def test_ops_that_came_later_are_priced():
    ops = [SMALL]
    clocks = Engine(A100, ops)
    clocks.run([w(Kind.OP, 0)])
    ops.append(LARGE)
    clocks.run([w(Kind.OP, 1)])
    assert clocks.stream_end_s(0) == pytest.approx(2 * ISSUE + LONG)


WORDS = st.one_of(
    st.integers(0, 4).map(lambda i: w(Kind.OP, i)),
    st.integers(0, 1).map(lambda i: w(Kind.OP, i)),
    st.sampled_from([w(Kind.STREAM, 0), w(Kind.STREAM, 1), w(Kind.SYNC), w(Kind.SYNC, 1), w(Kind.READ, 0)]),
    st.sampled_from([w(Kind.RECORD, 0), w(Kind.RECORD, 1), w(Kind.WAIT, 0), w(Kind.SYNC_EVENT, 1)]),
    st.sampled_from([w(Kind.GRAPH, 1), w(Kind.GRAPH, 0), mark(Mark.OPTIMIZER_END), w(Kind.HOST, 5000)]),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(WORDS, max_size=200), st.integers(1, 60), st.sampled_from(["a100", "tpu-v5p"]), st.integers(0, 3))
def test_however_the_tape_is_cut_the_clocks_agree(words, size, chip, repeats):
    words = words + [w(Kind.OP, 0)] * (40 * repeats)
    chip = load_chip(chip)
    whole, parts = whole_and_cut(chip, words, size, OPS)
    assert parts.host_s == pytest.approx(whole.host_s, abs=1e-12)
    assert parts.stream_end_s() == pytest.approx(whole.stream_end_s(), abs=1e-12)
    timeline = price(program(words, OPS), chip)
    assert timeline.host_s.size == len(words)
    assert timeline.op.size == sum(word & 31 == Kind.OP for word in words)
    if len(words):
        assert timeline.host_s[-1] == pytest.approx(whole.host_s, abs=1e-12)
    assert np.all(np.diff(timeline.host_s) >= -1e-15)


@settings(max_examples=40, deadline=None)
@given(st.lists(WORDS, max_size=100))
def test_a_stream_never_runs_two_ops_at_once(words):
    timeline = price(program(words, OPS), A100)
    for stream in (0, 1):
        mine = timeline.stream == stream
        start, end = timeline.start_s[mine], timeline.end_s[mine]
        assert np.all(start[1:] >= end[:-1] - 1e-12)
