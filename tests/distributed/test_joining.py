"""Ranks whose inputs run out go along with the others, which is no deadlock."""

import pytest

from anychip.api import forecast
from anychip.errors import Deadlock
from tests.distributed.jobs import PROGRAMS, collectives

JOIN = str(PROGRAMS / "join.py")


def test_who_has_no_inputs_left_goes_along() -> None:
    """Some ranks ran, and took the others to have as many: that seemed to be a job that hangs."""
    answer = forecast([JOIN], on="h100:2", show_output=False)
    one, other = answer.programs[0].ranks
    assert collectives(one) == collectives(other)
    assert answer.outcome == "fine"


@pytest.mark.parametrize("how", ["zero", "throw"])
def test_also_with_its_optimizer_and_where_all_end_with_the_first(how: str) -> None:
    assert forecast([JOIN, how], on="h100:3", ranks="all", show_output=False).outcome == "fine"


def test_a_job_that_hangs_is_told_after_all_its_ranks_ran(tmp_path) -> None:
    """Rank 2 alone leaves out a collective, which none of those that run first does."""
    script = tmp_path / "left_out.py"
    script.write_text(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('nccl')\n"
        "torch.cuda.set_device(dist.get_rank())\n"
        "for _ in range(2):\n"
        "    torch.nn.Linear(4, 4).cuda()(torch.ones(2, 4, device='cuda')).sum().backward()\n"
        "    if dist.get_rank() != 2: dist.all_reduce(torch.ones(4, device='cuda'))\n"
        "    dist.barrier()\n"
    )
    said: list[str] = []
    with pytest.raises(Deadlock) as error:
        forecast([str(script)], on="h100:4", show_output=False, progress=said.append)
    assert "the job seems to hang: all 4 ranks run, to be certain" in said
    assert "--ranks all" not in str(error.value)
