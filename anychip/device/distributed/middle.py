"""The middle stages of a pipeline as a job runs them: one, taken to stand for the others until that is found out.

Letters that stages which do not run would have written are lent from a like pair of neighbours; in the end each must be
what the stage that ran has written in its own place. Imports no torch.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from anychip.whole import put

ADDRESS = re.compile(rb"\d{9,}")  # by which torch names the storage of a tensor that is pickled
LEAST = 6  # stages, from which on it saves anything


@dataclass
class Middle:
    """folder: of the letters. ranks: the pipeline's, in order. played: those that the second stood for. lent: letters."""

    folder: Path
    ranks: tuple[int, ...]
    played: list[int] = field(default_factory=list)
    lent: dict[str, bytes] = field(default_factory=dict)

    @property
    def others(self) -> tuple[int, ...]:
        """The middle stages but the one that runs."""
        return self.ranks[2:-1]

    @property
    def samples(self) -> tuple[int, ...]:
        """Those that are really run, for as long as it takes to see what they do: one an odd number of places from the
        second, as stages may take turns, and the last of them, as layers that do not divide make the first stages larger."""
        half = len(self.ranks) // 2
        return tuple(dict.fromkeys((self.ranks[half if half % 2 == 0 else half - 1], self.ranks[-2])))

    def lend(self, letter: str) -> bool:
        """Put a letter (`mail-SENDER-RECEIVER-NUMBER`) in its place, as a like pair wrote it; False while there is none."""
        sender, receiver, number = (int(part) for part in letter.split("-")[1:])
        if sender not in self.ranks or receiver not in self.ranks:
            return False
        step = self.ranks.index(receiver) - self.ranks.index(sender)
        # What goes to the second itself cannot be what it writes: that comes after.
        places = range(len(self.ranks)) if receiver == self.ranks[1] else (1,)
        for place in places:
            known = self._letter(place, step, number)
            if known is not None and self.ranks[place] != sender:
                self.lent[letter] = known
                put(self.folder / letter, known)
                return True
        return False

    def agree(self) -> bool:
        """Is each letter that was lent what its writer has written: the second in its place, or itself where it ran?"""
        for letter, text in self.lent.items():
            sender, receiver, number = (int(part) for part in letter.split("-")[1:])
            step = self.ranks.index(receiver) - self.ranks.index(sender)
            known = self._letter(1, step, number) if self.played else (self.folder / letter).read_bytes()
            if known is None or ADDRESS.sub(b"", known) != ADDRESS.sub(b"", text):
                return False
        return True

    def _letter(self, place: int, step: int, number: int) -> bytes | None:
        if not 0 <= place + step < len(self.ranks):
            return None
        path = self.folder / f"mail-{self.ranks[place]}-{self.ranks[place + step]}-{number}"
        return path.read_bytes() if path.exists() else None
