"""Splits by what ranks that did not run would have told are no mismatch."""

import pytest

from anychip.cluster import simulate
from anychip.spec import load_chip
from tests.cluster.jobs import Wire
from tests.distributed.jobs import job


@pytest.mark.parametrize("how", ["objects", "floats"])
def test_counts_that_few_ranks_told_for_all_are_no_mismatch(how: str) -> None:
    """A right program on 64 chips was said to hang: too many for all to run, to be certain."""
    simulate(job("gathered.py", 64, how), load_chip("h100"), Wire())
