"""The process that a program is recorded in is ended, whatever came meanwhile."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anychip.device import launch
from anychip.device.files import kept


def test_a_signal_that_came_while_popen_was_locked_does_not_hang_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "GRACE_S", 0.1)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    lock = child._waitpid_lock  # type: ignore[attr-defined]
    assert lock.acquire(False)
    launch._end_group(child)
    lock.release()
    assert child.wait(timeout=5) < 0


def test_folders_of_killed_recordings_are_removed_and_no_others(tmp_path: Path) -> None:
    """They stayed for good, with their recordings."""
    names = (
        "anychip-dead",
        "anychip-runs",
        "anychip-young",
        "anychip-elsewhere",
        "anychip-mine",
        "anychip-none",
        "other",
    )
    for name in names:
        (tmp_path / name).mkdir()
    for name in ("anychip-dead", "anychip-young", "anychip-elsewhere", "other"):
        with kept.running(tmp_path / name):
            pass
    # In a folder that machines share a lock may be seen on one of them alone.
    note = tmp_path / "anychip-elsewhere" / kept.RUNNING
    note.write_text(note.read_text().replace(socket.gethostname(), "another"))
    (tmp_path / "anychip-mine" / kept.RUNNING).mkdir()  # and a user may have folders of such a name
    (tmp_path / "anychip-link").symlink_to(tmp_path / "other")
    long_ago = time.time() - 2 * kept.YOUNG_S
    with kept.running(tmp_path / "anychip-runs"):
        for name in names:
            if name not in ("anychip-young", "anychip-none"):
                os.utime(tmp_path / name / kept.RUNNING, (long_ago, long_ago))
        kept.remove_dead(tmp_path)
    assert {one.name for one in tmp_path.iterdir()} == {*names, "anychip-link"} - {"anychip-dead"}
    assert (tmp_path / "other" / kept.RUNNING).is_file()


def test_how_many_ranks_of_a_job_were_begun_is_noted(tmp_path):
    for name in ("rank-1.log", "rank-3.log", "rank-0.anychip", "sample-3.anychip"):  # rank 0 writes to the user
        (tmp_path / name).touch()
    noted: list[str] = []
    watched = launch.Ranks(tmp_path, noted.append)
    watched.look()
    watched.look()  # too soon to be another
    assert noted == ["3 ranks begun"]
