"""Processes that record end when the command that started them is gone, however that ended."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command import start

CHILD = """
import ctypes, os, subprocess, sys, time
code = '''
import ctypes, os, sys, time
from anychip.device.parent import end_with_parent
if sys.argv[1] == "elsewhere":
    ctypes.CDLL = lambda name: object()  # has no prctl
parent = int(sys.argv[2])
while sys.argv[1] == "late" and os.getppid() == parent:
    time.sleep(0.01)
end_with_parent(parent)
print("lives", flush=True)
time.sleep(600)
'''
child = subprocess.Popen([sys.executable, "-c", code, sys.argv[1], str(os.getpid())], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def is_gone(pid: int, within_s: float = 20.0) -> bool:
    limit = time.monotonic() + within_s
    while time.monotonic() < limit:
        try:
            if ") Z " in Path(f"/proc/{pid}/stat").read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("where", ["linux", "elsewhere", "late"])
def test_a_child_ends_with_its_parent(where: str) -> None:
    """Elsewhere than on Linux it raised; and one whose parent was gone before it had asked went on."""
    parent = subprocess.Popen([sys.executable, "-c", CHILD, where], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    if where != "late":
        assert parent.stdout.readline() == "lives\n"
    parent.kill()
    parent.wait()
    assert is_gone(child)


def test_a_killed_command_leaves_no_rank_and_no_process_that_its_program_forked_and_is_recorded(tmp_path: Path) -> None:
    program = tmp_path / "forks.py"
    program.write_text(
        "import os, pathlib, sys, time, torch, torch.distributed as dist, torch.multiprocessing as mp\n"
        "def work():\n"
        "    dist.init_process_group('nccl')\n"
        "    torch.zeros(8, device='cuda')\n"
        "    pathlib.Path(sys.argv[1], f'{os.getpid()}.waits').touch()\n"
        "    while True: os.read(os.pipe()[0], 1)\n"
        "if __name__ == '__main__':\n"
        "    process = mp.get_context('fork').Process(target=work)\n"
        "    process.start()\n"
        "    process.join()\n"
    )
    command = start("--ranks", "all", program, tmp_path, on=("h100:2",))
    limit = time.monotonic() + 100
    while len(notes := list(tmp_path.glob("*.waits"))) < 2 and time.monotonic() < limit:
        time.sleep(0.1)
    assert len(notes) == 2
    os.kill(command.pid, signal.SIGKILL)
    gone = [is_gone(int(note.stem)) for note in notes]
    for note in notes:  # one that goes on would hold our pipes open
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(note.stem), signal.SIGKILL)
    command.communicate(timeout=60)
    assert all(gone)
