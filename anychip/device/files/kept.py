"""Where a checkpoint of before lies while a program runs, and how all are put back. Imports no torch.

What is put aside lies in a hidden folder beside its place, on the same file system: programs list their checkpoints by their
names, from which it is left out. The folder's name is of one recording, so that two in one place take nothing from each other; what one left that was
killed is told. The journal is a folder that all ranks of a job share, with a file for each path.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anychip import units
from anychip.temporary import PREFIX, is_running

listdir = os.listdir  # in the program's process it leaves these folders out
ASIDE = ".anychip-kept"  # folder of what was there before, beside its place
HIDDEN = ".anychip-hidden"  # folder of what an earlier rank saved
JOURNAL = "saved"
TURN = "turn-"  # note of a recording that saves into a folder; of its name the rest is made
TURN_S, LOOK_S = 300.0, 0.05  # for how long one waits for another that saves there, and how often it looks
SLEEP = time.sleep  # the real one, taken before the program's clocks are replaced
NAMED = 3  # paths that are told


def wait_for_turn(folder: str, recording: Path, *, saves: bool) -> None:
    """Wait while another recording that came earlier saves into a folder: its files have no values, and two programs that write a file
    and rename it take it from one another. saves: this recording will, so that those after it wait."""
    name = f"{TURN}{hashlib.sha256(folder.encode(errors='surrogateescape')).hexdigest()[:16]}"
    mine = recording / JOURNAL / name
    if saves:
        mine.touch(exist_ok=True)
    limit = time.monotonic() + TURN_S
    while any(_is_before(other, mine) for other in recording.parent.glob(f"{PREFIX}*/{JOURNAL}/{name}")):
        if time.monotonic() > limit:  # each of two may wait for the other, in two folders
            return
        SLEEP(LOOK_S)


def _is_before(other: Path, mine: Path) -> bool:
    """Whether another recording's note of a folder is older than ours, or there is none of ours, and that recording still runs."""
    try:
        late = mine.exists() and (other.stat().st_mtime_ns, str(other)) >= (mine.stat().st_mtime_ns, str(mine))
    except OSError:  # it has ended just now
        return False
    return not late and is_running(other.parents[1])


def asides(place: str, recording: Path) -> list[tuple[str, bool]]:
    """What other recordings put aside of a place, and whether they still run."""
    folder, name = os.path.split(place)
    own = beside(place, ASIDE, recording)
    beside_it = [one for one in listdir(folder) if one.startswith(f"{ASIDE}-")] if os.path.isdir(folder) else []
    found = [path for one in beside_it if os.path.lexists(path := os.path.join(folder, one, name))]
    names = {one: os.path.basename(os.path.dirname(one)).removeprefix(f"{ASIDE}-") for one in found if one != own}
    return [(one, is_running(recording.parent / name)) for one, name in names.items()]


def put_back(folder: Path) -> str:
    """Make all checkpoints as they were before a recording, whose folder this is; returns what was done, for the user."""
    restored: list[str] = []
    removed: list[str] = []
    failed: list[str] = []
    left: list[str] = []
    made: list[str] = []  # folders, by the program
    for path, kept in entries(folder / JOURNAL):
        hidden = beside(path, HIDDEN, folder)
        saved = [one for one in ((path, hidden) if kept is None else (hidden,)) if is_file(one)]
        try:
            for one in saved:
                os.remove(one)
            remove_empty(os.path.dirname(hidden))
            if kept is None:
                removed += [path] * bool(saved)
                made += [path] * os.path.isdir(path)
            elif os.path.lexists(kept):
                left += [one for one, runs in asides(path, folder) if not runs]
                _restore(kept, path)
                restored.append(path)
            entry_of(folder / JOURNAL, path).unlink()
        except OSError as error:
            failed.append(f"{path} is not as it was ({error.strerror})" + (f", which is {kept}" if kept else ""))
    for path in {os.path.dirname(one) for one in removed} & set(made):
        if not failed and not any(one.startswith(path + os.sep) for one in restored):  # a folder of before, made again
            shutil.rmtree(path, ignore_errors=True)
    for path in sorted(made, reverse=True):
        with suppress(OSError):  # it is not empty, and stays
            os.rmdir(path)
    done = (_told(done, paths) for done, paths in (("removed", removed), ("put back", restored)) if paths)
    told = f"what a forecast that was killed put aside lies there still: {', '.join(left)}" if left else ""
    return "; ".join(filter(None, (" and ".join(done), *failed, told)))


def _restore(kept: str, path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        os.replace(kept, path)
    except OSError:  # another file system, a folder that cannot be written
        shutil.copyfile(kept, path, follow_symlinks=False)
        with suppress(OSError):  # a file of another's
            shutil.copystat(kept, path, follow_symlinks=False)
    if os.path.lexists(kept):  # also where both are names of one file
        os.remove(kept)
    remove_empty(os.path.dirname(kept))


def _told(done: str, paths: list[str]) -> str:
    """The program saved no values, as a virtual chip computes none."""
    why = "what the program saves here has no values: " if done == "removed" else ""
    return (
        f"{done} {units.several(len(paths), 'checkpoint')} ({why}{first_of([os.path.relpath(one) for one in paths])})"
    )


def first_of(told: list[str]) -> str:
    """The first few of what is told, and that there are more."""
    return ", ".join(told[:NAMED]) + ", ..." * (len(told) > NAMED)


def remove_empty(folder: str) -> None:
    """The folders that were made to put something aside."""
    with suppress(OSError):  # the last of them is not empty yet
        while ASIDE in folder or HIDDEN in folder:
            os.rmdir(folder)
            folder = os.path.dirname(folder)


def full(path: Any) -> str:
    return os.path.realpath(os.fsdecode(path))


def place_of(path: Any) -> str:
    """The full path of a name itself, whether or not it is a symbolic link."""
    folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))
    return os.path.join(os.path.realpath(folder), name)


def beside(path: str, kind: str, recording: Path, folder: str | None = None) -> str:
    """Where to put a file: in a hidden folder of this recording that lies beside it, or beside a folder that it is in."""
    above = os.path.dirname(folder or path)
    return os.path.join(above, f"{kind}-{recording.name}", os.path.relpath(path, above))


def is_ours(name: str | bytes) -> bool:
    """A folder of what was put aside."""
    return os.fsdecode(name).startswith((ASIDE, HIDDEN))


def second_name(path: str, name: str) -> None:
    try:
        os.link(path, name, follow_symlinks=False)
    except OSError:  # the file system has no links
        shutil.copy2(path, name, follow_symlinks=False)


def is_file(path: str) -> bool:
    return os.path.isfile(path) or os.path.islink(path)


def same(one: str, other: str) -> bool:
    return os.path.samestat(os.lstat(one), os.lstat(other))


def files_in(folder: str) -> Iterator[str]:
    """All files in a folder, and symbolic links; none of what is no folder."""
    for inside, folders, names in os.walk(folder):
        for name in (*names, *(one for one in folders if os.path.islink(os.path.join(inside, one)))):
            yield os.path.join(inside, name)


def entry_of(journal: Path, path: str) -> Path:
    return journal / hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()


def write(entry: Path, path: str, kept: str | None) -> None:
    entry.write_text(json.dumps([path, kept]), encoding="utf-8")


def entries(journal: Path) -> list[tuple[str, str | None]]:
    """Each path that the program touches, and where what was there lies now: None where nothing was."""
    if not journal.is_dir():
        return []
    return [
        tuple(json.loads(one.read_text(encoding="utf-8"))) for one in sorted(journal.iterdir()) if len(one.name) == 64
    ]


@contextmanager
def locked(journal: Path) -> Iterator[None]:
    """Ranks that run at the same time may save to one path."""
    with open(journal / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a process that was forked meanwhile has the file open, too
