"""What a running collective takes from the kernels beside it: memory bandwidth and cores.

Memory: what it moves over its time, of what memory can do. Cores: those that the chip's file says it occupies while it
runs; a chip that moves data by engines of its own names none. A kernel that overlaps a collective for t seconds of a
share s takes s / (1 - s) * t longer: memory's share where memory limits it, the cores' where its arithmetic does. Where
they overlap is taken from a timeline without that effect.
"""

import numpy as np
import numpy.typing as npt

from anychip.cost.price import LIMITS
from anychip.timeline.price import Timeline

Floats = npt.NDArray[np.float64]

MOST = 0.9  # of memory that collectives can take: something is always left


def extra_s(timeline: Timeline, moved_bytes: Floats, cores: Floats) -> Floats:
    """For each launch of a timeline the seconds that collectives beside it add. moved_bytes, cores: by op, what it takes
    of the chip while it runs; nan for what is no collective."""
    op, start, end = timeline.op, timeline.start_s, timeline.end_s
    wire = ~np.isnan(moved_bytes)[op]
    limit = timeline.prices.limit[op]
    bandwidth = timeline.prices.on.memory_bytes_per_s * np.maximum(timeline.duration_s, 1e-12)
    taken = {
        "memory": np.minimum(moved_bytes[op] / bandwidth, MOST),
        "compute": np.minimum(cores[op] / (timeline.prices.chip.cores or 1), MOST),
    }
    found = np.zeros(op.size)
    for name, share in taken.items():
        mine = ~wire & (limit == LIMITS.index(name))
        found[mine] = _integral(start[wire], end[wire], share[wire], start[mine], end[mine])
    return found


def _integral(begin: Floats, end: Floats, share: Floats, since: Floats, until: Floats) -> Floats:
    """Seconds lost by work in each since..until: its overlap with begin..end at their shares s, as s / (1 - s)."""
    if not begin.size or not since.size:
        return np.zeros(since.size)
    times = np.concatenate([begin, end])
    change = np.concatenate([share, -share])
    order = np.argsort(times, kind="stable")
    times, level = times[order], np.clip(np.cumsum(change[order]), 0.0, MOST)
    rate = level / (1 - level)
    total = np.concatenate([[0.0], np.cumsum(rate[:-1] * np.diff(times))])
    lost: Floats = np.interp(until, times, total) - np.interp(since, times, total)
    return lost
