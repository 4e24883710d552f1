"""Sends and receives that do not belong together."""

import pytest

from anychip.cluster import simulate
from anychip.errors import Deadlock
from anychip.spec import load_chip
from tests.cluster.jobs import Rank, Wire, job

H100 = load_chip("h100")
GROUPS = [((0, 1), "dp"), ((0, 1), "dp", 1)]


def pair():
    return Rank(0, 2, GROUPS), Rank(1, 2, GROUPS)


def test_what_is_sent_in_one_group_is_not_received_in_another_of_the_same_ranks():
    one, other = Rank(0, 2, GROUPS[:1]), Rank(1, 2, GROUPS[1:])  # each knows what it has called something in
    one.at(3).run(one.send(1, 10))
    other.at(5).run(other.recv(0, 10))
    with pytest.raises(Deadlock, match="ranks wait for what never comes") as error:
        simulate(job(one, other), H100, Wire())
    assert [(stuck.rank, stuck.line) for stuck in error.value.stuck] == [(0, 3), (1, 5)]


def test_hosts_tell_sends_apart_by_tags():
    one, other = pair()
    for tags in ((1, 2), (2, 1)):
        mine, its = tags
        one.start(one.call("send", 0, 10, peer=1, host=True, tag=mine), stream=1_000_000 + mine)
        other.start(other.call("recv_", 0, 10, peer=0, host=True, tag=its), stream=1_000_000 + its)
    simulate(job(one, other), H100, Wire())


def test_a_dtype_that_is_sent_and_another_that_is_received_are_warned_of():
    one, other = pair()
    one.at(3).run(one.call("send", 0, 4, peer=1))
    other.at(5).run(other.call("recv_", 0, 2, dtype="float64", peer=0))
    (text,) = simulate(job(one, other), H100, Wire()).warnings
    assert "different dtypes: float32, rank 0: send of 16 B float32 to rank 1" in text
    assert "float64, rank 1: recv of 16 B float64 from rank 0" in text
    assert "only right where one is a view of the other" in text


def test_who_is_heard_by_name_is_heard_again_by_a_receive_from_any():
    """Such a rank was no source of it, and what it had sent waited for ever."""
    group = [((0, 1, 2), "workers")]
    one, first, second = (Rank(rank, 3, group) for rank in range(3))
    one.run(one.recv(1, 10))
    for _ in range(2):
        one.run(one.call("recv_any_source_", 0, 10))
    first.run(first.send(0, 10)).run(first.send(0, 10))
    second.run(second.send(0, 10))
    simulate(job(one, first, second), H100, Wire())


@pytest.mark.parametrize(("host", "room", "fits"), [(True, 20, True), (True, 5, False), (False, 20, False)])
def test_hosts_may_receive_into_more_than_is_sent(host, room, fits):
    """As gloo does; it was said to be a mismatch."""
    one, other = pair()
    one.start(one.call("send", 0, 10, peer=1, host=host), stream=1_000_000)
    other.start(other.call("recv_", 0, room, peer=0, host=host), stream=1_000_000)
    if fits:
        simulate(job(one, other), H100, Wire())
    else:
        with pytest.raises(Deadlock, match="do not match"):
            simulate(job(one, other), H100, Wire())
