"""What one rank alone calls once training is over hangs as anywhere else, where the program comes to its end by itself."""

from pathlib import Path

import pytest

from anychip.api import forecast
from anychip.errors import Deadlock

PROGRAM = """
import sys, torch, torch.distributed as dist
dist.init_process_group("nccl")
rank = dist.get_rank()
torch.cuda.set_device(rank)
model = torch.nn.Linear(4, 4).cuda()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(int(sys.argv[2])):
    model(torch.ones(2, 4, device="cuda")).sum().backward()
    for weight in model.parameters():
        dist.all_reduce(weight.grad)
    optimizer.step()
number, objects, calls = torch.ones(4, device="cuda"), [1, 2], sys.argv[1]
if rank == 0 or calls == "dist.barrier() of all":
    eval(calls.removesuffix(" of all"))
"""


@pytest.mark.parametrize(("calls", "steps"), [
    ("dist.barrier()", 2), ("dist.all_reduce(number)", 3), ("dist.send(number, 1)", 2), ("dist.recv(number, 1)", 3),
    ("dist.broadcast_object_list(objects, 0)", 3), ("dist.recv_object_list(objects, 1)", 2),
])  # fmt: skip
def test_what_rank_0_alone_calls_after_training_hangs(calls: str, steps: int, tmp_path: Path) -> None:
    """The job had figures, as if others had been ended before they came there; what rank 0 waits to receive after as many steps as are
    recorded ended with the program's exit code."""
    script = tmp_path / "after.py"
    script.write_text(PROGRAM)
    with pytest.raises(Deadlock, match=r"rank 0.*after.py:\d+(.|\n)*rank 1|rank 0 waits in .* for rank 1"):
        forecast([str(script), calls, str(steps)], on="h100:2", show_output=False)


@pytest.mark.parametrize(("calls", "steps"), [("dist.barrier() of all", 3), ("dist.barrier()", 4), ("None", 2)])
def test_what_all_call_does_not_nor_what_was_not_recorded(calls: str, steps: int, tmp_path: Path) -> None:
    script = tmp_path / "after.py"
    script.write_text(PROGRAM)
    assert forecast([str(script), calls, str(steps)], on="h100:2", show_output=False).outcome == "fine"
