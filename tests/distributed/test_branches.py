"""Which ranks a program's source tells apart."""

from pathlib import Path

import numpy as np
import pytest

from anychip import api
from anychip.device.distributed.branches import Apart, World, first_of_others, told_apart, unseen
from anychip.device.launch import record
from anychip.errors import Deadlock
from anychip.record import Program
from anychip.record.failure import failure_of
from anychip.spec import load_chip
from tests.distributed.jobs import PROGRAMS, job

NONE = np.zeros(0, np.int64)
BEGIN = "import os, torch.distributed as dist\nr = dist.get_rank()\nlocal = int(os.environ['LOCAL_RANK'])\n"


def told(path: Path) -> Apart:
    return told_apart(Program(NONE, [], NONE, meta={"argv": [str(path)]}), World(16, 8))


def apart(tmp_path: Path, source: str, known: tuple[int, ...] = (0, 1, 15)) -> list[int]:
    path = tmp_path / "train.py"
    path.write_text(source, encoding="utf-8")
    return first_of_others(told(path).kind, known)


@pytest.mark.parametrize(("test", "found"), [
    ("r == 0", []), ("r", []), ("not r", []), ("r == dist.get_world_size() - 1", []),
    ("r == 2", [2]), ("r == 2 and step > 1", [2]), ("step and r in (3, 5)", [3]), ("r not in [0, 1, 15]", [2]),
    ("local == 0", []), ("local == 3", [3]), ("local % 4 == 2", [2]), ("r // 8 == 1 and local == 0", [8]),
    ("4 <= r", []), ("r > 3 and local < 2", [2, 8]), ("r == step", []), ("step == 2", []), ("r == len(x)", []),
    ("(q := r - 4) == 0", [4]), ("r % 0 == 1", []), ("r is not None", []),
])  # fmt: skip
def test_comparisons_that_a_ranks_number_decides(test: str, found: list[int], tmp_path: Path) -> None:
    assert apart(tmp_path, f"{BEGIN}for step in range(3):\n    if {test}:\n        pass\n") == found


@pytest.mark.parametrize("begin", [
    "r = int(os.environ.get('RANK', 0))", "r = int(os.getenv('RANK', '0'))", "self.r = dist.get_rank()\nr = self.r",
    "r = dist.get_rank() if dist.is_initialized() else 0", "r = 0\nr = dist.get_rank()", "w, r = 4, dist.get_rank()",
    "def main(rank): r = rank", "r = args.global_rank", "r = dist.get_node_local_rank()",
    "def number(): return dist.get_rank()\nr = number()", "def setup():\n    return dist.get_rank(), 2\nr, size = setup()",
    "def own(): return setup()[1]\ndef setup(*args): return 2, dist.get_rank()\nr = own()",
])  # fmt: skip
def test_where_a_rank_has_its_number_from(begin: str, tmp_path: Path) -> None:
    assert apart(tmp_path, f"{begin}\nis_odd_one = r == 5\n") == [5]


def test_functions_that_call_one_another_many_times_over_take_no_longer(tmp_path: Path) -> None:
    chain = [f"def f{one}(): return f{(one + 1) % 40}() + f{(one + 7) % 40}()" for one in range(40)]
    assert apart(
        tmp_path, "\n".join([*chain, "def g(): return dist.get_rank() + f3()", "r = dist.get_rank()", "r == 5"])
    ) == [5]


@pytest.mark.parametrize(("file", "begin"), [
    ("common.py", "from common import init\nr, w = init()"), ("common.py", "import common\nr, w = common.init()"),
    ("lib/common.py", "import lib.common as c\nr, w = c.init()"), ("lib/common.py", "from lib import common\nr, w = common.init()"),
    ("common.py", "from . import common\nr, w = common.init()"),
])  # fmt: skip
def test_a_number_that_a_function_of_another_file_returns(file: str, begin: str, tmp_path: Path) -> None:
    """`r, w = init()` of a module of its own told nothing: a rank before the last that skips a collective went unseen."""
    (tmp_path / "lib").mkdir()
    (tmp_path / file).write_text("def init(): return dist.get_rank(), dist.get_world_size()\n", encoding="utf-8")
    (tmp_path / "train.py").write_text(f"{begin}\nr == w - 2\n", encoding="utf-8")
    assert first_of_others(told(tmp_path / "train.py").kind, (0, 1, 15)) == [14]


def test_names_that_stand_for_one_another_many_times_over_take_no_longer(tmp_path: Path) -> None:
    """Each given eight times by way of the others: following every way took minutes in a file of a published program."""
    chain = [f"n{one} = n{(one + step) % 40}" for one in range(40) for step in range(1, 9)]
    assert apart(tmp_path, "\n".join([*chain, "n7 = dist.get_rank()", "n3 == 5"])) == [5]


@pytest.mark.parametrize(("odd", "found"), [
    (f"x = {' + '.join(['r'] * 2000)}", [5]), ("x = -(r == 2) - (r == 3)", [2, 3, 5]), (f"x = r * {10**40} == 5", [5]),
    ("x = '\u00b2' == r", [5]), ("x = -(r == 2) - (r == 3) > -1", [2, 3, 5]),
])  # fmt: skip
def test_odd_expressions_are_no_obstacle_to_the_others(odd: str, found: list[int], tmp_path: Path) -> None:
    assert apart(tmp_path, f"r = dist.get_rank()\n{odd}\nis_one = r == 5\n") == found


def test_files_that_cannot_be_read_tell_nothing(tmp_path: Path) -> None:
    assert apart(tmp_path, "if rank == :\n") == []
    assert not told(tmp_path / "none.py").kind.any()


@pytest.mark.parametrize(("loop", "test", "found"), [
    ("for step in range(9)", "r == step", ["r == step"]),
    ("for step, x in enumerate(data)", "(step + r) % 4 == 0 and step", ["(step + r) % 4 == 0"]),
    ("while True", "step % dist.get_world_size() == r", ["step % dist.get_world_size() == r"]),
    ("for step in range(9)", "step == 2 and r == 3", []), ("for step in range(9)", "r == args.odd", []),
])  # fmt: skip
def test_comparisons_with_a_steps_number_are_told(loop: str, test: str, found: list[str], tmp_path: Path) -> None:
    """Which rank does something else at which step is not known before; it was left out in silence."""
    path = tmp_path / "train.py"
    path.write_text(f"{BEGIN}step = 0\n{loop}:\n    if {test}: pass\n    loss.backward()\n    step += 1\n")
    assert told(path).by_step == [f"train.py:6 ({one})" for one in found]
    path.write_text(f"{BEGIN}for i in range(dist.get_world_size()):\n    if r == i: mine.append(files[i])\n")
    assert told(path).by_step == []


LATER = """\
import torch, torch.distributed as dist
dist.init_process_group("nccl")
r = dist.get_rank()
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 64).cuda())
optimizer = torch.optim.SGD(model.parameters(), 1e-3)
for step in range(4):
    loss = model(torch.ones(8, 64, device="cuda")).sum()
    if step == 2 and {test}:
        {then}
    loss.backward()
    optimizer.step()
"""


@pytest.mark.parametrize(("test", "members"), [
    ("r == 3", [(0, 1, 2), (3,)]), ("r == 1", [(0, 2, 3), (1,)]), ("r > 0", [(0,), (1, 2, 3)]),
    ("r < 99", [(0, 1, 2, 3)]),
])  # fmt: skip
def test_what_ranks_do_in_a_later_step_tells_them_apart(
    test: str, members: list[tuple[int, ...]], tmp_path: Path
) -> None:
    """The second and the last rank were run for one step, and stood with rank 0 whatever they did after it."""
    path = tmp_path / "later.py"
    path.write_text(LATER.format(test=test, then="model.module(torch.ones(4, 64, device='cuda'))"))
    program = record([str(path)], load_chip("h100"), world_size=4, devices=4, show_output=False)
    assert [one.members for one in program.ranks] == members


def test_the_last_rank_that_fails_in_a_later_step_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "later.py"
    path.write_text(LATER.format(test="r == 3", then="raise ValueError('no data')"))
    how = failure_of(record([str(path)], load_chip("h100"), world_size=4, devices=4, show_output=False))
    assert how is not None
    assert (how.rank, how.steps, how.error) == (3, 2, "ValueError: no data")


def test_the_last_rank_that_leaves_in_a_later_step_leaves_the_others_waiting(tmp_path: Path) -> None:
    """What it had done before was as the others had begun: it was taken to do as they did, and the job to run."""
    path = tmp_path / "later.py"
    path.write_text(LATER.format(test="r == 3", then="break"))
    with pytest.raises(Deadlock, match=r"waits for rank 3 \(ended without it\)"):
        api.forecast([str(path)], on="h100:4", steps=4, show_output=False)


@pytest.mark.parametrize(("test", "found"), [
    ([0, 0, 0, 1], {"t": 3}), ([0, 1, 1, 1], {}), ([0, 0, 1, 1], {}), ([0, 1, 0, 1], {}), ([0, 0, 1, 0], {"t": 3}),
])  # fmt: skip
def test_outcomes_that_no_rank_of_a_stage_had_that_ran(test: list[int], found: dict[str, int]) -> None:
    """Two stages of two ranks, of which 0, 1 and 2 ran, 1 for a step. What 0 and 1 are told apart by makes no difference."""
    outcomes = {"t": np.array(test, bool)}
    assert unseen(outcomes, [[0, 1], [2, 3]], {0, 1, 2}) == found


@pytest.mark.parametrize(("rank", "is_told"), [(1, False), (3, True), (5, True), (7, False)])
def test_ranks_of_a_pipeline_that_are_told_apart_are_told(rank: int, is_told: bool, tmp_path: Path) -> None:
    source = (PROGRAMS / "pipeline.py").read_text()
    path = tmp_path / "pipeline.py"
    path.write_text(source.replace("    optimizer.step()", f"    dist.get_rank() == {rank}\n    optimizer.step()"))
    arguments = [str(path), "4", "8", "ScheduleGPipe"]
    program = record(arguments, load_chip("h100"), world_size=8, devices=8, show_output=False)
    told = [one for one in program.meta["warnings"] if f"(dist.get_rank() == {rank}), rank {rank}. For each" in one]
    assert len(told) == is_told


def test_a_rank_that_alone_does_something_is_a_class_of_its_own() -> None:
    program = job("unlike.py", 8)
    assert [one.members for one in program.ranks] == [(0, 1, 3, 4, 5, 6, 7), (2,)]
    assert 2 in program.ran
