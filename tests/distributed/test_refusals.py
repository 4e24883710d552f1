"""What torch refuses on a real chip it refuses here, and a rank outside of a group does nothing in it."""

from tests.distributed.jobs import job


def test_calls_that_a_real_backend_refuses_and_objects_of_groups_of_others() -> None:
    """Sizes that do not divide were forecast; a rank that was not in a group fell over our own code."""
    program = job("refused.py", 2, ranks="all")
    assert program.meta["exit_code"] == 0
