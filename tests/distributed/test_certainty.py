"""A job that seems to hang runs again, with all of its ranks."""

from pathlib import Path

import pytest

from anychip.api import forecast
from anychip.errors import Deadlock

PROGRAM = """
import os, sys, torch, torch.distributed as dist
dist.init_process_group('nccl')
rank = dist.get_rank()
torch.cuda.set_device(rank)
os.mkdir(f'{sys.argv[1]}/{rank}')
for _ in range(2):
    torch.nn.Linear(4, 4).cuda()(torch.ones(2, 4, device='cuda')).sum().backward()
    if rank != 2: dist.all_reduce(torch.ones(4, device='cuda'))
    dist.barrier()
"""


def test_files_of_its_first_run_do_not_hide_that_it_hangs(tmp_path: Path) -> None:
    """The answer was that a folder was there already, which the user had never made."""
    script = tmp_path / "once.py"
    script.write_text(PROGRAM)
    said: list[str] = []
    with pytest.raises(Deadlock, match=r"rank 2: barrier"):
        forecast([str(script), str(tmp_path)], on="h100:4", show_output=False, progress=said.append)
    assert any("files that its first run made" in text for text in said)
