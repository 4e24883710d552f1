"""Collectives between hosts, and of objects: what only one branch reaches is found, and what is right is no deadlock."""

import pytest

from anychip.cluster import simulate
from anychip.errors import Deadlock
from anychip.spec import load_chip
from tests.cluster.jobs import Wire
from tests.distributed.jobs import PROGRAMS, job

H100 = load_chip("h100")
PROGRAM = PROGRAMS / "one_branch.py"


def told(name: str) -> str:
    with pytest.raises(Deadlock) as error:
        simulate(job("one_branch.py", 2, name), H100, Wire())
    return str(error.value)


@pytest.mark.parametrize("name", ["all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list"])
def test_objects_that_one_rank_alone_exchanges_meet_what_the_others_call(name: str) -> None:
    """They travel by the chips' own group, whose next collective the other rank is in."""
    text = told(name)
    assert "collectives do not match" in text
    assert f"rank 0: {name} " in text
    line = next(
        number
        for number, line in enumerate(PROGRAM.read_text().splitlines(), 1)
        if f"dist.{name}(" in line and "lambda" in line
    )
    assert f"one_branch.py:{line}" in text
    assert "rank 1: all_reduce of" in text


@pytest.mark.parametrize("name", ["monitored_barrier", "barrier", "all_reduce"])
def test_what_one_rank_alone_calls_on_a_group_of_hosts_waits_for_ever(name: str) -> None:
    text = told(name)
    assert "ranks wait for what never comes" in text
    assert f"rank 0: {name} " in text
    assert "waits for rank 1 (not there yet)" in text


def test_tags_that_differ_never_meet() -> None:
    text = told("tags_differ")
    assert "rank 0: send of 12 B float32 to rank 1 with tag 1" in text
    assert "rank 1: recv of 12 B float32 from rank 0 with tag 2" in text


@pytest.mark.parametrize("name", ["same_line", "received_over_a_synchronised_chip", "batch", "logged", "beside"])
def test_what_is_right_is_no_deadlock(name: str) -> None:
    simulate(job("one_branch.py", 2, name), H100, Wire())
