"""What a `Forecast` of a job of several chips has beside one chip's: its ranks, axes, critical path and goodput."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class RankFigures:
    """One distinct rank of a job, per step. members: how many ranks it stands for. place: its position along each named
    mesh axis. breakdown_s: as a Forecast's. ran: how many of these ran: 0 where its recording was put together
    from another stage's."""

    rank: int
    members: int
    place: Mapping[str, int]
    peak_memory_bytes: int
    fits: bool
    breakdown_s: Mapping[str, float]
    ran: int = 1


@dataclass(frozen=True)
class AxisFigures:
    """Communication along one mesh axis, per step, mean over the chips. size: ranks of its largest group. calls: of
    collectives; nbytes: what they move, as nccl-tests count it. busy_s: they run; exposed_s: nothing else does;
    waiting_s: the chip stands idle for ranks that come later."""

    size: int
    calls: float
    nbytes: float
    busy_s: float
    exposed_s: float
    waiting_s: float


@dataclass(frozen=True)
class PathPart:
    """Share of the critical path that leads through a distinct rank."""

    rank: int
    share: float


@dataclass(frozen=True)
class GoodputFigures:
    """What failures leave of a long run's time. share: of wall time spent on steps that count, interval_s: best time
    between checkpoints, each as (low, usual, high). mtbf_s: usual time between failures. checkpoint_s, checkpoint_bytes:
    of one checkpoint."""

    share: tuple[float, float, float]
    interval_s: tuple[float, float, float]
    mtbf_s: float
    checkpoint_s: float
    checkpoint_bytes: float
