"""Jobs whose times are known in closed form."""

import time

import pytest

from anychip.cluster import simulate
from anychip.errors import Deadlock
from anychip.spec import load_chip
from tests.cluster.jobs import COMM, Rank, Wire, job, one_f_one_b
from tests.timeline.tapes import Kind, Mark, w

# Its collectives are taken to need no cores, so that what overlaps costs nothing; one test is about those cores.
H100 = load_chip("h100")
SLACK = 100e-6  # launches and kernel floors, beside seconds of sleep


def close(value, expected, slack=SLACK):
    assert value == pytest.approx(expected, abs=slack)


def world(n, axis="dp"):
    return [(tuple(range(n)), axis)]


def test_a_ring_all_reduce_without_overlap():
    # 0.1 s of compute, then 2 * (8 - 1) / 8 * 4e6 B / 1e9 B/s = 7 ms of network, exposed
    rank = Rank(0, 8, world(8), range(8)).compute(0.1)
    rank.run(rank.call("allreduce_", 0, 10**6)).compute(0.1)
    wire = Wire()
    timeline = simulate(job(rank), H100, wire)
    close(timeline.total_s, 0.207)
    assert wire.asked == [("all_reduce", 4 * 10**6, tuple(range(8)), "float32")]


def test_a_ring_all_reduce_with_perfect_overlap():
    rank = Rank(0, 8, world(8), range(8)).compute(0.1)
    event = rank.start(rank.call("allreduce_", 0, 10**6))
    rank.compute(0.1).wait(event)
    close(simulate(job(rank), H100, Wire()).total_s, 0.2)


def test_a_collective_takes_its_cores_from_the_compute_beside_it():
    # 7 ms beside a collective that holds 16 of 132 cores: 7 ms * 16 / 132 = 0.85 ms more
    rank = Rank(0, 8, world(8), range(8)).compute(0.1)
    event = rank.start(rank.call("allreduce_", 0, 10**6))
    rank.compute(0.1).wait(event)
    close(simulate(job(rank), H100, Wire(cores=16)).total_s, 0.2 + 0.007 * 16 / 132, 50e-6)


def test_a_collective_starts_when_the_last_has_arrived_and_ends_for_all_at_once():
    fast, slow = Rank(0, 2, world(2)), Rank(1, 2, world(2))
    for rank, seconds in ((fast, 0.1), (slow, 0.3)):
        rank.compute(seconds)
        rank.run(rank.call("allreduce_", 0, 10**6)).compute(0.1)
    timeline = simulate(job(fast, slow), H100, Wire())
    close(timeline.total_s, 0.3 + 0.004 + 0.1)
    for rank in timeline.ranks:
        close(rank.timeline.total_s, 0.404)
        (wait,) = rank.waits
        close(wait.start_s, 0.3)
        assert wait.late == 1
    close(timeline.ranks[0].waits[0].ready_s, 0.1)


def test_of_several_that_arrive_last_the_first_is_the_late_one():
    """Whichever the simulation comes to first: rank 0 stops at what it receives, which rank 1 sends later."""
    one, other, early = (Rank(rank, 3, [((0, 1, 2), "dp"), ((0, 1), "pp")][: 2 - rank // 2]) for rank in range(3))
    one.run(one.recv(1, 10**6, group=1))
    other.run(other.send(0, 10**6, group=1))
    for rank in (one, other, early):
        rank.run(rank.call("allreduce_", 0, 10))
    ranks = simulate(job(one, other, early), H100, Wire()).ranks
    assert [rank.waits[-1].late for rank in ranks] == [0, 0, 0]


def test_compute_goes_on_beside_a_collective_whose_partner_is_late():
    fast, slow = Rank(0, 2, world(2)), Rank(1, 2, world(2))
    fast.compute(0.1)
    event = fast.start(fast.call("allreduce_", 0, 10**6))
    fast.compute(0.1).compute(0.05).wait(event).compute(0.1).add(w(Kind.SYNC))
    slow.compute(0.3)
    slow.run(slow.call("allreduce_", 0, 10**6))
    timeline = simulate(job(fast, slow), H100, Wire())
    starts = timeline.ranks[0].timeline
    names = [starts.program.ops[op].name for op in starts.op]
    assert names == ["anychip.sleep", "c10d.allreduce_.default"] + ["anychip.sleep"] * 3  # in the order of the tape
    close(float(starts.end_s[3]), 0.25)
    close(timeline.ranks[0].timeline.total_s, 0.404)
    close(float(starts.host_s[-1]), 0.404)


@pytest.mark.parametrize(("stages", "batches"), [(2, 2), (4, 4), (4, 8), (8, 16), (4, 1), (4, 2)])
def test_one_forward_one_backward_has_the_bubble_of_the_formula(stages, batches):
    # (m + p - 1) slots of forward and backward: a bubble of (p - 1) / (m + p - 1)
    timeline = simulate(one_f_one_b(stages, batches, 0.1, 0.2), H100, Wire(rate=1e15))
    close(timeline.total_s, (batches + stages - 1) * 0.3, 2e-3)
    for rank in timeline.ranks:
        wire = rank.is_wire()[rank.timeline.op]
        close(float(rank.timeline.duration_s[~wire].sum()), batches * 0.3, 2e-3)


def test_a_pipeline_does_not_depend_on_which_rank_is_recorded_first():
    first = simulate(one_f_one_b(4, 6, 0.1, 0.2, 10**6), H100, Wire(latency=1e-4))
    program = one_f_one_b(4, 6, 0.1, 0.2, 10**6)
    ranks = program.ranks
    turned = [ranks[2], ranks[0], ranks[3], ranks[1]]
    for rank in turned:
        rank.others = []
    turned[0].others = turned[1:]
    second = simulate(turned[0], H100, Wire(latency=1e-4))
    assert second.total_s == pytest.approx(first.total_s, rel=1e-12)
    ends = {rank.program.rank: rank.timeline.total_s for rank in second.ranks}
    assert ends == {rank.program.rank: pytest.approx(rank.timeline.total_s, rel=1e-12) for rank in first.ranks}


def test_replicas_of_a_pipeline_are_not_run():
    alone = simulate(one_f_one_b(4, 6, 0.1, 0.2, 10**6), H100, Wire())
    many = simulate(one_f_one_b(4, 6, 0.1, 0.2, 10**6, replicas=1024), H100, Wire())
    assert many.total_s == pytest.approx(alone.total_s, rel=1e-12)
    assert many.num_chips == 4096
    assert len(many.ranks) == 4


def test_sends_and_receives_of_a_batch_run_at_once():
    ranks = [Rank(i, 2, world(2)) for i in range(2)]
    for rank in ranks:
        other = 1 - rank.rank
        rank.run(rank.send(other, 10**6), rank.recv(other, 10**6))
    close(simulate(job(*ranks), H100, Wire()).total_s, 0.004)


def test_a_ring_of_one_class_needs_no_other_recording():
    rank = Rank(0, 8, world(8, "cp"), range(8))
    for _ in range(7):
        event = rank.start(rank.send(1, 10**6), rank.recv(7, 10**6))
        rank.compute(0.01).wait(event)
    close(simulate(job(rank), H100, Wire()).total_s, 7 * 0.01, 1e-3)


def test_an_all_to_all_that_names_one_neighbour_is_a_message_to_it():
    """It took half as long between two: of an even one a rank keeps its own part."""
    rank = Rank(0, 2, world(2, "cp"), range(2))
    rank.run(rank.call("alltoall_base_", 0, 10**6, splits=(0, 10**6)))
    wire = Wire()
    close(simulate(job(rank), H100, wire).total_s, 4e-3)  # 4e6 B / 1e9 B/s
    assert {(kind, ranks) for kind, _, ranks, _ in wire.asked} == {("send", (0, 1)), ("send", (1, 0))}


def test_what_a_rank_keeps_of_an_uneven_all_to_all_takes_no_wire():
    rank = Rank(0, 2, world(2, "ep"), range(2))
    rank.run(rank.call("alltoall_base_", 0, 10**6, splits=(3 * 10**5, 7 * 10**5)))
    wire = Wire()
    simulate(job(rank), H100, wire)
    # 2.8 MB leave; of an even one between two, half of 5.6 MB
    assert {(kind, nbytes) for kind, nbytes, *_ in wire.asked} == {("all_to_all", 5_600_000)}


def test_two_receives_share_the_wire():
    hub = Rank(0, 3, world(3))
    spokes = [Rank(i, 3, world(3)).compute(0.1 * i) for i in (1, 2)]
    hub.run(hub.recv(1, 10**6), hub.recv(2, 10**6))
    for spoke in spokes:
        spoke.run(spoke.send(0, 10**6))
    close(simulate(job(hub, *spokes), H100, Wire()).total_s, 0.204)
    spokes[1].tape[0] = spokes[1].op(spokes[0].ops[0])  # now both come after 0.1 s
    close(simulate(job(hub, *spokes), H100, Wire()).total_s, 0.108)


def test_fsdp_gathers_ahead():
    # 4 layers of 10 ms; each gathers 4 MB over 8 ranks (3.5 ms) while the one before computes: only the first is exposed
    rank = Rank(0, 8, world(8, "dp_shard"), range(8))
    event = rank.start(rank.call("_allgather_base_", 0, 125_000))
    for layer in range(4):
        rank.wait(event)
        if layer < 3:
            event = rank.start(rank.call("_allgather_base_", 0, 125_000))
        rank.compute(0.01)
    close(simulate(job(rank), H100, Wire()).total_s, 0.0435)


def test_tensor_parallel_all_reduces_are_exposed():
    rank = Rank(0, 8, world(8, "tp"), range(8))
    for _ in range(4):
        rank.compute(0.01).add(rank.call("allreduce_", 0, 10**6))
    close(simulate(job(rank), H100, Wire()).total_s, 4 * 0.017, 2e-4)


def test_a_rank_that_stands_for_others_waits_for_the_one_that_is_unlike():
    # rank 0 writes a checkpoint for 0.5 s; 1 stands for 1..7 and all meet in the world group; the pairs are tp groups
    zero = Rank(0, 8, [((0, 1), "tp"), ((0, 2, 4, 6), "dp")])
    rest = Rank(1, 8, [((0, 1), "tp"), ((1, 3, 5, 7), "dp")], range(1, 8))
    for rank, seconds in ((zero, 0.5), (rest, 0.1)):
        rank.compute(seconds)
        rank.run(rank.call("allreduce_", 1, 1000)).compute(0.1)
    timeline = simulate(job(zero, rest), H100, Wire())
    close(timeline.ranks[1].timeline.total_s, 0.6)


def test_events_that_are_recorded_again_mean_the_latest():
    fast, slow = Rank(0, 2, world(2)), Rank(1, 2, world(2))
    slow.compute(0.3)
    slow.run(slow.call("allreduce_", 0, 10))
    # event 9 is recorded behind a collective that waits, then again on a stream that does not
    fast.add(
        w(Kind.STREAM, COMM), fast.call("allreduce_", 0, 10), w(Kind.RECORD, 9), w(Kind.STREAM, 5), w(Kind.WAIT, 9)
    )
    fast.add(w(Kind.STREAM, 0), w(Kind.RECORD, 9), w(Kind.WAIT, 9)).compute(0.1)
    fast.add(w(Kind.STREAM, 5)).compute(0.1)
    ends = simulate(job(fast, slow), H100, Wire()).ranks[0].timeline
    close(float(ends.end_s[ends.stream == 0][0]), 0.1)
    close(float(ends.end_s[ends.stream == 5][0]), 0.4)


def test_events_that_nobody_waits_for_change_no_time():
    plain, noted = Rank(0, 1, world(1)), Rank(0, 1, world(1))
    for event in (7, 8, 7):
        plain.compute(0.1)
        noted.compute(0.1).add(w(Kind.RECORD, event))
    plain, noted = (simulate(job(rank), H100, Wire()).ranks[0].timeline for rank in (plain, noted))
    close(noted.total_s, plain.total_s)
    close(float(noted.host_s[-1]), float(plain.host_s[-1]))


@pytest.mark.parametrize(("stages", "chunks"), [(4, 1), (4, 2), (4, 3), (3, 4)])
def test_an_interleaved_pipeline_fills_in_smaller_slots(stages, chunks):
    # as many batches as stages, each through every stage `chunks` times: p - 1 slots of a chunk are idle, whatever v is
    ranks = [Rank(stage, stages, world(stages, "pp")) for stage in range(stages)]
    for me in ranks:
        before, after = (me.rank - 1) % stages, (me.rank + 1) % stages
        for chunk in range(chunks):
            for _ in range(stages):
                if me.rank or chunk:
                    me.run(me.recv(before, 10), stream=COMM + 1)
                me.compute(0.1)
                if me.rank < stages - 1 or chunk < chunks - 1:
                    me.start(me.send(after, 10), stream=COMM + 2)
    timeline = simulate(job(*ranks), H100, Wire(rate=1e15))
    close(timeline.total_s, (stages * chunks + stages - 1) * 0.1, 2e-3)


@pytest.mark.parametrize("stopped", [True, False])
def test_a_recording_that_is_stopped_before_its_partner_is_no_deadlock(stopped):
    # both have done their step; the second has begun to receive for the next one, which the first never got to
    ranks = [Rank(i, 2, world(2)) for i in range(2)]
    for me in ranks:
        me.mark(Mark.FORWARD_BEGIN).compute(0.1)
        me.run(me.call("allreduce_", 0, 10)).mark(Mark.OPTIMIZER_BEGIN).mark(Mark.OPTIMIZER_END)
    ranks[1].run(ranks[1].recv(0, 10)).compute(0.1).add(w(Kind.SYNC)).compute(0.1)
    program = job(*ranks)
    program.meta["stopped"] = stopped
    if not stopped:  # nothing came after what is recorded
        with pytest.raises(Deadlock, match=r"waits for rank 0 \(ended without it\)"):
            simulate(program, H100, Wire())
        return
    timeline = simulate(program, H100, Wire())
    close(timeline.total_s, 0.1)
    later = timeline.ranks[1].timeline
    assert later.op.size == 2
    assert later.host_s.size == later.program.tape.size


@pytest.mark.parametrize("stopped", [(0, 1), (1,)])
def test_a_recording_that_the_user_stopped_is_no_deadlock(stopped):
    """Also where the rank that waits had come to its own end by then: the job was said to hang, and recorded once more."""
    fast, slow = Rank(0, 2, world(2)).compute(0.1), Rank(1, 2, world(2)).compute(0.1)
    fast.run(fast.call("allreduce_", 0, 10))
    program = job(fast, slow)
    with pytest.raises(Deadlock):
        simulate(program, H100, Wire())
    for rank in stopped:
        program.ranks[rank].meta["interrupted"] = True
    close(simulate(program, H100, Wire()).total_s, 0.1)


def test_a_coalesced_batch_is_one_message():
    # two gathers of 1 MB and 3 MB over 2 ranks at 1 GB/s: 0.5 + 1.5 ms, and the latency of 10 ms once
    rank = Rank(0, 2, world(2), range(2))
    rank.run(rank.call("_allgather_base_", 0, 125_000), rank.call("_allgather_base_", 0, 375_000))
    close(simulate(job(rank), H100, Wire(latency=0.01)).total_s, 0.012)
    # one after another
    rank = Rank(0, 2, world(2), range(2))
    rank.run(rank.call("_allgather_base_", 0, 125_000)).run(rank.call("_allgather_base_", 0, 375_000))
    close(simulate(job(rank), H100, Wire(latency=0.01)).total_s, 0.022)


def test_a_coalesced_batch_of_two_recordings_is_one_message():
    ranks = [Rank(i, 2, world(2)).compute(0.1 * i) for i in range(2)]
    for rank in ranks:
        rank.run(rank.call("allreduce_", 0, 250_000), rank.call("allreduce_", 0, 750_000)).compute(0.1)
    timeline = simulate(job(*ranks), H100, Wire(latency=0.01))
    # 0.1 s late, 2 steps of 10 ms, 4 MB at 1 GB/s
    close(timeline.total_s, 0.1 + 0.02 + 0.004 + 0.1)


def test_groups_by_the_hundred_are_joined_at_once():
    """All of the other's were looked at for each: eight classes of 400 groups took three seconds."""
    ranks = [
        Rank(8 * one, 64, [(range(64), "dp", copy) for copy in range(400)], range(8 * one, 8 * one + 8))
        for one in range(8)
    ]
    for rank in ranks:
        rank.run(rank.call("allreduce_", 399, 8))
    began = time.process_time()
    simulate(job(*ranks), H100, Wire())
    assert time.process_time() - began < 1
