"""Jobs of more ranks than run one by one: nobody is sent to an option that refuses them."""

from pathlib import Path

import pytest

from anychip.api import forecast

PROGRAM = """
import torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard

dist.init_process_group("nccl")
torch.cuda.set_device(dist.get_rank() % 8)
model = fully_shard(torch.nn.Linear(64, 260, bias=False).cuda())
optimizer = torch.optim.SGD(model.parameters())
for _ in range(2):
    model(torch.randn(8, 64, device="cuda")).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
"""


@pytest.mark.parametrize(
    ("ranks", "advice"), [(16, "For each of them: --ranks all."), (264, "--ranks all of a job of 256 at most.")]
)
def test_all_ranks_are_advised_where_so_many_can_run(ranks: int, advice: str, tmp_path: Path) -> None:
    """260 rows are divided evenly among neither: what the last rank has less is told, and how to see each."""
    script = tmp_path / "uneven.py"
    script.write_text(PROGRAM)
    answer = forecast([str(script)], on=f"h100:{ranks}", show_output=False)
    (told,) = (text for text in answer.warnings if "what is left of tensors" in text)
    assert told.endswith(advice)
