"""DistributedDataParallel's buckets: of what they are where a hook reduces them, and what making them anew takes."""

import pytest

from anychip.record import Kind
from anychip.record.steps import find_steps
from anychip.timeline.memory import memory
from tests.distributed.jobs import collectives, job


@pytest.mark.parametrize("hook", ["fp16", "powersgd"])
def test_buckets_that_a_hook_compresses_are_gradients(hook: str) -> None:
    """They were "inputs, the rest", as what the hook reduces is something else."""
    held = memory(job("ddp_hook.py", 2, hook).ranks[0]).by_kind
    assert held["gradients"] == pytest.approx(2 * held["parameters"], rel=0.05)


def test_making_buckets_anew_is_in_no_step() -> None:
    """The second forward told the peers their order and waited for it, once: half of the steps that count by default did."""
    program = job("ddp_hook.py", 2, "none")
    assert (
        collectives(program, of_step=1) == collectives(program, of_step=2) == {"allreduce_": 2}
    )  # the first is of 1 MiB
    for step in find_steps(program)[1:]:
        kinds = program.kinds[step.begin : step.end]
        assert not {Kind.SYNC, Kind.SYNC_EVENT, Kind.READ} & {*kinds.tolist()}
