"""Which groups of two recordings are one, where one of them has more groups of a size than the other."""

from anychip.cluster import simulate
from anychip.spec import load_chip
from tests.cluster.jobs import Rank, Wire, job

QUARTETS = {rank: (0, 1, 2, 3) if rank < 4 else (4, 5, 6, 7) for rank in range(8)}
ODD = (1, 3, 5, 7)


def member(rank, *members):
    """A rank that sums up in the group of the odd ones, if it is one, and gathers in its quartet."""
    groups = [(QUARTETS[rank], "dp")] if rank % 2 == 0 else [(ODD, "dp"), (QUARTETS[rank], "dp")]
    made = Rank(rank, 8, groups, members)
    if rank % 2:
        made.run(made.call("allreduce_", 0, 100))
    return made.run(made.call("_allgather_base_", len(groups) - 1, 100))


def test_a_group_that_only_some_classes_have_is_not_taken_for_another_of_its_size():
    """Rank 4's quartet was one with the first group of rank 1's class, that of the odd ranks: "collectives do not match"."""
    ranks = member(0, 0), member(1, 1, 5), member(2, 2, 6), member(3, 3, 7), member(4, 4)
    simulate(job(*ranks), load_chip("h100"), Wire())
