"""Several groups of the same ranks: each has an order, and a stream, of its own."""

from pathlib import Path

import numpy as np
import pytest

from anychip.api import forecast
from anychip.device.launch import record
from anychip.errors import Deadlock
from anychip.record import Group, Kind
from anychip.spec import load_chip
from tests.distributed.jobs import PROGRAMS, job

TWO = str(PROGRAMS / "two_groups.py")
BEGIN = (
    "import torch, torch.distributed as dist\n"
    "from torch.distributed.device_mesh import init_device_mesh\n"
    "dist.init_process_group('nccl')\n"
    "rank, x = dist.get_rank(), torch.ones(64, 64, device='cuda')\n"
)


def groups(tmp_path: Path, text: str, world_size: int = 4) -> list[Group]:
    script = tmp_path / "groups.py"
    script.write_text(BEGIN + text)
    program = record([str(script)], load_chip("h100"), world_size=world_size, devices=world_size, show_output=False)
    assert len(program.ranks) == 1
    return program.groups


@pytest.mark.parametrize("ranks", ["distinct", "all"])
def test_two_groups_in_another_order_hang(ranks: str) -> None:
    """They were one group, in which the two calls followed one another."""
    with pytest.raises(Deadlock) as found:
        forecast([TWO, "opposite"], on="h100:2", ranks=ranks, show_output=False)
    told = str(found.value)
    assert "rank 0: all_reduce of 16.0 KiB float32 in group (ranks 0, 1; number 2 of their groups)" in told
    assert "rank 1: all_reduce of 16.0 KiB float32 in group (ranks 0, 1; number 1 of their groups)" in told


def test_two_groups_in_another_order_on_streams_of_their_own_do_not_hang() -> None:
    program = job("two_groups.py", 2, "overlapped")
    streams = np.unique(program.payloads[program.kinds == Kind.STREAM])
    assert (streams >= 1000).sum() == 2
    (answer,) = forecast([TWO, "overlapped"], on="h100:2", show_output=False).forecasts
    assert answer.step_time_s > 0


def test_two_groups_in_one_order_are_two_of_one_class_and_one_axis() -> None:
    (answer,) = forecast([TWO, "alike"], on="h100:4", show_output=False).forecasts
    assert [rank.members for rank in answer.ranks] == [4]
    assert {name: axis.calls for name, axis in answer.axes.items()} == {"dp": 2}


def test_a_group_of_the_same_ranks_has_the_name_of_their_mesh_dimension(tmp_path: Path) -> None:
    found = groups(
        tmp_path,
        "mesh = init_device_mesh('cuda', (2, 2), mesh_dim_names=('dp', 'tp'))\n"
        "own = dist.new_group([2 * (rank // 2), 2 * (rank // 2) + 1], use_local_synchronization=True)\n"
        "for group in (own, mesh.get_group('tp'), mesh['tp'].get_group(), mesh.get_group('dp')):\n"
        "    dist.all_reduce(x, group=group)\n",
    )
    assert found == [Group((0, 1), "tp", 1), Group((0, 1), "tp"), Group((0, 2), "dp")]


def test_groups_that_are_made_after_all_were_destroyed_are_others(tmp_path: Path) -> None:
    """torch gives the names of the groups that are gone to new ones: what was called there was noted of others' ranks."""
    found = groups(
        tmp_path,
        "def train(mine):\n"
        "    for parts in mine:\n"
        "        made = dist.new_group(parts)\n"
        "        if rank in parts: dist.all_reduce(x, group=made)\n"
        "    dist.all_reduce(x)\n"
        "train([[0, 1], [2, 3]])\n"
        "dist.destroy_process_group()\n"
        "dist.init_process_group('nccl')\n"
        "train([[0, 2], [1, 3]])\n",
    )
    assert found == [Group((0, 1)), Group((0, 1, 2, 3)), Group((0, 2)), Group((0, 1, 2, 3), None, 1)]


def test_groups_that_nothing_is_called_on_are_not_kept(tmp_path: Path) -> None:
    found = groups(
        tmp_path,
        "made = [dist.new_group([0, 1, 2, 3]) for _ in range(500)]\n"
        "dist.all_reduce(x, group=made[9])\n"
        "dist.all_reduce(x, group=made[499])\n",
    )
    assert found == [Group((0, 1, 2, 3), None, 10), Group((0, 1, 2, 3), None, 500)]
