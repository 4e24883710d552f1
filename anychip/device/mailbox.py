"""What the ranks that are recorded tell one another: objects and small values, in the order of each pair of ranks.

Chip tensors carry no data, so what a program decides by what a peer sent (shapes, votes, settings) travels here, as files
in the recording's own temporary folder. Who waits says for whom: that starts a rank that does not run yet, and shows a
deadlock while it happens. Imports no torch.
"""

import os
import pickle
import time
from pathlib import Path
from typing import Any

from anychip.errors import AnychipError
from anychip.record import Place

POLL_S = 0.004
SLEEP = time.sleep  # the real one, taken before the program's clocks are replaced


class Deadlock(AnychipError):
    """Ranks wait for one another in a circle, or for one that has ended."""


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

    def receive(self, peer: int, what: str, place: Place) -> Any:
        """The next value from `peer`, waited for. what, place: for the message if it never comes.

        Raises Deadlock.
        """
        number = self._received[peer] = self._received.get(peer, -1) + 1
        return self._take(self._name(peer, self.rank, number), peer, what, place)

    def publish(self, key: str, value: Any) -> None:
        """Leave a value for all ranks."""
        self._put(self.folder / f"all-{key}", value)

    def published(self, key: str, root: int, what: str, place: Place) -> Any:
        return self._take(self.folder / f"all-{key}", root, what, place)

    def _name(self, source: int, target: int, number: int) -> Path:
        return self.folder / f"mail-{source + self.shift}-{target + self.shift}-{number}"

    def _put(self, path: Path, value: Any) -> None:
        if self.shift:
            return
        partial = path.with_name(f".{path.name}.{self.rank}")
        partial.write_bytes(pickle.dumps(value))
        os.replace(partial, path)

    def _take(self, path: Path, peer: int, what: str, place: Place) -> Any:
        if not path.exists():
            self._wait(path, peer, what, place)
        return pickle.loads(path.read_bytes())

    def _wait(self, path: Path, peer: int, what: str, place: Place) -> None:
        """Let others compute until the file is there."""
        note, stop = self.folder / f"waiting-{self.rank}", self.folder / f"stop-{self.rank}"
        text = f"rank {self.rank} waits in {what} for rank {peer} ({place.file}:{place.line})"
        (self.folder / f".{note.name}").write_text(f"{peer}\n{text}", encoding="utf-8")
        os.replace(self.folder / f".{note.name}", note)
        os.write(self.tokens[1], b"t")
        try:
            while not path.exists():
                if stop.exists():
                    raise Deadlock(stop.read_text(encoding="utf-8"))
                SLEEP(POLL_S)
        finally:
            note.unlink(missing_ok=True)
            os.read(self.tokens[0], 1)
