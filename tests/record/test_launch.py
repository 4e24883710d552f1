"""The process that a program is recorded in is ended, whatever came meanwhile."""

import os
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
    for name in ("dead", "runs", "young", "none"):
        (tmp_path / f"anychip-{name}").mkdir()
    (tmp_path / "other").mkdir()
    long_ago = time.time() - 2 * kept.YOUNG_S
    for folder in ("anychip-dead", "anychip-young", "other"):
        (tmp_path / folder / kept.RUNNING).touch()
    with kept.running(tmp_path / "anychip-runs"):
        for folder in ("anychip-dead", "anychip-runs", "other"):
            os.utime(tmp_path / folder / kept.RUNNING, (long_ago, long_ago))
        kept.remove_dead(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["anychip-none", "anychip-runs", "anychip-young", "other"]
