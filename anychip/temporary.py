"""Temporary folders: gone with the process that made them, or, where that was killed, as soon as the next one makes its own.

Each has a note, locked as long as its process lives. A lock tells who lives on one machine alone: of another's nothing is removed.
"""

import fcntl
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "anychip-"
RUNNING = "running"  # the note


@contextmanager
def temporary(kind: str = "") -> Iterator[Path]:
    """A folder of this process's own, kind in its name; those that killed ones have left are removed."""
    remove_dead(Path(tempfile.gettempdir()))
    # A process that is being killed may write to it even now: what is left of it is no reason to fail.
    with tempfile.TemporaryDirectory(prefix=PREFIX + kind, ignore_cleanup_errors=True) as name, running(Path(name)):
        yield Path(name)


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """Until its end others know that a folder is of a process that lives. What is in the note is there only once it is locked: where
    files have no locks nobody is told, and nothing removed."""
    with open(folder / RUNNING, "w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(_here())
            file.flush()
        yield


def _here() -> str:
    """What the note says: whose it is. Of another machine's, in a folder that both see, a lock may tell nothing."""
    return f"a recording of anychip on {socket.gethostname()}\n"


def is_running(folder: Path) -> bool:
    try:
        with open(folder / RUNNING) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it is over, or of another machine
        pass
    return False


def remove_dead(parent: Path) -> None:
    """Remove the folders that killed processes of this user on this machine have left. What recordings put aside lies elsewhere, and
    stays."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError, UnicodeError):
            note = folder / RUNNING
            found = note.lstat()
            if not (folder.lstat().st_uid == found.st_uid == os.getuid() and stat.S_ISREG(found.st_mode)):
                continue
            with open(note, encoding="utf-8") as file:
                # In this order: what has the text is locked, unless its process is dead.
                if file.read() == _here():
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
