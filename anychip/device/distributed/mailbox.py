"""What the ranks that are recorded tell one another: objects and small values, in the order of each pair of ranks.

Chip tensors carry no data, so what a program decides by what a peer sent (shapes, votes, settings) travels here, as files
in the recording's own temporary folder. Who waits says for whom: that starts a rank that does not run yet, and shows a
deadlock while it happens. Imports no torch.
"""

import json
import os
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from anychip.errors import Deadlock
from anychip.record import Place
from anychip.whole import put

POLL_S = 0.004
LIBRARIES = "libraries.json"
STAGES_OF_FIRST = "stages.json"
SLEEP = time.sleep  # the real one, taken before the program's clocks are replaced


class Mailbox:
    """One rank's end of it.

    stands_in_for: a rank of the same class; the mail is read and written under its name, and nothing is written twice.
    tokens: a pipe (read, write) that holds a byte for each rank that may compute at the same time.
    """

    def __init__(self, folder: Path, rank: int, stands_in_for: int | None, tokens: tuple[int, int]) -> None:
        self.folder, self.rank, self.tokens = folder, rank, tokens
        self.shift = 0 if stands_in_for is None else stands_in_for - rank
        self._sent: dict[int, int] = {}
        self._received: dict[int, int] = {}

    def send(self, peer: int, value: Any) -> None:
        """Leave a value for `peer`."""
        number = self._sent[peer] = self._sent.get(peer, -1) + 1
        self._put(self._name(self.rank, peer, number), value)

    def receive(self, peer: int, ranks: tuple[int, ...], what: str, place: Place) -> Any:
        """The next value from `peer`, waited for. ranks: of the group, of which the others will be waited for as well.
        what, place: for the message if it never comes.

        Raises Deadlock.
        """
        number = self._received[peer] = self._received.get(peer, -1) + 1
        return self._take(self._name(peer, self.rank, number), peer, ranks, what, place)

    def publish(self, key: str, value: Any, kin: str = "") -> None:
        """Leave a value for all ranks. kin: by what a sample of a rank whose own root does not run finds it."""
        self._put(self.folder / f"all-{key}", value)
        if kin and not (self.folder / f"all-kin-{kin}").exists():
            self._put(self.folder / f"all-kin-{kin}", value)

    def published(self, key: str, root: int, what: str, place: Place, kin: str = "") -> Any:
        """What `root` left, waited for."""
        return self._take(self.folder / f"all-{self._held(key, kin)}", root, (), what, place)

    def holds(self, key: str, kin: str, waits: bool = True) -> bool:
        """Whether there is such a value, or will be if one `waits`: a sample waits for nobody."""
        return (waits and not self.shift) or (self.folder / f"all-{self._held(key, kin)}").exists()

    def _held(self, key: str, kin: str) -> str:
        return f"kin-{kin}" if self.shift and kin and not (self.folder / f"all-{key}").exists() else key

    def _name(self, source: int, target: int, number: int) -> Path:
        return self.folder / f"mail-{source + self.shift}-{target + self.shift}-{number}"

    def _put(self, path: Path, value: Any) -> None:
        if self.shift:
            return
        put(path, pickle.dumps(value))

    def _take(self, path: Path, peer: int, ranks: tuple[int, ...], what: str, place: Place) -> Any:
        if not path.exists():
            self._wait(path, peer, ranks, what, place)
        return pickle.loads(path.read_bytes())

    def _wait(self, path: Path, peer: int, ranks: tuple[int, ...], what: str, place: Place) -> None:
        """Let others compute until the file is there."""
        self.tell_libraries()
        note, stop = self.folder / f"waiting-{self.rank}", self.folder / f"stop-{self.rank}"
        put(note, json.dumps([peer, ranks, path.name, what, place.file, place.line]))
        os.write(self.tokens[1], b"t")
        try:
            while not path.exists():
                if stop.exists():
                    raise Deadlock(stop.read_text(encoding="utf-8"))
                SLEEP(POLL_S)
        finally:
            note.unlink(missing_ok=True)
            os.read(self.tokens[0], 1)

    def pause(self, name: str, ranks: tuple[int, ...], place: Place) -> None:
        """Let these run, until one of them is through or none can go on by itself. name: of the file that is there then."""
        if not self.shift:
            self._wait(self.folder / name, ranks[-1], ranks, "nothing", place)

    def tell_libraries(self) -> None:
        """Name the installed modules that this rank has imported, so that those that start later find them loaded."""
        if not (self.folder / LIBRARIES).exists():
            self._tell(lambda name: True)

    def tell_stages(self, ranks: Sequence[int]) -> None:
        """Name the ranks of a pipeline that this one is the first of: it will wait for them."""
        if not (self.folder / STAGES_OF_FIRST).exists():
            put(self.folder / STAGES_OF_FIRST, json.dumps(list(ranks)))

    def tell_torch(self) -> None:
        """At its end, the parts of torch that it came to need: dynamo alone takes longer to import than a small step to record."""
        self._tell(lambda name: name.startswith("torch."))

    def _tell(self, wanted: Callable[[str], bool]) -> None:
        modules = list(sys.modules.items())
        names = [name for name, one in modules if wanted(name) and installed(getattr(one, "__file__", None))]
        put(self.folder / LIBRARIES, json.dumps(names))


def installed(file: str | None) -> bool:
    """Whether a module's file is a library's, not the program's own."""
    return file is not None and ("site-packages" in file or "dist-packages" in file)
