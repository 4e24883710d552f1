"""Whom a rank that was run to see what it does goes with."""

from pathlib import Path

from anychip.device.launch import record
from anychip.spec import load_chip

TRAIN = """
import torch, torch.distributed as dist
dist.init_process_group("nccl")
rank, size = dist.get_rank(), dist.get_world_size()
model = torch.nn.Linear(64, 64, device="cuda")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
half = rank < size // 2
for step in range(3):
    model(torch.randn(8, 64, device="cuda")).sum().backward()
    if rank == size - 2 and step == 2:
        torch.mm(model.weight, model.weight)
    dist.all_reduce(model.weight.grad)
    optimizer.step()
"""


def test_the_last_rank_goes_with_the_one_that_it_does_as_not_with_its_neighbour(tmp_path: Path) -> None:
    """It went with the nearest of those that ran, which alone does something in its third step, and took others of its half along."""
    script = tmp_path / "train.py"
    script.write_text(TRAIN, encoding="utf-8")
    program = record([str(script)], load_chip("h100"), world_size=8, devices=8, show_output=False)
    assert {rank.rank: rank.members for rank in program.ranks} == {0: (0, 1, 2, 3, 4, 5, 7), 6: (6,)}
