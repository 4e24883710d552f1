"""Checkpoints that a program saves, replaces, copies, moves or deletes while it is forecast: afterwards all is as it was."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

import anychip
from anychip.device.files.kept import ASIDE, HIDDEN, put_back
from anychip.device.files.saved import Saved
from anychip.temporary import running

TRAIN = """
    import os, select, shutil, sys, torch
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
        os.mkdir("checkpoint-1")
        torch.save(state, "checkpoint-1/other.pt")
        os.makedirs("partial", exist_ok=True)
        torch.save(state, "partial/optimizer.pt")
        with open("partial/state.json", "w") as told:
            told.write("{}")
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
    assert "anychip: removed 6 checkpoints (what the program saves here has no values:" in capfd.readouterr().err


def test_a_program_that_is_killed_leaves_its_checkpoints_as_they_were(tmp_path: Path) -> None:
    before = written(tmp_path, 'open("ready", "w").close(); os.kill(os.getpid(), 9)')
    command = [sys.executable, "-m", "anychip", "forecast", "--on", "h100", "--steps", "4", "train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 137
    assert before.items() <= files(tmp_path).items()
    assert "new.pth" not in files(tmp_path)


def test_ctrl_c_leaves_checkpoints_as_they_were(tmp_path: Path) -> None:
    before = written(tmp_path, 'open("ready", "w").close(); select.select([], [], [], 60)')
    # As from a terminal: what starts tests in the background may have told its children to ignore Ctrl-C.
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from anychip.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "forecast", "--on", "h100", "--steps", "4", "train.py"]
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


SHUFFLE = """
    import glob, os, pathlib, shutil, torch
    model = torch.nn.Linear(64, 64).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        model(torch.ones(4, 64, device="cuda")).sum().backward()
        optimizer.step()
        state = model.state_dict()
        {save}
"""
# What a program does with its checkpoints after each step.
SHUFFLES = {
    "a folder of which one file was overwritten is removed": """
        if step == 0:
            torch.save(state, "real/model.pt")
            assert len(glob.glob("real/*")) == 3
            shutil.rmtree("real")""",
    "files of a folder are removed, then the folder": """
        if step == 0:
            for name in os.listdir("alone"):
                os.remove(f"alone/{name}")
            os.rmdir("alone")""",
    "all that a folder lists is renamed, though something was put aside in it": """
        torch.save(state, "real/model.pt")
        for one in sorted(set(os.listdir("real")) - {"state.json"}):
            os.rename(f"real/{one}", f"real/{one}.old")
        assert not [one for one in (*os.scandir("real"), *pathlib.Path("real").iterdir()) if one.name.startswith(".anychip")]""",
    "a new folder takes a folder's place": """
        os.makedirs("tmp"); torch.save(state, "tmp/model.pt")
        os.rename("real", "old"); os.rename("tmp", "real"); shutil.rmtree("old")""",
    "a folder of which one file was overwritten is moved": """
        if step == 0:
            torch.save(state, "real/model.pt")
            os.rename("real", "moved")""",
    "a symbolic link moves on": """
        torch.save(state, f"epoch-{step}.pt")
        os.remove("latest.pt"); os.symlink(f"epoch-{step}.pt", "latest.pt")
        if os.path.islink("latest"): os.remove("latest")
        os.makedirs(f"all-{step}"); torch.save(state, f"all-{step}/x.pt"); os.symlink(f"all-{step}", "latest")""",
    "a symbolic link is replaced": """
        torch.save(state, f"epoch-{step}.pt")
        os.symlink(f"epoch-{step}.pt", "next"); os.replace("next", "latest.pt")""",
    "what was moved is written again": """
        if step == 0:
            os.rename("real/model.pt", "moved.pt")
            torch.save(state, "moved.pt")""",
    "a second name": """
        torch.save(state, "last.pt")
        if os.path.exists("best"): os.remove("best")
        os.link("last.pt", "best")""",
    "the index of a distributed checkpoint": """
        open("real/.metadata", "wb").close()""",
    "a temporary file is renamed": """
        import pickle, tempfile
        with tempfile.NamedTemporaryFile(dir="real", suffix=".pt", delete=False) as file:
            torch.save(state, file)
        os.replace(file.name, "real/model.pt")
        with open("real/.metadata.tmp", "wb") as file:           # as torch.distributed.checkpoint does
            pickle.dump(list(state), file)
        os.rename("real/.metadata.tmp", "real/.metadata")""",
    "a file that must not be there": """
        try:
            open("real/model.pt", "xb")
            raise SystemExit("opened")
        except FileExistsError:
            pass""",
}


@pytest.mark.parametrize("name", SHUFFLES)
def test_checkpoints_are_as_they_were_after(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in ("real/model.pt", "real/random.pth", "real/.metadata", "real/state.json", "alone/model.pt"):
        (tmp_path / one).parent.mkdir(exist_ok=True)
        (tmp_path / one).write_text(one)
    os.symlink("real/model.pt", tmp_path / "latest.pt")
    os.symlink("real", tmp_path / "latest")
    code = textwrap.dedent(SHUFFLE).replace("    {save}", textwrap.indent(textwrap.dedent(SHUFFLES[name]), "    "))
    (tmp_path / "train.py").write_text(code, encoding="utf-8")
    before = files(tmp_path)
    monkeypatch.chdir(tmp_path)
    program = anychip.record(["train.py"], on="h100", steps=4)
    assert program.meta["steps"] == 3
    assert files(tmp_path) == before
    assert os.readlink("latest.pt") == "real/model.pt"
    assert os.readlink("latest") == "real"
    assert not [path for path in tmp_path.rglob("*") if ASIDE in path.name]


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_two_forecasts_in_one_folder_take_nothing_from_each_other(first_to_end: int, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_text("real")
    with ExitStack() as stack:
        both = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            stack.enter_context(running(tmp_path / name))
            both.append(Saved(tmp_path / name, lambda: True))
        for one in (*both, both[0]):
            one.keep(path)
            path.write_text("without values")
        put_back(both[first_to_end].folder)
        assert path.read_text() == "real"
        last = both[1 - first_to_end]
        last.keep(path)
        path.write_text("without values")
        put_back(last.folder)
        assert path.read_text() == "real"


def test_what_a_forecast_put_aside_that_was_killed_is_left_and_told(tmp_path: Path) -> None:
    """Its checkpoint may have been replaced by a real run since."""
    path = tmp_path / "last.pt"
    path.write_text("old")
    for name in ("killed", "next"):
        (tmp_path / name).mkdir()
    Saved(tmp_path / "killed", lambda: True).keep(path)
    path.write_text("new")
    with running(tmp_path / "next"):
        saved = Saved(tmp_path / "next", lambda: True)
        saved.keep(path)
        path.write_text("without values")
        told = put_back(saved.folder)
    assert path.read_text() == "new"
    (aside,) = (one for one in tmp_path.iterdir() if ASIDE in one.name)
    assert (aside / "last.pt").read_text() == "old"
    assert told.endswith(f"lies there still: {aside / 'last.pt'}")


def test_where_a_file_cannot_be_moved_its_checkpoint_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be written, a file system without links."""
    path = tmp_path / "last.pt"
    path.write_text("real")
    (tmp_path / "recording").mkdir()
    saved = Saved(tmp_path / "recording", lambda: True)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    with monkeypatch.context() as refused:
        for name in ("rename", "link", "replace"):
            refused.setattr(os, name, refuse)
        saved.keep(path)
        path.write_text("without values")
        put_back(saved.folder)
    assert path.read_text() == "real"


@pytest.mark.parametrize("links", [True, False])
def test_a_rank_finds_what_was_there_before_the_one_that_ran_before_it(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    if not links:  # as some file systems have none
        monkeypatch.setattr(os, "link", refuse)
    path, new = tmp_path / "last.pt", tmp_path / "new.pt"
    path.write_text("real")
    for _ in range(3):
        rank = Saved(tmp_path, lambda: True)
        assert path.read_text() == "real"
        assert not new.exists()
        for one in (path, new):
            rank.keep(one)
            one.write_text("without values")
        rank.hide()
    put_back(tmp_path)
    assert path.read_text() == "real"
    assert not [one for one in tmp_path.iterdir() if ASIDE in one.name or HIDDEN in one.name or one == new]


WAITED_FOR = """
    import os, time, torch
    from pathlib import Path
    torch.distributed.init_process_group("nccl")
    rank = torch.distributed.get_rank()
    net = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4).cuda())
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for step in range(4):
        if step:  # what is saved before a first step is as well
            net(torch.randn(2, 4, device="cuda")).sum().backward()
            optimizer.step()
        partial = Path(f"saved/step{step}-tmp")
        if rank == 0:
            (partial / "train").mkdir(parents=True)
        torch.distributed.barrier()
        for _ in range(50):
            if (partial / "train").exists():
                break
            time.sleep(0.1)
        else:
            raise TimeoutError("no folder")
        torch.save(net.state_dict(), partial / "train" / f"{rank}.pt")
        torch.distributed.barrier()
        if rank == 0:
            partial.rename(f"saved/step{step}")
"""


def test_a_rank_waits_for_a_folder_that_one_which_ran_before_has_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OLMo-core's ranks save into a folder that the first makes, and renames once all have."""
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(textwrap.dedent(WAITED_FOR), encoding="utf-8")
    program = anychip.record(["train.py"], on="h100:3", steps=3)
    assert (program.meta["exit_code"], program.meta["steps"]) == (0, 3)
    left = [str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*")]
    assert sorted(left) == ["saved", "train.py"]


def test_files_of_other_kinds_that_were_there_before_are_told(tmp_path: Path) -> None:
    """A real run's table was emptied, and rows were added to another, without a word."""
    for name in ("metrics.csv", "run.csv", "same.csv", "old.log", "last.pt", ".cache/kept", "read.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("real\n", encoding="utf-8")
    (tmp_path / "empty.lock").touch()
    (tmp_path / "train.py").write_text(textwrap.dedent("""
        import os, torch
        metrics = open("metrics.csv", "w")                   # before a model is called
        for name, mode in (("run.csv", "a"), ("same.csv", "a"), (".cache/kept", "w"), ("empty.lock", "w"), ("new.csv", "w"), ("new.csv", "a")):
            with open(name, mode) as file:
                file.write("" if name == "same.csv" else "fake")
        open("read.csv").read()
        os.remove("old.log")
        model = torch.nn.Linear(64, 64).cuda()
        model(torch.ones(4, 64, device="cuda"))
        torch.save(model.state_dict(), "last.pt")
    """), encoding="utf-8")  # fmt: skip
    command = [sys.executable, "-m", "anychip", "forecast", "--on", "h100", "train.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (told,) = (line for line in run.stderr.splitlines() if "of before" in line)
    assert told.endswith(
        "as the program left them: metrics.csv (overwritten), old.log (removed), run.csv (appended to)"
    )
    assert "put back 1 checkpoint (last.pt)" in told
    assert (tmp_path / "metrics.csv").read_text(encoding="utf-8") == ""


def test_forecasts_of_one_folder_save_there_one_after_the_other(tmp_path):
    """Of two that write a file and rename it one found it gone, and ended with exit code 1; a later one resumed from what has no values."""
    checkpoint = tmp_path / "last.pt"
    torch.save({"step": 77}, checkpoint)
    program = tmp_path / "train.py"
    program.write_text(
        "import os, subprocess, sys, torch\n"
        "assert torch.load('last.pt')['step'] == 77\n"
        "net = torch.nn.Linear(8, 8).cuda()\n"
        "optimizer = torch.optim.SGD(net.parameters(), 0.1)\n"
        "for step in range(3):\n"
        "    net(torch.randn(4, 8, device='cuda')).sum().backward()\n"
        "    optimizer.step()\n"
        "    torch.save({'step': step}, 'next.pt')\n"
        "    subprocess.run([sys.executable, '-c', 'import time; time.sleep(0.5)'])\n"
        "    os.replace('next.pt', 'last.pt')\n"
    )
    command = [sys.executable, "-m", "anychip", "forecast", "--on", "h100", "train.py"]
    runs = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], "\n".join(said)
    assert torch.load(checkpoint) == {"step": 77}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "train.py"]
