"""All-to-alls whose splits disagree, and reductions by different operations."""

import pytest

from anychip.api import forecast
from anychip.cluster import simulate
from anychip.errors import Deadlock
from anychip.spec import load_chip
from tests.cluster.jobs import Wire
from tests.distributed.jobs import PROGRAMS, job

H100 = load_chip("h100")


def test_what_one_gives_and_the_other_does_not_take_is_told() -> None:
    with pytest.raises(Deadlock) as error:
        simulate(job("splits.py", 2, "fixed"), H100, Wire())
    assert "collectives do not match" in str(error.value)
    assert "rank 0 gives rank 1 64 B, which takes 80 B of it" in str(error.value)
    assert "rank 1 gives" not in str(error.value)


def test_numbers_of_tokens_that_are_made_up_are_no_mismatch() -> None:
    simulate(job("splits.py", 2, "counted"), H100, Wire())


def test_reductions_by_different_operations_are_warned_of() -> None:
    """They run on real chips, and on gloo, whose ranks then hold what neither asked for."""
    answer = forecast([str(PROGRAMS / "splits.py"), "counted", "max"], on="h100:2", show_output=False)
    (text,) = [text for text in answer.warnings if "with different operations" in text]
    assert "sum, rank 0: all_reduce of 16 B float32" in text
    assert "max, rank 1: all_reduce of 16 B float32" in text
    assert "splits.py:37" in text
