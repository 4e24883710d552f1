"""`LaunchQueue`: how far a host may run ahead of a stream. A stream's queue holds so many launches; the next one blocks until the chip
has taken one of them out. So the host is not done with launch i before launch i - room has ended:

    issued[i] = max(issued[i-1] + spent[i], end[i - room])

For ops in a row both sides are found in turns: ends without a limit give a host that waits, and that one later ends, until none
changes. Each turn settles at least as many launches as the queue holds; where the chip is behind all along, the first settles all.
"""

from collections import deque
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class LaunchQueue:
    """Of one stream: when its latest launches end, the oldest first. Those that the host has waited for are forgotten."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._ends = np.empty(4 * room)
        self._size = 0

    def drained(self) -> None:
        """The host has waited for all that was launched."""
        self._size = 0

    def fits(self, kernels: int, by_s: float) -> bool:
        """Whether so many more launches have room by then, whatever ends later."""
        return self._size + kernels <= self.room or (kernels <= self.room and self.free_s(kernels) <= by_s)

    def free_s(self, kernels: int) -> float:
        """When so many more launches have room; where a queue never holds so many at once, when all before have ended."""
        at = min(self._size + kernels - self.room, self._size) - 1
        return float(self._ends[at]) if at >= 0 else 0.0

    def free_all_s(self, kernels: Ints | None, ends: Floats) -> Floats:
        """As `free_s`, for each of ops in a row that are so many launches each (None: one) and end then."""
        if kernels is None:
            # The first that waits does so for the first of these.
            free, held = max(self.room - self._size, 0), max(self._size - self.room, 0)
            found = np.full(ends.size, -np.inf)
            known = self._ends[held : self._size][: max(ends.size - free, 0)]
            found[free : free + known.size] = known
            found[free + known.size :] = ends[: max(ends.size - free - known.size, 0)]
            return found
        past = np.concatenate((self._ends[: self._size], np.repeat(ends, kernels), [-np.inf]))
        total = np.cumsum(kernels)
        places = self._size + np.minimum(total - self.room, total - kernels) - 1
        return past[np.where((places >= 0) & (kernels > 0), places, -1)]

    def add(self, end_s: float, kernels: int) -> None:
        """So many launches, all of which have ended then."""
        self._add(end_s, min(kernels, self.room))

    def add_all(self, ends: Floats) -> None:
        """Launches in a row that end then."""
        self._add(ends[-self.room :], min(ends.size, self.room))

    def _add(self, ends: float | Floats, count: int) -> None:
        if self._size + count > self._ends.size:
            self._ends[: self.room] = self._ends[self._size - self.room : self._size]
            self._size = self.room
        self._ends[self._size : self._size + count] = ends
        self._size += count


class StretchQueue:
    """The same for stretches, of which one is looked at in so many launches: that holds the host up before its first launch, so that the
    queue may hold a stretch more."""

    __slots__ = ("_ends", "_free_s", "_held", "room")

    def __init__(self, room: int) -> None:
        self.room = room
        self._ends: deque[tuple[int, float]] = deque()
        self._held: deque[int] = deque()
        self._free_s = 0.0

    def is_known(self, before: int) -> bool:
        """Whether `free_s` is, or stretches that it takes are held up."""
        return not self._held or self._held[0] > before + 1 - self.room

    def free_s(self, before: int) -> float:
        """When the stretch may begin that so many launches of its stream stand before."""
        ends, last = self._ends, before + 1 - self.room
        while ends and ends[0][0] <= last:
            self._free_s = ends.popleft()[1]
        return self._free_s

    def hold(self, launched: int) -> None:
        """When so many launches of the stream have ended is not known yet."""
        self._held.append(launched)

    def add(self, launched: int, end_s: float) -> None:
        """When so many launches of the stream have ended, in the order of issue."""
        if self._held:
            self._held.popleft()
        self._ends.append((launched, end_s))


LOOKS = 8  # at a queue while it fills


def grain_of(room: int) -> int:
    """Launches between two looks."""
    return max(room // LOOKS, 1)


class Turn(NamedTuple):
    """A stretch that is looked at: how many launches of its stream stand before and behind it."""

    stream: int
    before: int
    after: int


def turns_of(streams: Ints, launches: Ints, room: int) -> dict[int, Turn]:
    """Of stretches that launch so much on these streams those that are looked at, by number."""
    found: dict[int, Turn] = {}
    launching = np.flatnonzero(launches) if room else launches[:0]
    grain = grain_of(room)
    for stream in set(streams[launching].tolist()):
        at = launching[streams[launching] == stream]
        after = np.cumsum(launches[at])
        before = after - launches[at]
        looked = np.flatnonzero(before // grain != after // grain)
        for number, *launched in zip(*(one[looked].tolist() for one in (at, before, after)), strict=True):
            found[number] = Turn(stream, *launched)
    return found
