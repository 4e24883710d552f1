"""Jobs that would hang: which ranks, which collective, which line."""

import pytest

from anychip.cluster import simulate
from anychip.errors import AnychipError, BadProgramFile, Deadlock, ProgramFailed
from anychip.spec import load_chip
from tests.cluster.jobs import Rank, Wire, job

H100 = load_chip("h100")
PAIR = [((0, 1), "dp")]


def pair():
    return [Rank(0, 2, PAIR), Rank(1, 2, PAIR)]


def told(*ranks):
    with pytest.raises(Deadlock) as error:
        simulate(job(*ranks), H100, Wire())
    assert error.value.exit_code == 2
    return str(error.value)


def test_collectives_in_another_order():
    one, other = pair()
    one.at(10).run(one.call("allreduce_", 0, 100)).at(11).run(one.call("_allgather_base_", 0, 100))
    other.at(10).run(other.call("_allgather_base_", 0, 100)).at(11).run(other.call("allreduce_", 0, 100))
    text = told(one, other)
    assert 'rank 0: all_reduce of 400 B float32 in group "dp" (ranks 0, 1), train.py:10' in text
    assert "rank 1: all_gather of 800 B float32" in text
    assert "do not match" in text


def two_groups(first, second):
    """Ranks 0, 1 with two groups of theirs, each noted as the rank came to it."""
    of = {0: ((0, 1), "dp"), 1: ((0, 1), "dp", 1)}
    one, other = (Rank(rank, 2, [of[at] for at in order]) for rank, order in ((0, first), (1, second)))
    for rank in (one, other):
        rank.run(rank.call("allreduce_", 0, 100)).run(rank.call("allreduce_", 1, 100))
    return one, other


def test_two_groups_of_the_same_ranks_in_another_order():
    text = told(*two_groups((0, 1), (1, 0)))
    assert 'rank 0: all_reduce of 400 B float32 in group "dp" (ranks 0, 1; number 1 of their groups)' in text
    assert 'rank 1: all_reduce of 400 B float32 in group "dp" (ranks 0, 1; number 2 of their groups)' in text


def test_two_groups_of_the_same_ranks_in_one_order():
    simulate(job(*two_groups((1, 0), (1, 0))), H100, Wire())


def test_collectives_of_other_sizes():
    one, other = pair()
    one.at(5).run(one.call("allreduce_", 0, 100))
    other.at(7).run(other.call("allreduce_", 0, 101))
    text = told(one, other)
    assert "400 B" in text
    assert "404 B" in text
    assert "train.py:5" in text
    assert "train.py:7" in text


def test_each_takes_itself_for_the_root():
    one, other = pair()
    for rank in (one, other):
        rank.at(5).run(rank.call("broadcast_", 0, 100, root=rank.rank))
    text = told(one, other)
    assert 'rank 0: broadcast of 400 B float32 from rank 0 in group "dp"' in text
    assert 'rank 1: broadcast of 400 B float32 from rank 1 in group "dp"' in text


def test_roots_of_groups_of_their_own_fit():
    """Rank 1 is in rank 0's group, and rank 3, which stands for it, in one of its own."""
    one = Rank(0, 4, [((0, 1), "tp")], (0, 2))
    other = Rank(3, 4, [((2, 3), "tp")], (1, 3))
    for rank, root in ((one, 0), (other, 2)):
        rank.run(rank.call("broadcast_", 0, 100, root=root))
    simulate(job(one, other), H100, Wire())


def test_other_sizes_are_of_the_ranks_that_ran_not_of_those_that_they_stand_for():
    """Ranks 3 to 7 of 8 may have a size of their own each: it was said that they had that of rank 2."""
    group = [(tuple(range(8)), "dp")]
    ranks = [Rank(0, 8, group), Rank(1, 8, group, range(1, 7)), Rank(7, 8, group)]
    for rank in ranks:
        rank.at(5).run(rank.call("allreduce_", 0, 100 + rank.rank))
    program = job(*ranks)
    program.meta["ranks_run"] = [0, 1, 2, 7]
    with pytest.raises(Deadlock) as error:
        simulate(program, H100, Wire())
    text = str(error.value)
    assert "  rank 0: all_reduce of 400 B" in text
    assert "  ranks 1, 2, which stand for ranks 3, 4, 5, 6: all_reduce of 404 B" in text


def test_a_rank_that_failed_is_named_before_those_that_wait_for_it():
    one, other = pair()
    other.at(3).run(other.recv(0, 10))
    program = job(one, other)
    program.meta |= {"failed_rank": 0, "exit_code": 3}
    with pytest.raises(ProgramFailed, match=r"^rank 0 failed; other ranks wait for what it would have done") as error:
        simulate(program, H100, Wire())
    assert error.value.exit_code == 3
    assert error.value.how is not None
    assert error.value.how.rank == 0


def test_uneven_all_to_alls_fit():
    one, other = pair()
    one.run(one.call("alltoall_base_", 0, 100))
    other.run(other.call("alltoall_base_", 0, 300))
    simulate(job(one, other), H100, Wire())


def test_a_send_without_its_receive():
    one, other = pair()
    one.at(3).run(one.send(1, 10)).at(4).run(one.send(1, 10))
    other.at(6).run(other.recv(0, 10))
    text = told(one, other)
    assert "rank 0: send of 40 B float32 to rank 1" in text
    assert "train.py:4" in text
    assert "waits for rank 1 (ended without it)" in text
    assert "makes it certain" not in text  # both ranks ran


def test_a_send_that_nobody_receives_at_all():
    one, other = pair()
    one.at(3).run(one.send(1, 10))
    other.compute(0.1)
    assert "waits for rank 1 (ended without it)" in told(one, other)


def test_two_that_receive_first_wait_for_each_other():
    one, other = pair()
    for rank in (one, other):
        rank.at(20).run(rank.recv(1 - rank.rank, 10)).at(21).run(rank.send(1 - rank.rank, 10))
    text = told(one, other)
    assert "rank 0: recv of 40 B float32 from rank 1" in text
    assert "rank 1: recv" in text
    assert "train.py:20" in text
    assert "not there yet" in text


def test_a_rank_that_leaves_the_loop_early():
    one, other = pair()
    for step in range(3):
        one.at(30).run(one.call("allreduce_", 0, 10))
        if step < 2:
            other.at(30).run(other.call("allreduce_", 0, 10))
    assert "waits for rank 1 (ended without it)" in told(one, other)


def test_many_ranks_are_named_in_short():
    ranks = [
        Rank(0, 64, [(tuple(range(64)), None)], range(0, 64, 2)),
        Rank(1, 64, [(tuple(range(64)), None)], range(1, 64, 2)),
    ]
    ranks[0].at(1).run(ranks[0].call("barrier", 0, 1))
    text = told(*ranks)
    assert "rank 0, which stands for ranks 2, 4, 6 ... 62 (31 ranks): barrier" in text
    assert "waits for rank 1, which stands for ranks 3, 5, 7 ... 63 (31 ranks) (ended without it)" in text
    assert (
        "2 of 64 ranks ran, and took what they gathered from the others to be as their own: --ranks all makes" in text
    )


def test_of_a_job_whose_ranks_cannot_all_run_a_smaller_one_is_advised():
    """--ranks all was advised of 1,024 ranks, and refused."""
    ranks = [
        Rank(0, 1024, [(tuple(range(1024)), None)], range(0, 1024, 2)),
        Rank(1, 1024, [(tuple(range(1024)), None)], range(1, 1024, 2)),
    ]
    ranks[0].at(1).run(ranks[0].call("barrier", 0, 1))
    assert "--ranks all of a job of 256 at most makes it certain" in told(*ranks)


def test_recordings_that_do_not_make_up_a_job():
    one, other = pair()
    other.members = (0,)
    with pytest.raises(BadProgramFile, match="rank 1"):
        simulate(job(one, other), H100, Wire())
    with pytest.raises(BadProgramFile, match="no recording stands for rank 1"):
        simulate(job(one), H100, Wire())


def test_a_receive_from_any_rank_to_which_nobody_sends():
    one, other = pair()
    one.at(10).run(one.call("recv_any_source_", 0, 100))
    other.compute(1e-3)
    assert "train.py:10" in told(one, other)


def test_a_receive_from_any_of_ranks_that_one_recording_stands_for():
    """They would come one after another, and there is one of them."""
    group = [((0, 1, 2), "workers")]
    one, others = Rank(0, 3, group), Rank(1, 3, group, members=(1, 2))
    one.run(one.call("recv_any_source_", 0, 100)).run(one.call("recv_any_source_", 0, 100))
    others.run(others.send(0, 100))
    with pytest.raises(AnychipError, match="Try --ranks all"):
        simulate(job(one, others), H100, Wire())
