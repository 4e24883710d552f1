"""Who gives in a broadcast: all ranks of a group have to name the same."""

from pathlib import Path

import pytest

from anychip.api import forecast
from anychip.errors import Deadlock

STEP = """
import torch, torch.distributed as dist
dist.init_process_group("nccl")
rank, size = dist.get_rank(), dist.get_world_size()
model = torch.nn.Linear(64, 64, device="cuda")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
pair = dist.new_subgroups(2)[0]
for step in range(3):
    model(torch.randn(8, 64, device="cuda")).sum().backward()
    dist.broadcast(model.weight.grad, src={root}, group={group})
    optimizer.step()
"""


def of(tmp_path: Path, root: str, group: str = "None"):
    script = tmp_path / "train.py"
    script.write_text(STEP.format(root=root, group=group))
    return forecast([str(script)], on="h100:4", show_output=False)


def test_ranks_that_each_broadcast_from_themselves_are_told(tmp_path: Path) -> None:
    """A rank's number was left out of what it did, so that all were of one class, in which nobody meets another."""
    with pytest.raises(Deadlock, match="rank 0: broadcast of 16") as found:
        of(tmp_path, "rank")
    assert "from rank 1 in group (ranks 0, 1, 2, 3)" in str(found.value)


def test_pairs_that_broadcast_from_their_first_are_of_one_class(tmp_path: Path) -> None:
    answer = of(tmp_path, "rank // 2 * 2", "pair")
    assert [(rank.rank, rank.members) for rank in answer.forecasts[0].ranks] == [(0, 4)]
