"""Jobs that cannot go on: ranks that wait for what never comes, that fail, that are of another number."""

from pathlib import Path

import pytest

from anychip.api import forecast
from anychip.cli import main
from anychip.device.launch import record
from anychip.errors import Deadlock, ProgramFailed, UnsupportedProgram
from anychip.spec import load_chip
from tests.distributed.jobs import PROGRAMS, job


def test_a_deadlock_is_named_with_its_ranks_and_lines() -> None:
    with pytest.raises(Deadlock) as error:
        job("deadlock.py", 2)
    text = str(error.value)
    assert "rank 0 waits in recv for rank 1" in text
    assert "rank 1 waits in recv for rank 0" in text
    assert "deadlock.py:8" in text


def test_a_program_for_another_number_of_ranks_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "four.py"
    script.write_text("import torch.distributed as dist\ndist.init_process_group('nccl', rank=0, world_size=4)\n")
    with pytest.raises(UnsupportedProgram, match="joins 4 ranks, and 8 chips") as error:
        record([str(script)], load_chip("h100"), world_size=8, devices=8, show_output=False)
    assert error.value.exit_code == 2
    capfd.readouterr()
    assert main(["forecast", "--on", "h100:8", str(script)]) == 2
    said = capfd.readouterr().err
    assert said.count("joins 4 ranks") == 1
    assert "it failed" not in said  # no failure of the program's


def test_workers_that_call_one_another_are_refused_in_a_sentence() -> None:
    """They ended in a trace of torch's agent, which took the name of one worker for that of two."""
    with pytest.raises(UnsupportedProgram) as error:
        job("remote.py", 4)
    assert error.value.exit_code == 2
    assert "remote.py:9 starts torch.distributed.rpc among 4 workers" in error.value.said
    assert "Try the same exchange by torch.distributed" in error.value.said
    assert job("remote.py", 1, is_job=True).meta["exit_code"] == 0


def test_what_a_rank_failed_by_is_named_however_deep_it_failed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "deep.py"
    script.write_text(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('nccl')\n"
        "if dist.get_rank() == 0:\n"
        "    dist.recv_object_list([None], src=1)\n"
        "def odd(depth, error):\n"
        "    even(depth - 1, error)\n"
        "def even(depth, error):\n"
        "    if depth < 0: raise RuntimeError('a stage failed') from error\n"
        "    odd(depth - 1, error)\n"
        "odd(80, MemoryError('no room for the eighth layer'))\n"
    )
    with pytest.raises(ProgramFailed):
        record([str(script)], load_chip("h100"), world_size=2, devices=2)
    told = capfd.readouterr().err.partition("anychip: rank 1 failed:")[2]
    assert told.splitlines()[1] == "MemoryError: no room for the eighth layer"


def mesh_of_three(tmp_path: Path, after: str = "") -> Path:
    """Ranks in a mesh that leaves out what does not divide by three, trained by a group of it."""
    script = tmp_path / "mesh.py"
    script.write_text(
        "import torch, torch.distributed as dist\n"
        "from torch.distributed.device_mesh import init_device_mesh\n"
        "dist.init_process_group('nccl')\n"
        "torch.cuda.set_device(dist.get_rank())\n"
        "mesh = init_device_mesh('cuda', (dist.get_world_size() // 3, 3), mesh_dim_names=('dp', 'tp'))\n"
        "model = torch.nn.Linear(64, 64).cuda()\n"
        "optimizer = torch.optim.SGD(model.parameters(), 1e-3)\n"
        "for step in range(3):\n"
        f"    {after}\n"
        "    model(torch.ones(8, 64, device='cuda')).sum().backward()\n"
        "    for p in model.parameters(): dist.all_reduce(p.grad)\n"
        "    optimizer.step()\n"
    )
    return script


def test_a_rank_outside_of_the_mesh_may_train(tmp_path: Path) -> None:
    """Asking which dimension its group is of made it fail."""
    program = record([str(mesh_of_three(tmp_path))], load_chip("h100"), world_size=8, devices=8, show_output=False)
    assert program.meta["exit_code"] == 0


def test_a_rank_that_fails_before_it_trains_leaves_no_figures_of_the_others(tmp_path: Path) -> None:
    """They were said to hold, for the steps that rank 0 took."""
    script = mesh_of_three(tmp_path, after="mesh.get_group('tp')")
    with pytest.raises(ProgramFailed) as failed:
        record([str(script)], load_chip("h100"), world_size=8, devices=8, show_output=False)
    assert str(failed.value).splitlines()[-1] == "IndexError: list index out of range (rank 7, mesh.py:9)"
    assert failed.value.how is not None
    assert (failed.value.how.rank, failed.value.how.steps, failed.value.exit_code) == (7, 0, 1)


def test_a_check_of_what_ranks_tell_one_another_is_run_again_on_all_of_them(tmp_path: Path) -> None:
    """Megatron-FSDP's, that one rank of them has the end of a weight: of ranks that do not run nothing else is known, and nothing said so."""
    script = tmp_path / "uneven.py"
    script.write_text(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('nccl')\n"
        "ends = torch.tensor(int(dist.get_rank() + 1 >= dist.get_world_size()), device='cuda')\n"
        "dist.all_reduce(ends, dist.ReduceOp.MAX)\n"
        "assert ends\n"
        "torch.nn.Linear(4, 4).cuda()(torch.ones(4, device='cuda'))\n"
    )
    with pytest.raises(ProgramFailed) as failed:
        record([str(script)], load_chip("h100"), world_size=8, devices=8, show_output=False)
    assert str(failed.value).splitlines()[-1].endswith("Try --ranks all.")
    every = record([str(script)], load_chip("h100"), world_size=8, devices=8, show_output=False, ranks="all")
    assert every.meta["exit_code"] == 0


def test_a_rank_that_fails_after_some_steps_is_told_with_them(tmp_path: Path) -> None:
    script = mesh_of_three(tmp_path, after="if dist.get_rank() == 5 and step == 2: raise ValueError('no data')")
    answer = forecast(str(script), on="h100:8", show_output=False)
    (told,) = [text for text in answer.warnings if "exit code" in text]
    assert told == (
        "Rank 5 ended with exit code 1 after 2 steps at mesh.py:9: ValueError: no data; the figures hold for these."
    )
    assert (answer.exit_code, answer.outcome) == (1, "program_failed")


@pytest.mark.parametrize("ranks", ["distinct", "all"])
@pytest.mark.parametrize("taken", [1, 2])
def test_the_figures_are_of_the_steps_that_all_ranks_took_before_one_failed(
    taken: int, ranks: str, tmp_path: Path
) -> None:
    """0 ns, 0 USD, fits: the last step of the others, which waited for the one that had failed, was taken for its last, too."""
    whole, failing = tmp_path / "whole.py", tmp_path / "failing.py"
    begin = (
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('nccl')\n"
        "rank = dist.get_rank()\n"
        "model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 64).cuda())\n"
        "optimizer = torch.optim.SGD(model.parameters(), 1e-3)\n"
        "for step in range(4):\n"
    )
    end = (
        "    loss = model(torch.ones(8, 64, device='cuda')).sum()\n"
        "    if rank == 1: torch.ones(2048, 2048, device='cuda') @ torch.ones(2048, 2048, device='cuda')\n"
        "    loss.backward()\n"
        "    optimizer.step()\n"
    )
    whole.write_text(begin + end)
    failing.write_text(begin + f"    if rank == 2 and step == {taken}: raise ValueError('no data')\n" + end)
    (due,) = forecast(str(whole), on="h100:4", show_output=False, steps=taken).forecasts
    answer = forecast(str(failing), on="h100:4", show_output=False, ranks=ranks)
    (found,) = answer.forecasts
    assert due.step_time_s > 1e-4
    assert found.step_time_s == pytest.approx(due.step_time_s, rel=1e-6)
    assert found.cost_usd == pytest.approx(due.cost_usd, rel=1e-6)
    assert sum(found.breakdown_s.values()) == pytest.approx(found.step_time_s, rel=1e-6)
    assert (found.steps, found.step_kind, found.samples_per_step) == (taken, "train", 4 * 8)
    assert answer.outcome == "program_failed"
    assert answer.failures[0] is not None
    assert (answer.failures[0].rank, answer.failures[0].steps, answer.failures[0].line) == (2, taken, 7)


@pytest.mark.parametrize("failing", [0, 7])
def test_stages_that_a_failed_one_does_not_hold_up_take_their_steps(failing: int, tmp_path: Path) -> None:
    """All were stopped at once where they waited for one another's shapes, and there were no figures of the step that the one took."""
    source = (PROGRAMS / "pipeline.py").read_text()
    script = tmp_path / "pipeline.py"
    script.write_text(
        source.replace(
            "for _ in range(3):\n",
            f"for step in range(3):\n    if step == 1 and dist.get_rank() == {failing}: raise ValueError('lost')\n",
        )
    )
    whole, cut = (
        forecast([str(path), "4", "8", "ScheduleGPipe"], on="h100:8", show_output=False, steps=steps, ranks="all")
        for path, steps in ((PROGRAMS / "pipeline.py", 1), (script, 3))
    )
    assert cut.outcome == "program_failed"
    assert cut.forecasts[0].step_time_s == pytest.approx(whole.forecasts[0].step_time_s, rel=1e-3)


def test_a_hang_after_a_step_is_told_as_one_before_it(tmp_path: Path) -> None:
    """It had figures, fitted, and ended with the program's own code."""
    script = tmp_path / "late.py"
    script.write_text(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('nccl')\n"
        "rank = dist.get_rank()\n"
        "model = torch.nn.Linear(8, 8).cuda()\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "model(torch.ones(2, 8).cuda()).sum().backward()\n"
        "optimizer.step()\n"
        "dist.recv(torch.ones(2).cuda(), src=1 - rank)\n"
    )
    with pytest.raises(Deadlock, match="the job would hang after 1 step: every rank"):
        record([str(script)], load_chip("h100"), world_size=2, devices=2, show_output=False, ranks="all")
