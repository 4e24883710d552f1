"""What a running collective takes from what runs beside it: memory bandwidth, cores, wires.

Memory: what it moves over its time, of what memory can do. Cores: those that the chip's file says it occupies while it
runs; a chip that moves data by engines of its own names none. Beside a collective of share s a kernel gets on by 1 - s of its
speed: memory's share where memory limits it, the cores' where its arithmetic does. What it has not done in t seconds of overlap, s * t, is
done when the collective has gone: all kernels lose what the collective takes, and no more however short it is.

Wires: collectives on different streams of a chip share the wires of a tier. Each needs all of them where its bytes limit it, the less
of them the more its steps do, and where what they need together is more than the whole, each takes as much longer; a send goes out, a
receive comes in, all else does both.

Where they overlap is taken from a timeline without these effects.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anychip.cost.price import LIMITS
from anychip.timeline.price import Timeline

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

MOST = 0.9  # of memory that collectives can take: something is always left


@dataclass(frozen=True)
class Taken:
    """What an op takes of its chip while it runs, by op. wire: it is a collective. moved_bytes: of memory. tier: number of
    the tier whose wires it needs, -1 for none. carrying: how much of them. out, into: it sends, it receives."""

    wire: Flags
    moved_bytes: Floats
    cores: Floats
    tier: npt.NDArray[np.int64]
    carrying: Floats
    out: Flags
    into: Flags


def extra_s(timeline: Timeline, taken: Taken) -> Floats:
    """For each launch of a timeline the seconds that collectives beside it add."""
    found = _beside_kernels(timeline, taken)
    tier = taken.tier[timeline.op]
    for number in np.unique(tier[tier >= 0]).tolist():
        for way in (taken.out, taken.into):
            mine = (tier == number) & way[timeline.op]
            found[mine] = np.maximum(found[mine], _beside_others(timeline, mine, taken.carrying[timeline.op])[mine])
    return found


def _beside_kernels(timeline: Timeline, taken: Taken) -> Floats:
    op, start, end = timeline.op, timeline.start_s, timeline.end_s
    wire = taken.wire[op]
    limit = timeline.prices.limit[op]
    bandwidth = timeline.prices.on.memory_bytes_per_s * np.maximum(timeline.duration_s, 1e-12)
    shares = {
        "memory": np.minimum(taken.moved_bytes[op] / bandwidth, MOST),
        "compute": np.minimum(taken.cores[op] / (timeline.prices.chip.cores or 1), MOST),
    }
    found = np.zeros(op.size)
    for name, share in shares.items():
        mine = ~wire & (limit == LIMITS.index(name))
        if wire.any():
            times, level = _levels(start[wire], end[wire], share[wire])
            found[mine] = _inside(times, np.clip(level, 0.0, MOST), start[mine], end[mine])
    return found


def _beside_others(timeline: Timeline, same: Flags, carrying: Floats) -> Floats:
    """For each launch among `same` how long those on other streams overlap it, by what all need of the wires beyond the whole."""
    found = np.zeros(timeline.op.size)
    for stream in np.unique(timeline.stream[same]).tolist():
        mine = same & (timeline.stream == stream)
        others = same & ~mine
        if others.any():
            times, level = _levels(timeline.start_s[others], timeline.end_s[others], carrying[others])
            for own in np.unique(carrying[mine]).tolist():
                some = mine & (carrying == own)
                beyond = np.maximum(level - (1.0 - own), 0.0)
                found[some] = _inside(times, beyond, timeline.start_s[some], timeline.end_s[some])
    return found


def _levels(begin: Floats, end: Floats, share: Floats) -> tuple[Floats, Floats]:
    """When the shares that begin..end take of something change, in order, and the sum of them from then on."""
    times = np.concatenate([begin, end])
    order = np.argsort(times, kind="stable")
    return times[order], np.cumsum(np.concatenate([share, -share])[order])


def _inside(times: Floats, level: Floats, since: Floats, until: Floats) -> Floats:
    """Seconds inside each since..until, each by the level that holds from one of the times to the next."""
    total = np.concatenate([[0.0], np.cumsum(level[:-1] * np.diff(times))])
    found: Floats = np.interp(until, times, total) - np.interp(since, times, total)
    return found
