"""Checkpoints that a program saves, replaces, copies, moves or deletes while it is forecast: afterwards all is as it was."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import anychip
from anychip.device.saved import ASIDE, Saved, put_back

TRAIN = """
    import os, shutil, sys, time, torch
    from safetensors.torch import save_file
    model = torch.nn.Linear(64, 64).cuda()
    torch.save({"made": "on the host"}, "cache.pt")          # data: no model has been called
    torch.save({"model": [model.state_dict()]}, "first.pt")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        model(torch.ones(4, 64, device="cuda")).sum().backward()
        optimizer.step()
        state = model.state_dict()
        torch.save(state, "last.pt")
        assert len(torch.load("last.pt")) == 2               # while it runs, it is there
        shutil.copyfile("last.pt", "best")
        torch.save(state, "new.pth")
        torch.save(state, "unfinished.tmp")
        os.replace("unfinished.tmp", "atomic.pt")
        with open("opened.ckpt", "wb") as file:
            torch.save(state, file)
        save_file({name: value.cpu() for name, value in state.items()}, "weights.safetensors")
        shutil.rmtree("checkpoint-1", ignore_errors=True)
        os.makedirs("partial", exist_ok=True)
        torch.save(state, "partial/optimizer.pt")
        os.rename("partial", f"checkpoint-{step + 2}")
        with open("log.txt", "a") as log:
            log.write(f"{step}\\n")
    os.remove("oldest.pt")
    {end}
"""
BEFORE = ("last.pt", "best", "atomic.pt", "opened.ckpt", "weights.safetensors", "checkpoint-1/optimizer.pt", "checkpoint-1/state.json",
          "oldest.pt")  # fmt: skip


def written(folder: Path, end: str) -> dict[str, str]:
    for name in BEFORE:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"real {name}", encoding="utf-8")
    (folder / "train.py").write_text(textwrap.dedent(TRAIN).replace("{end}", end), encoding="utf-8")
    return files(folder)


def files(folder: Path) -> dict[str, str]:
    """What each file holds; "" for one that is not of text."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            try:
                found[str(path.relative_to(folder))] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                found[str(path.relative_to(folder))] = ""
    return found


def test_checkpoints_are_as_they_were_and_other_files_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = written(tmp_path, "raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    program = anychip.record(["train.py"], on="h100", steps=4)
    assert program.meta["steps"] == 3
    after = files(tmp_path)
    assert after.pop("log.txt") == "0\n1\n2\n"
    assert after.pop("cache.pt") == ""
    assert after == before
    assert not [path for path in tmp_path.rglob("*") if ASIDE in path.name]
    assert "anychip: removed 5 checkpoints (what the program saves here has no values:" in capfd.readouterr().err


def test_a_program_that_is_killed_leaves_its_checkpoints_as_they_were(tmp_path: Path) -> None:
    before = written(tmp_path, 'open("ready", "w").close(); os.kill(os.getpid(), 9)')
    command = [sys.executable, "-m", "anychip", "forecast", "--on", "h100", "--steps", "4", "train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert before.items() <= files(tmp_path).items()
    assert "new.pth" not in files(tmp_path)


def test_ctrl_c_leaves_checkpoints_as_they_were(tmp_path: Path) -> None:
    before = written(tmp_path, 'open("ready", "w").close(); time.sleep(60)')
    command = [sys.executable, "-m", "anychip", "forecast", "--on", "h100", "--steps", "4", "train.py"]
    child = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < until:
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=60) == 130
    assert before.items() <= files(tmp_path).items()
    assert "new.pth" not in files(tmp_path)


RANKS = """
    import os, torch
    import torch.distributed as dist
    dist.init_process_group("nccl")
    rank = dist.get_rank()
    assert not os.path.exists("resume.pt"), "a run that has just begun found its own checkpoint"
    model = torch.nn.Linear(64, 64).cuda()
    if rank == 0:
        torch.save(model.state_dict(), "first.pt")
    dist.barrier()
    model.load_state_dict(torch.load("first.pt"))            # as the tutorials have it
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(4):
        model(torch.ones(4, 64, device="cuda")).sum().backward()
        if rank == 1:
            torch.cuda._sleep(1000)
        optimizer.step()
        if rank == 0:
            torch.save(model.state_dict(), "resume.pt")
"""


def test_a_rank_does_not_find_the_checkpoint_of_one_that_ran_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ranks.py").write_text(textwrap.dedent(RANKS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    program = anychip.record(["ranks.py"], on="h100:4", steps=3)
    assert not program.meta["exit_code"]
    assert len(program.ranks) >= 2
    assert [path.name for path in tmp_path.iterdir()] == ["ranks.py"]


def test_of_two_ranks_that_save_to_one_path_the_first_puts_aside_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_text("real")
    ranks = [Saved(tmp_path, lambda: True) for _ in range(2)]
    for rank in ranks:
        rank.keep(path)
        path.write_text("without values")
    put_back(tmp_path)
    assert path.read_text() == "real"
    assert put_back(tmp_path) == ""


def test_a_link_to_a_checkpoint_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.pt").write_text("real")
    os.symlink("real.pt", tmp_path / "latest.pt")
    saved = Saved(tmp_path, lambda: True)
    saved.keep(tmp_path / "latest.pt")
    (tmp_path / "latest.pt").write_text("without values")
    put_back(tmp_path)
    assert (tmp_path / "latest.pt").is_symlink()
    assert (tmp_path / "real.pt").read_text() == "real"
