"""Programs and commands that a signal ends (Ctrl-C, SIGTERM, SIGHUP, SIGKILL), through the command line: what is said, and the exit code."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.command import PROGRAMS, forecast, start, target


def interrupted(process, by=signal.SIGINT):
    """What a command printed, and what it said, that gets Ctrl-C, or another signal, once its program says that it is waiting."""
    seen = []
    for line in process.stderr:
        seen.append(line)
        if "waiting" in line:
            break
    process.send_signal(by)
    out, err = process.communicate(timeout=60)
    return out, "".join(seen) + err


@pytest.mark.parametrize(("by", "code", "on"), [(signal.SIGINT, 130, "h100:2"), (signal.SIGTERM, 143, "h100")])
def test_ctrl_c_and_sigterm_give_what_there_is(by, code, on, tmp_path, monkeypatch):
    """SIGTERM, by which a scheduler ends a job, gave no figures."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = start("--json", tmp_path / "found.json", PROGRAMS / "wait_forever.py", on=(on,))
    out, err = interrupted(process, by)
    assert process.returncode == code, err
    assert "step time" in out
    assert "Interrupted: the figures hold for what the program had done by then." in out
    # the last line on stderr says what the exit code means, as after any other
    assert err.endswith(f"exit code {code}: interrupted; the figures are of what the program had done by then.\n"), err
    told = json.loads((tmp_path / "found.json").read_text())
    assert (told["outcome"], told["exit_code"]) == ("interrupted", code)
    assert [one.name for one in tmp_path.iterdir()] == ["found.json"]


def test_sigterm_of_all_processes_gives_what_there_is():
    """As srun sends it: the recording died of it, with all that it had."""
    process = start(PROGRAMS / "wait_forever.py", on=("h100:2",))
    for line in process.stderr:
        if "waiting" in line:
            break
    for one in [*descendants(process.pid), process.pid]:
        os.kill(one, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "step time" in out, err


def descendants(pid):
    found = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*found, *(other for one in found for other in descendants(one))]


def test_a_killed_command_leaves_no_process_behind():
    process = start(PROGRAMS / "wait_forever.py")
    for line in process.stderr:
        if "now waiting" in line:
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    process.kill()
    process.wait()
    limit = time.monotonic() + 10
    while Path(f"/proc/{children[0]}").exists() and time.monotonic() < limit:
        if ") Z " in Path(f"/proc/{children[0]}/stat").read_text():
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{children[0]}").exists()


def sleeps_but_on_h100(folder, first):
    """A program that trains; on every other chip it does this in its first step, tells `wait_for`, and sleeps."""
    program = folder / "program.py"
    program.write_text(
        "import os, pathlib, signal, subprocess, torch\n"
        "model = torch.nn.Linear(8, 8).cuda()\n"
        "optimizer = torch.optim.SGD(model.parameters(), 0.1)\n"
        "for step in range(3):\n"
        "    model(torch.zeros(8, 8, device='cuda')).sum().backward()\n"
        "    optimizer.step()\n"
        "    if 'H100' not in torch.cuda.get_device_name():\n"
        f"        {first}\n"
        f"        pathlib.Path({str(folder)!r}, f'{{os.getpid()}}.waits').touch()\n"
        "        subprocess.run(['sleep', '100'])\n"
    )
    return program


def wait_for(folder, number):
    """Until so many of them sleep."""
    limit = time.monotonic() + 100
    while len(list(folder.glob("*.waits"))) < number and time.monotonic() < limit:
        time.sleep(0.1)


@pytest.mark.parametrize(("number", "has_figures"), [(signal.SIGTERM, True), (signal.SIGHUP, False)])
def test_a_command_that_is_ended_while_it_records_side_by_side_ends_at_once(number, has_figures, tmp_path):
    """SIGTERM waited for the programs to end, and SIGHUP left what they had written in place of checkpoints."""
    program = sleeps_but_on_h100(tmp_path, f"torch.save(model.state_dict(), {str(tmp_path / 'saved.pt')!r})")
    (tmp_path / "saved.pt").write_text("of before")
    process = start("--quiet", "--json", tmp_path / "found.json", program, on=("h100", "mi300x", "l4"))
    wait_for(tmp_path, 1)  # the other waits for its turn to save there
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    if has_figures:
        assert target(tmp_path / "found.json")["asked"] == "h100"
        (tmp_path / "found.json").unlink()
    else:
        assert err.splitlines()[-1].startswith("anychip: SIGHUP ended it before it was done: anychip forecast --on")
    assert (tmp_path / "saved.pt").read_text() == "of before"
    assert {one.name for one in tmp_path.iterdir() if one.suffix != ".waits"} == {"program.py", "saved.pt"}


def test_a_program_that_is_deaf_does_not_hold_sigterm_up(tmp_path):
    """Who sends it kills soon after, and then nothing would put files back."""
    program = sleeps_but_on_h100(tmp_path, "signal.signal(signal.SIGINT, signal.SIG_IGN)")
    process = start("--quiet", program, on=("mi300x",))
    wait_for(tmp_path, 1)
    process.terminate()
    _, err = process.communicate(timeout=9)
    assert process.returncode == 143, err


def test_sigterm_before_there_is_anything_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = start(PROGRAMS / "wait_forever.py", on=("h100:2",))
    assert "recording on" in process.stderr.readline()
    time.sleep(1)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, ""), err
    assert "interrupted before its first step was complete: there are no figures" in err or "SIGTERM ended it" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("on", "who"), [("h100", "the program"), ("h100:2", "rank 1")])
def test_a_killed_recording_says_by_what(tmp_path, on, who):
    """Of a job's rank it said "exit code 247", and it was taken for wrong use, of which no outcome was told."""
    program = tmp_path / "killed.py"
    program.write_text(
        "import os, signal, torch\n"
        "torch.zeros(3, device='cuda')\n"
        "if os.environ.get('RANK') != '0': os.kill(os.getpid(), signal.SIGKILL)\n"
        "torch.distributed.init_process_group('nccl')\n"
        "torch.distributed.recv(torch.zeros(1, dtype=torch.int64, device='cuda'), 1)\n"
        "print(torch.distributed.get_rank())\n"
    )
    done = forecast("--quiet", "--json", tmp_path / "killed.json", str(program), on=(on,))
    assert done.returncode == 137
    told = json.loads((tmp_path / "killed.json").read_text())
    assert (told["outcome"], told["exit_code"], told["failure"]) == ("program_failed", 137, None)
    assert done.err.splitlines()[-1] == (
        f"anychip: exit code 137: the program's own; SIGKILL ended {who}, and there are no figures."
    )
    assert f"killed.py: {who} was killed by SIGKILL while it was recorded" in done.err
    assert "killed by SIGKILL" in done.err
    assert "--jobs 1" in done.err
    assert "ran out of memory" in done.err


def test_a_second_ctrl_c_ends_programs_that_are_deaf_to_the_first_side_by_side(tmp_path):
    """Nothing but SIGKILL did: they were waited for, by threads that hear no Ctrl-C."""
    program = sleeps_but_on_h100(tmp_path, "signal.signal(signal.SIGINT, signal.SIG_IGN)")
    process = start("--quiet", "--json", tmp_path / "found.json", program, on=("h100", "mi300x"))
    wait_for(tmp_path, 1)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=15)
    assert process.returncode == 130, err
    assert "left out: amd-mi300x: " in err
    assert target(tmp_path / "found.json")["asked"] == "h100"


MODEL = "torch.nn.Linear(64, 64).cuda()"


@pytest.mark.parametrize("begun", [MODEL, f"{MODEL}(torch.ones(4, 64, device='cuda'))"])
def test_what_is_interrupted_before_a_step_is_complete_has_no_figures(begun, tmp_path):
    """A model that had been made was said to fit, with the time that this took, and a forward was a call of a served model."""
    program = tmp_path / "waits.py"
    program.write_text(f"import torch, threading\n{begun}\nprint('waiting', flush=True)\nthreading.Event().wait(60)\n")
    process = start("--json", tmp_path / "none.json", program, on=("h100", "mi300x"))
    out, err = interrupted(process)
    assert (process.returncode, out) == (130, "")
    assert "interrupted before its first step was complete: there are no figures" in err
    found = json.loads((tmp_path / "none.json").read_text())
    assert (found["outcome"], found["targets"]) == ("interrupted", [])


CALLS = """
import contextlib, sys, threading, torch
model = torch.nn.Linear(64, 64).cuda()
with contextlib.nullcontext() if sys.argv[1] == "with" else torch.no_grad():
    for number in range(100):
        if number == 3:
            print("waiting", flush=True)
            threading.Event().wait(60)
        model(torch.ones(4, 64, device="cuda"))
"""


@pytest.mark.parametrize("gradients", ["with", "without"])
def test_ctrl_c_in_a_loop_of_calls_gives_what_there_is(gradients, tmp_path):
    """With gradients, as where nobody says no_grad, each of the calls was taken for half of a step that trains."""
    program = tmp_path / "calls.py"
    program.write_text(CALLS)
    process = start("--json", tmp_path / "calls.json", program, gradients)
    out, err = interrupted(process)
    assert process.returncode == 130, err
    assert "time per call" in out
    assert "Interrupted: the figures hold for what the program had done by then." in out
    assert json.loads((tmp_path / "calls.json").read_text())["steps"] == 3


def test_a_call_that_ctrl_c_cuts_short_is_no_call(tmp_path):
    program = tmp_path / "half.py"
    program.write_text(
        "import threading, torch\n"
        "class Half(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        x = super().forward(x)\n"
        "        print('waiting', flush=True)\n"
        "        threading.Event().wait(60)\n"
        "        return super().forward(x)\n"
        "model = Half(64, 64).cuda()\n"
        "with torch.no_grad():\n"
        "    model(torch.ones(4, 64, device='cuda'))\n"
    )
    process = start(program)
    out, err = interrupted(process)
    assert (process.returncode, out) == (130, ""), out
    assert "interrupted before its first step was complete: there are no figures" in err


@pytest.mark.parametrize("wait_s", [0.0, 0.5])
def test_ctrl_c_while_torch_is_imported_is_one_line(wait_s, tmp_path):
    """It was a traceback of whatever torch, or the chip, was just importing."""
    program = tmp_path / "waits.py"
    program.write_text("import torch, threading\nthreading.Event().wait(60)\n")
    process = start(program, on=("h100",))
    assert "recording on a virtual" in process.stderr.readline()
    time.sleep(wait_s)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (err.count("\n"), "interrupted" in err) == (1, True), err
