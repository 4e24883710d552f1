"""The process that a program is recorded in is ended, whatever came meanwhile."""

import subprocess
import sys

import pytest

from anychip.device import launch


def test_a_signal_that_came_while_popen_was_locked_does_not_hang_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "GRACE_S", 0.1)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    lock = child._waitpid_lock  # type: ignore[attr-defined]
    assert lock.acquire(False)
    launch._end_group(child)
    lock.release()
    assert child.wait(timeout=5) < 0


def test_how_many_ranks_of_a_job_were_begun_is_noted(tmp_path):
    for name in ("rank-1.log", "rank-3.log", "rank-0.anychip", "sample-3.anychip"):  # rank 0 writes to the user
        (tmp_path / name).touch()
    noted: list[str] = []
    watched = launch.Ranks(tmp_path, noted.append)
    watched.look()
    watched.look()  # too soon to be another
    assert noted == ["3 ranks begun"]
