"""Many chips: the recordings of a job's distinct ranks, joined on one clock."""

from anychip.cluster.simulate import ClusterTimeline, RankTimeline, simulate
from anychip.cluster.stragglers import Stragglers

__all__ = ["ClusterTimeline", "RankTimeline", "Stragglers", "simulate"]
