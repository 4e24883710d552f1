"""Files of other kinds than checkpoints that were there before and that a program writes: they stay, and are told.

A table that a real run filled is as lost when a forecast opens it for writing as when a real run does, and rows that a
forecast adds to it hold made-up values; once for each recording, of which several chips may need several. So what each file
was is noted before it is first opened, and after the program's end those that are otherwise are named. Caches are not: what
lies in hidden folders, or holds nothing. Python's audit events do not show what compiled libraries (HDF5, SQLite) and other
programs write, nor what goes with a folder. Imports no torch.
"""

import json
import os
from pathlib import Path
from typing import Any

from anychip.device.files.kept import first_of, full

NOTES = "written"  # a line for each file that a process opens, in the order of time


class Written:
    """What this process writes. Ranks of a job share the notes: what one made is no file of before to the next."""

    def __init__(self, folder: Path) -> None:
        self.notes = folder / NOTES
        self._noted: set[str] = set()

    def note(self, path: Any, how: str) -> None:
        """The program is about to write, replace or remove a file."""
        place = full(path)
        if place not in self._noted:
            self._noted.add(place)
            with open(self.notes, "a", encoding="utf-8") as notes:
                notes.write(json.dumps([place, how, _state(place)]) + "\n")


def tell(folder: Path) -> str:
    """Which files of before are not what they were, for the user."""
    notes = (folder / NOTES).read_text(encoding="utf-8") if (folder / NOTES).exists() else ""
    first = {place: (how, before) for place, how, before in reversed([json.loads(one) for one in notes.splitlines()])}
    changed = []
    for place, (how, before) in sorted(first.items()):
        now, path = _state(place), os.path.relpath(place)
        if before and before[0] and now != before and not _is_cache(path):
            changed.append(f"{path} ({how if now else 'removed'})")
    told = "files of before that are no checkpoints stay as the program left them"
    return f"{told}: {first_of(changed)}" if changed else ""


def how(flags: int) -> str:
    return "overwritten" if flags & os.O_TRUNC else "appended to" if flags & os.O_APPEND else "changed"


def _state(place: str) -> list[int] | None:
    """Size and time of a file; None where none is."""
    if not os.path.isfile(place):
        return None
    found = os.stat(place)
    return [found.st_size, found.st_mtime_ns]


def _is_cache(path: str) -> bool:
    return any(part == "__pycache__" or (part[0] == "." and part != "..") for part in Path(path).parts)
