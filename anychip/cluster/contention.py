"""What a running collective takes from the kernels beside it: memory bandwidth and cores.

Memory: its own reads and writes over its time, of what memory can do. Cores: `engine.collective_cores`
of the chip's file (how many it holds while it runs); a chip without that figure moves data by engines of its own. A kernel that overlaps a
collective for t seconds of a share s takes s / (1 - s) * t longer: memory's share where memory limits it, the cores'
where its arithmetic does. Where they overlap is taken from a timeline without that effect.
"""

import numpy as np
import numpy.typing as npt

from anychip.cost.price import LIMITS, Prices
from anychip.cost.work import work
from anychip.timeline.price import Timeline

Floats = npt.NDArray[np.float64]

MOST = 0.9  # of memory that collectives can take: something is always left


def core_share(prices: Prices) -> float:
    """Share of the cores that a collective holds while it runs; 0 where the chip's file names none."""
    busy, cores = prices.chip.get("engine.collective_cores"), prices.chip.cores
    return min(busy / cores, MOST) if busy and cores else 0.0


def extra_s(timeline: Timeline, is_wire: npt.NDArray[np.bool_]) -> Floats:
    """For each launch of a timeline the seconds that collectives beside it add. is_wire: by op, is it a collective?"""
    wire = is_wire[timeline.op]
    start, end = timeline.start_s, timeline.end_s
    moved = np.array([work(op).bytes_moved for op in timeline.program.ops], np.float64)[timeline.op]
    most = timeline.prices.on.memory_bytes_per_s * np.maximum(timeline.duration_s, 1e-12)
    limit = timeline.prices.limit[timeline.op]
    found = np.zeros(timeline.op.size)
    for name, share in (
        ("memory", np.minimum(moved / most, MOST)),
        ("compute", np.full(found.size, core_share(timeline.prices))),
    ):
        mine = ~wire & (limit == LIMITS.index(name))
        lost = _integral(start[wire], end[wire], share[wire], start[mine], end[mine])
        found[mine] = lost
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
