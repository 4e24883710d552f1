"""`LaunchQueue`: how far a host may run ahead of a stream. A stream's queue holds so many launches; the next one blocks until the chip
has taken one of them out. So the host is not done with launch i before launch i - room has ended:

    issued[i] = max(issued[i-1] + spent[i], end[i - room])

For ops in a row both sides are found in turns: ends without a limit give a host that waits, and that one later ends, until none
changes. Each turn settles at least as many launches as the queue holds; where the chip is behind all along, the first settles all.
"""

from collections import deque

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

    def fits(self, kernels: int) -> bool:
        """Whether so many more launches have room, whatever has ended."""
        return self._size + kernels <= self.room

    def free_s(self, kernels: int) -> float:
        """When so many more launches have room; where a queue never holds so many at once, when all before have ended."""
        at = min(self._size + kernels - self.room, self._size) - 1
        return float(self._ends[at]) if at >= 0 else 0.0

    def free_all_s(self, kernels: Ints, ends: Floats) -> Floats:
        """As `free_s`, for each of ops in a row that are so many launches each and end then."""
        past = np.concatenate((self._ends[: self._size], each(kernels, ends), [-np.inf]))
        if past.size == self._size + kernels.size + 1 and kernels.all():
            at, known = max(self._size - self.room, 0), max(self._size + kernels.size - self.room, 0)
            known = min(known, kernels.size)
            return np.concatenate((np.full(kernels.size - known, -np.inf), past[at : at + known]))
        total = np.cumsum(kernels)
        places = self._size + np.minimum(total - self.room, total - kernels) - 1
        found: Floats = past[np.where((places >= 0) & (kernels > 0), places, -1)]
        return found

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
    queue may hold a stretch more. Of those whose end is not known yet nothing is waited for."""

    __slots__ = ("_ends", "_free_s", "room")

    def __init__(self, room: int) -> None:
        self.room = room
        self._ends: deque[tuple[int, float]] = deque()
        self._free_s = 0.0

    def free_s(self, before: int) -> float:
        """When the stretch may begin that so many launches of its stream stand before."""
        ends, last = self._ends, before + 1 - self.room
        while ends and ends[0][0] <= last:
            self._free_s = ends.popleft()[1]
        return self._free_s

    def add(self, launched: int, end_s: float) -> None:
        """When so many launches of the stream have ended, in the order of issue."""
        self._ends.append((launched, end_s))


LOOKS = 16  # at a queue while it fills


def turns_of(streams: Ints, launches: Ints, room: int) -> list[tuple[int, int] | None]:
    """Of stretches that launch so much on these streams: for those that are looked at how many launches of their stream stand before
    and behind them."""
    found: list[tuple[int, int] | None] = [None] * launches.size
    for stream in np.unique(streams).tolist() if room else ():
        at = np.flatnonzero((streams == stream) & (launches > 0))
        after = np.cumsum(launches[at])
        before = after - launches[at]
        grain = max(room // LOOKS, 1)
        for one in np.flatnonzero(before // grain != after // grain).tolist():
            found[int(at[one])] = int(before[one]), int(after[one])
    return found


def each(kernels: Ints, ends: Floats) -> Floats:
    """When each launch has ended, of ops that are so many launches."""
    return ends if (kernels == 1).all() else np.repeat(ends, kernels)
