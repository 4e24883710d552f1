"""Goodput: what failures leave of a long job's time.

In: how often a job is interrupted, how long until it trains again, how long a checkpoint takes. Out: the share of wall
time that is spent on steps that count, at the best interval between checkpoints.

Closed form, for failures that come independently of one another (exponential gaps of mean M), recovery R, a checkpoint
of C seconds after every T seconds of work; a failure loses what was done since the last checkpoint, and may come while
the job recovers (J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", 2006):

    share = T / (M * exp(R / M) * (exp((T + C) / M) - 1))
    best T = sqrt(2 C M) * (1 + sqrt(C / 2M) / 3 + (C / 2M) / 9) - C        where C < 2M, else M

Its first factor alone is J. W. Young's of 1974. `simulated` draws failures instead, alone or a rack at a time.
"""

from dataclasses import dataclass
from math import exp, expm1, sqrt

import numpy as np
import numpy.typing as npt

from anychip.errors import BadUse
from anychip.spec import Cluster

SIGMAS = 2.0  # how far the low and the high failure rate are from the counted one
GUESS = 2.0  # an estimated time to recover is right within this factor


@dataclass(frozen=True)
class Reliability:
    """rate_per_chip_s: interruptions per chip and second. recovery_s: from a failure until the job trains again.
    checkpoint_bytes_per_s: of the cluster's storage. Each as (low, usual, high). rack_chips: chips that fail together."""

    rate_per_chip_s: tuple[float, float, float]
    recovery_s: tuple[float, float, float]
    checkpoint_bytes_per_s: float
    rack_chips: int = 1

    @classmethod
    def of(cls, cluster: Cluster) -> "Reliability | None":
        """As the cluster's file says; None where it does not say enough."""
        rate = cluster.get("reliability.failure_rate_per_chip")
        storage = cluster.get("reliability.checkpoint_bandwidth")
        parts = [cluster.get(f"reliability.{name}") for name in ("detection", "restart")]
        if rate is None or storage is None or parts[1] is None:
            return None
        counted = cluster.get("reliability.failures_observed")
        spread = SIGMAS / sqrt(counted) if counted else 0.5  # a count of n is right within sqrt(n)
        recovery = sum(part for part in parts if part is not None)
        known = cluster.figures["reliability.restart"].kind == "measured"
        factor = 1.0 if known else GUESS
        return cls((rate * max(1 - spread, 0.1), rate, rate * (1 + spread)),
                   (recovery / factor, recovery, recovery * factor), storage,
                   cluster.count("reliability.rack_chips") or 1)  # fmt: skip


@dataclass(frozen=True)
class Goodput:
    """share: of wall time spent on steps that count, (worst, usual, best). interval_s: best time between checkpoints,
    (shortest, usual, longest). mtbf_s: usual time between failures. checkpoint_s: what one takes."""

    share: tuple[float, float, float]
    interval_s: tuple[float, float, float]
    mtbf_s: float
    checkpoint_s: float


def goodput(num_chips: int, checkpoint_bytes: float, known: Reliability) -> Goodput:
    """What is left of the time of a job on so many chips that writes so much at each checkpoint."""
    checkpoint = checkpoint_bytes / known.checkpoint_bytes_per_s
    means = [1 / (rate * num_chips) for rate in known.rate_per_chip_s]
    intervals = [best_interval_s(mean, checkpoint) for mean in means]
    usual = share(means[1], intervals[1], checkpoint, known.recovery_s[1])
    worst = share(means[2], intervals[2], checkpoint, known.recovery_s[2])
    best = share(means[0], intervals[0], checkpoint, known.recovery_s[0])
    return Goodput((worst, usual, best), (intervals[2], intervals[1], intervals[0]), means[1], checkpoint)


def best_interval_s(mtbf_s: float, checkpoint_s: float) -> float:
    """Seconds of work between checkpoints that leave most of the time (Daly 2006, equation 37)."""
    ratio = checkpoint_s / (2 * mtbf_s)
    if ratio >= 1:
        return mtbf_s
    young = sqrt(2 * checkpoint_s * mtbf_s)
    return young * (1 + sqrt(ratio) / 3 + ratio / 9) - checkpoint_s


def share(mtbf_s: float, interval_s: float, checkpoint_s: float, recovery_s: float) -> float:
    """Share of wall time spent on work that counts (Daly 2006, equation 20)."""
    if min(mtbf_s, checkpoint_s + interval_s) <= 0 or min(interval_s, checkpoint_s, recovery_s) < 0:
        raise BadUse("times between failures and between checkpoints are above 0 s, others at least 0 s")
    if interval_s == 0:
        return 0.0
    cycle = (interval_s + checkpoint_s) / mtbf_s
    if cycle > 500:  # so long a stretch never ends well
        return 0.0
    return interval_s / mtbf_s * exp(-recovery_s / mtbf_s) / expm1(cycle)


def simulated(gaps_s: npt.NDArray[np.float64], interval_s: float, checkpoint_s: float, recovery_s: float) -> float:
    """The same for failures with these gaps between them: each gap is recovery, then whole cycles, then lost work."""
    cycles = np.floor(np.maximum(gaps_s - recovery_s, 0.0) / (interval_s + checkpoint_s))
    return float(cycles.sum() * interval_s / gaps_s.sum())


def gaps(num_chips: int, rate_per_chip_s: float, count: int, seed: int = 0, *, rack_chips: int = 1,
         rack_share: float = 0.0) -> npt.NDArray[np.float64]:  # fmt: skip
    """Gaps between `count` interruptions. rack_share: of the failures of chips, those that take the chips of a rack at
    once: one interruption where independent chips would have made `rack_chips`."""
    each = num_chips * rate_per_chip_s
    rate = each * (1 - rack_share) + each * rack_share / rack_chips
    return np.random.default_rng(seed).exponential(1 / rate, count)
