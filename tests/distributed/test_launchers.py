"""Programs that are written for another launcher than torchrun."""

import os
import subprocess
import sys

import pytest

from anychip import api
from anychip.device.distributed.launchers import AS_TORCHRUN

SLURM = """
import os, torch, torch.distributed as dist
rank, local, world = (int(os.environ[name]) for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"))
port = 10000 + int(os.environ["SLURM_JOB_ID"]) % 20000
torch.cuda.set_device(local)
dist.init_process_group("nccl", init_method=f"tcp://{os.environ['SLURM_LAUNCH_NODE_IPADDR']}:{port}", rank=rank, world_size=world)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 64).cuda(), device_ids=[local])
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(3):
    model(torch.randn(8, 64, device="cuda")).sum().backward()
    if int(os.environ["SLURM_PROCID"]) == 5:
        model(torch.randn(8, 64, device="cuda")).sum().item()
    optimizer.step()
"""


def test_a_script_for_slurm_runs_as_the_rank_that_it_is(tmp_path):
    """It was a KeyError: 'SLURM_PROCID'. What it does on one rank alone is seen, as of RANK."""
    path = tmp_path / "slurm.py"
    path.write_text(SLURM, encoding="utf-8")
    program = api.record(str(path), on="h100:8")
    assert program.world_size == 8
    assert 5 in [one.rank for one in program.ranks]


# Prints what each way of asking says, in a process of its own.
ASKED = """
import os
from anychip.device.distributed.launchers import answer_for_others
os.environ.update(RANK="3", WORLD_SIZE="8")
os.environ.pop("SLURM_PROCID", None)
answer_for_others()
name = "SLURM_PROCID"
print(os.environ[name], name in os.environ, os.environ.get(name), os.getenv(name, "no"), os.environ.pop(name, "none"), name in {**os.environ})
for other in ("SLURM_LOCALID", "HOME_OF_NOBODY"):  # torchrun's is not there; nobody's
    try: print(os.environ[other])
    except KeyError as error: print("KeyError", error)
print(os.environ.setdefault(name, "4"), os.environ[name], os.environ.pop(name), os.environ[name])
"""


def test_who_looks_for_a_launcher_finds_torchrun_alone():
    done = subprocess.run(
        [sys.executable, "-c", ASKED], capture_output=True, text=True, check=True, env={**os.environ, "LOCAL_RANK": ""}
    )
    first, *rest = done.stdout.splitlines()
    assert first == "3 False None no none False"
    assert rest == ["", "KeyError 'HOME_OF_NOBODY'", "4 4 4 3"]


@pytest.mark.parametrize("name", sorted(set(AS_TORCHRUN.values())))
def test_each_is_one_that_torchrun_sets(name):
    from anychip.device.distributed.launchers import environment

    assert name in environment(0, 8, 8)
