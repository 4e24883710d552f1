"""What hosts exchange in other threads than the program's first."""

from anychip.cluster import simulate
from anychip.spec import load_chip
from tests.cluster.jobs import Wire
from tests.distributed.jobs import job


def test_what_one_rank_calls_in_a_thread_is_waited_for_by_nobody() -> None:
    """It is left out, and the others were said to wait for it for ever."""
    simulate(job("in_a_thread.py", 2), load_chip("h100"), Wire())
