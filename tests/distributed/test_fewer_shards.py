"""Ranks that get no part of a tensor, as there are more of them than rows of it, and so hold less."""

from pathlib import Path

import pytest

from anychip.api import forecast

PROGRAM = """
import torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard

class Experts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line, self.experts = torch.nn.Linear(64, 64), torch.nn.Parameter(torch.randn(4, 64, 64))

    def forward(self, x):
        return torch.einsum("bi,eij->bj", self.line(x), self.experts).clone()

dist.init_process_group("nccl")
rank = dist.get_rank()
torch.cuda.set_device(rank)
model = fully_shard(Experts().cuda())
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(3):
    model(torch.randn(64, 64, device="cuda")).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    {more}
"""


@pytest.mark.parametrize(("more", "owner"), [("pass", 0), ("if rank == 0: x = torch.ones(3, device='cuda') + 1", 1)])
def test_ranks_without_a_shard_are_told_to_stand_with_one_that_has_it(more: str, owner: int, tmp_path: Path) -> None:
    """Where rank 0 did something else besides, the last rank had a class of its own, and of the others nothing was said."""
    script = tmp_path / "experts.py"
    script.write_text(PROGRAM.replace("{more}", more))
    answer = forecast([str(script)], on="h100:8", show_output=False)
    assert any(f"Rank 7 does as rank {owner}, on what is left of tensors" in text for text in answer.warnings), (
        answer.warnings
    )
    (*_, rest) = answer.forecasts[0].ranks
    assert (rest.rank, rest.members) == (owner, 8 - owner)
