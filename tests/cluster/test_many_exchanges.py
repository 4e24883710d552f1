"""All-to-alls that the same ranks do again and again."""

from anychip.cluster import board, simulate
from anychip.spec import load_chip
from tests.cluster.jobs import Rank, Wire, job


def test_two_ranks_are_compared_once_for_each_op(monkeypatch):
    """Each pair was, in each all-to-all: 60 of these among 128 ranks took six seconds instead of a half."""
    compared = []
    fits = board.fits
    monkeypatch.setattr(board, "fits", lambda *legs: compared.append(legs) or fits(*legs))
    ranks = [Rank(number, 4, [((0, 1, 2, 3), "ep")]) for number in range(4)]
    for rank in ranks:
        for _ in range(5):
            rank.run(rank.call("alltoall_base_", 0, 16, sure=True, splits=(4,) * 4, received=(4,) * 4))
    simulate(job(*ranks), load_chip("h100"), Wire())
    assert len(compared) == 2 * 4 * 3 / 2  # in each of two passes
