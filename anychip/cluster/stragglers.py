"""What makes ranks unequal: chips that differ, noise of their kernels, a slow node, a link below its rate.

Spread. Chips of one model are not equally fast: of the V100 and MI60 of five clusters, run by run the same work, the ends of
the box plots' whiskers are 8% apart on average, outliers left out (P. Sinha et al., "Not all GPUs are created equal", SC22,
arXiv 2208.11035), which is 5.4 standard deviations of a normal distribution. Ranks that wait for one another all go at the pace of the
slowest of them, which is what is simulated: its arithmetic takes 1 + spread * m(n) times as long as a mean chip's, n as many as are
coupled. What waits for memory does not, as chips differ by the clock that their power allows and memory's is the same.

Noise. The time that a rank computes between two collectives varies from rank to rank, independently, with a relative
standard deviation `jitter`. A collective waits for the slowest of its n ranks; the mean of the largest of n normal
draws is m(n) standard deviations, m(n) = Phi^-1((n - 0.375) / (n + 0.25)) (G. Blom, "Statistical estimates and
transformed beta-variables", 1958). For stretches B_1 ... B_k of computing since the last collective on the same group,
the last of which ends here, and the largest group n' that met in between, the slowest is late by

    jitter * sqrt(B_1**2 + ... + B_k**2) * m(n / n')

as ranks that met in between are equally late. Deterministic: a mean, not a draw.
"""

from dataclasses import dataclass
from functools import cache
from math import sqrt
from statistics import NormalDist

from anychip.cluster.match import Rendezvous
from anychip.errors import BadUse

SPREAD = 0.015


@dataclass(frozen=True)
class Stragglers:
    """jitter: relative standard deviation of a rank's time between collectives. slow_node: how many times longer the
    kernels of one node's chips take. degraded_link: share of its rate that one node's network reaches. spread: relative
    standard deviation of the speeds of the job's chips."""

    jitter: float = 0.0
    slow_node: float = 1.0
    degraded_link: float = 1.0
    spread: float = SPREAD

    def __post_init__(self) -> None:
        if not 0 <= self.jitter < 1:
            raise BadUse(f"jitter {self.jitter:g}: a relative spread, from 0 (none) to below 1, for example 0.02")
        if not 1 <= self.slow_node < float("inf"):
            raise BadUse(f"slow node {self.slow_node:g}: how many times longer its kernels take, from 1, such as 1.1")
        if not 0 < self.degraded_link <= 1:
            raise BadUse(f"degraded link {self.degraded_link:g}: the share of its rate that is left, such as 0.5")

        if not 0 <= self.spread < 1:
            raise BadUse(
                f"spread {self.spread:g}: of the chips' speeds, from 0 (all alike) to below 1, such as {SPREAD:g}"
            )

    def pace(self, chips: int) -> float:
        """How many times longer arithmetic takes on the slowest of so many chips than on a mean one."""
        return 1 + self.spread * slowest_of(chips)

    @property
    def split(self) -> bool:
        """Is one node unlike the others?"""
        return self.slow_node > 1 or self.degraded_link < 1


@cache
def slowest_of(ranks: float) -> float:
    """m(n): how many standard deviations the slowest of n is above the mean, on average; 0 for one."""
    return NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25)) if ranks > 1 else 0.0


Synced = dict[int, tuple[float, ...]]  # rendezvous -> (busy seconds and sum of squares when it last met, its size)


def lag(jitter: float, synced: Synced, at: Rendezvous, busy_s: float) -> tuple[Synced, float]:
    """(what is known after this meeting, seconds that its slowest rank is late)."""
    last_busy, squares, _ = max(synced.values(), default=(0.0, 0.0, 0.0))
    squares += (busy_s - last_busy) ** 2
    mine = synced.get(at.number, (0.0, 0.0, 0.0))
    between = max((size for busy, _, size in synced.values() if busy > mine[0]), default=1.0)
    late = jitter * sqrt(max(squares - mine[1], 0.0)) * slowest_of(max(at.size / between, 1.0))
    return {**synced, at.number: (busy_s, squares, float(at.size))}, late
