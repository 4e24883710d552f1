"""What a collective takes from the kernels beside it."""

import pytest

from anychip.cluster import simulate
from anychip.cost import price_op
from anychip.spec import load_chip
from tests.cluster.jobs import Rank, Wire, job
from tests.cost.ops import add, mm

H100 = load_chip("h100")
COPY = add(2**28)  # 1.6 GB through memory
PRODUCT = mm(16384, 16384, 16384)


def beside(op, wire, overlap=True, **rest):
    """One long kernel beside an all-reduce (or after it), and when it ends."""
    rank = Rank(0, 2, [((0, 1), "dp")], range(2))
    event = rank.start(rank.call("allreduce_", 0, 10**6))
    if not overlap:
        rank.wait(event)
    rank.add(rank.op(op))
    return simulate(job(rank), H100, wire, **rest).ranks[0].timeline


def test_memory_is_shared_with_what_memory_limits():
    # the wire moves half of what memory can, for 0.4 ms: the kernel loses 0.5 / (1 - 0.5) * 0.4 ms
    bandwidth = beside(COPY, Wire()).prices.on.memory_bytes_per_s
    wire = Wire(rate=1e10, memory=0.4e-3 * bandwidth / 2 / 4e6)
    (_, plain), (_, shared) = (t.duration_s for t in (beside(COPY, wire, contention=False), beside(COPY, wire)))
    assert plain == pytest.approx(price_op(COPY, H100).time_s)
    assert shared - plain == pytest.approx(0.4e-3, rel=0.05)
    assert beside(PRODUCT, wire).duration_s[1] == pytest.approx(price_op(PRODUCT, H100).time_s)


def test_cores_are_shared_with_what_compute_limits():
    # 33 of 132 cores for 0.4 ms: a third of that is lost
    wire = Wire(rate=1e10, cores=33)
    plain = price_op(PRODUCT, H100).time_s
    assert beside(PRODUCT, wire).duration_s[1] - plain == pytest.approx(0.4e-3 / 3, rel=0.05)
    assert beside(COPY, wire).duration_s[1] == pytest.approx(price_op(COPY, H100).time_s)


def test_what_does_not_overlap_is_left_alone():
    wire = Wire(rate=1e10, memory=1e3, cores=60)
    assert beside(COPY, wire, overlap=False).duration_s[1] == pytest.approx(price_op(COPY, H100).time_s)
