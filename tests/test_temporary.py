"""Temporary folders go with their process, those of a killed one as soon as another looks."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from anychip import temporary

MAKE = "from anychip.temporary import temporary\nwith temporary('test-') as folder: print(folder, flush=True); input()"


def start(folder: Path) -> "tuple[subprocess.Popen[str], Path]":
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_of_a_killed_process_is_removed_by_the_next_and_that_of_a_live_one_is_not(tmp_path: Path) -> None:
    """It stayed for a minute at least, that of a proof or a measurement for good."""
    lives, of_live = start(tmp_path)
    killed, of_killed = start(tmp_path)
    assert of_live.is_dir()
    assert of_killed.is_dir()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    ends, of_next = start(tmp_path)
    assert set(tmp_path.iterdir()) == {of_live, of_next}
    for process in (lives, ends):
        process.communicate("")
    assert not list(tmp_path.iterdir())


def test_of_folders_by_our_names_those_of_killed_processes_of_this_machine_and_user_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (
        "anychip-dead",
        "anychip-runs",
        "anychip-elsewhere",
        "anychip-mine",
        "anychip-none",
        "anychip-new",
        "other",
    )
    for name in names:
        (tmp_path / name).mkdir()
    for name in ("anychip-dead", "anychip-elsewhere", "other"):
        with temporary.running(tmp_path / name):
            pass
    # In a folder that machines share a lock may be seen on one of them alone.
    note = tmp_path / "anychip-elsewhere" / temporary.RUNNING
    note.write_text(note.read_text().replace(socket.gethostname(), "another"))
    (tmp_path / "anychip-mine" / temporary.RUNNING).mkdir()  # and a user may have folders of such a name
    (tmp_path / "anychip-new" / temporary.RUNNING).touch()  # which is about to be locked
    (tmp_path / "anychip-link").symlink_to(tmp_path / "other")
    with temporary.running(tmp_path / "anychip-runs"):
        with monkeypatch.context() as other_user:
            other_user.setattr(os, "getuid", lambda: 1 << 20)
            temporary.remove_dead(tmp_path)
        assert {one.name for one in tmp_path.iterdir()} == {*names, "anychip-link"}
        temporary.remove_dead(tmp_path)
    assert {one.name for one in tmp_path.iterdir()} == {*names, "anychip-link"} - {"anychip-dead"}
    assert (tmp_path / "other" / temporary.RUNNING).is_file()


def test_where_files_have_no_locks_a_folder_is_made_and_none_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command ended with a traceback; and what a server of locks did not answer for was taken for dead."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / "anychip-unknown").mkdir()
    with temporary.running(tmp_path / "anychip-unknown"):
        pass
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with temporary.temporary() as folder:
        assert not (folder / temporary.RUNNING).read_text()
        assert (tmp_path / "anychip-unknown").is_dir()
        monkeypatch.undo()
        temporary.remove_dead(tmp_path)
        assert folder.is_dir()
        assert not (tmp_path / "anychip-unknown").exists()
