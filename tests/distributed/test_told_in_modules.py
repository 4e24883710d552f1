"""Objects that modules exchange: their calls fold on all ranks or on none."""

from anychip.cluster import simulate
from anychip.spec import load_chip
from tests.cluster.jobs import Wire
from tests.distributed.jobs import job


def test_a_root_folds_no_calls_that_others_do_not() -> None:
    """It went on without waiting, so that its calls alone were folded, and the others waited for objects that it never gave."""
    simulate(job("told_in_modules.py", 4), load_chip("h100"), Wire())
