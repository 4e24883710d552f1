"""The critical path: the chain of ranks that the job's end waited for."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anychip.cluster.simulate import ClusterTimeline, RankTimeline, Wait

LEAST_S = 1e-9  # shorter waits are rounding


@dataclass(frozen=True)
class Segment:
    """From begin_s to end_s the job's end depended on what this recording's rank did."""

    index: int
    begin_s: float
    end_s: float


def critical_path(timeline: ClusterTimeline, begin_s: float, end_s: float) -> list[Segment]:
    """Segments that cover begin_s..end_s without a gap, the first in time first.

    Walked from the end: of the rank that is last, back to the latest meeting at which it stood idle for another; from
    there on that other. A meeting beside which the rank's own kernels ran held nothing up.
    """
    index = max(range(len(timeline.ranks)), key=lambda i: timeline.ranks[i].timeline.total_s)
    stops = [_stops(rank, number) for number, rank in enumerate(timeline.ranks)]
    found: list[Segment] = []
    now = end_s
    while now > begin_s:
        waits, starts = stops[index]
        at = int(np.searchsorted(starts, now - LEAST_S)) - 1
        since = max(float(starts[at]), begin_s) if at >= 0 else begin_s
        found.append(Segment(index, since, now))
        now = since
        index = waits[at].late if at >= 0 else index
    return found[::-1]


def _stops(rank: RankTimeline, index: int) -> tuple[list[Wait], npt.NDArray[np.float64]]:
    """The waits for others at which nothing else ran, and when each ended."""
    timeline = rank.timeline
    own = ~rank.is_wire()[timeline.op]
    order = np.argsort(timeline.start_s[own], kind="stable")
    start = timeline.start_s[own][order]
    reached = np.maximum.accumulate(timeline.end_s[own][order]) if start.size else start
    waits = [wait for wait in rank.waits if wait.late != index and wait.start_s - wait.ready_s > LEAST_S]
    times = np.array([wait.start_s for wait in waits], np.float64)
    last = np.searchsorted(start, times - LEAST_S, side="right") - 1
    idle = (last < 0) | (reached[np.maximum(last, 0)] <= times + LEAST_S) if start.size else np.ones(times.size, bool)
    return [wait for wait, free in zip(waits, idle.tolist(), strict=True) if free], times[idle]
