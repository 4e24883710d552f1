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
    # the wire moves half of what memory can, for 0.4 ms, in which the kernel does half of what it would
    bandwidth = beside(COPY, Wire()).prices.on.memory_bytes_per_s
    wire = Wire(rate=1e10, memory=0.4e-3 * bandwidth / 2 / 4e6)
    (_, plain), (_, shared) = (t.duration_s for t in (beside(COPY, wire, contention=False), beside(COPY, wire)))
    assert plain == pytest.approx(price_op(COPY, H100).time_s)
    assert shared - plain == pytest.approx(0.2e-3, rel=0.05)
    assert beside(PRODUCT, wire).duration_s[1] == pytest.approx(price_op(PRODUCT, H100).time_s)


def test_a_collective_takes_what_it_moves_however_long_it_is():
    """A short one at a high rate cost what ran beside it more than a long one with the same bytes, so that a job got faster where its
    collectives got slower."""
    moved = 0.3e-3 * beside(COPY, Wire()).prices.on.memory_bytes_per_s / 4e6
    plain = price_op(COPY, H100).time_s
    fast, slow = (beside(COPY, Wire(rate=rate, memory=moved)).duration_s[1] - plain for rate in (1e10, 8e9))
    assert fast == pytest.approx(0.3e-3, rel=0.05)
    assert slow == pytest.approx(fast, rel=0.05)


def test_cores_are_shared_with_what_compute_limits():
    # 33 of 132 cores for 0.4 ms: a quarter of that is lost
    wire = Wire(rate=1e10, cores=33)
    plain = price_op(PRODUCT, H100).time_s
    assert beside(PRODUCT, wire).duration_s[1] - plain == pytest.approx(0.4e-3 / 4, rel=0.05)
    assert beside(COPY, wire).duration_s[1] == pytest.approx(price_op(COPY, H100).time_s)


def test_what_does_not_overlap_is_left_alone():
    wire = Wire(rate=1e10, memory=1e3, cores=60)
    assert beside(COPY, wire, overlap=False).duration_s[1] == pytest.approx(price_op(COPY, H100).time_s)


def two_at_once(first, second, wire=None, **rest):
    """An all-reduce of 4 MB over two ranks at 1 GB/s (4 ms) beside another of 2 MB (2 ms), each on a stream of its own."""
    rank = Rank(0, 4, [((0, 1), "dp"), ((0, 2), "tp")], range(4))
    rank.start(rank.call(first, 0, 10**6), stream=1)
    rank.start(rank.call(second, 1, 5 * 10**5), stream=2)
    return simulate(job(rank), H100, wire or Wire(), **rest).ranks[0].timeline


def test_two_collectives_on_the_same_wires_share_them():
    # both at half their rate for 4 ms, then the larger alone: 2 ms of each are lost
    alone = two_at_once("allreduce_", "allreduce_", contention=False)
    assert alone.duration_s.tolist() == pytest.approx([4e-3, 2e-3])
    shared = two_at_once("allreduce_", "allreduce_")
    assert shared.duration_s.tolist() == pytest.approx([6e-3, 4e-3], rel=0.02)


def test_wires_are_shared_by_what_each_needs_of_them():
    """All or nothing at half of its time: FSDP's reduce-scatters beside gathers took 4.9 ms on 1,024 chips and 4.1 ms on 2,048."""

    def longer(latency):
        wire = Wire(latency=latency)
        alone, shared = (
            two_at_once("allreduce_", "allreduce_", wire, contention=on).duration_s for on in (False, True)
        )
        return (shared - alone).tolist(), shared.tolist()

    assert longer(0.2e-3)[0] == pytest.approx([2.4e-3, 2.4e-3], rel=0.02)  # 4.4 and 2.4 ms, most of both the bytes'
    # wires are busy for 4 of 12 and 2 of 10 ms
    assert longer(4e-3)[0] == pytest.approx([10e-3 * (2 * 4 / 12 + 2 * 2 / 10 - 1)] * 2, rel=0.02)
    assert longer(10e-3)[0] == pytest.approx([0, 0])  # each passes while the others wait
    ends = [max(longer(step * 2e-4)[1]) for step in range(60)]
    assert ends == sorted(ends)  # no job is faster where its collectives are slower


def test_a_send_and_a_receive_do_not_share():
    pair = [Rank(i, 2, [((0, 1), "pp")]) for i in range(2)]
    for rank in pair:
        other = 1 - rank.rank
        first, second = (rank.send, rank.recv) if rank.rank == 0 else (rank.recv, rank.send)
        rank.start(first(other, 10**6), stream=1)
        rank.start(second(other, 10**6), stream=2)
    assert simulate(job(*pair), H100, Wire()).total_s == pytest.approx(4e-3, rel=0.02)


def test_two_sends_share():
    ranks = [Rank(i, 3, [((0, 1, 2), "pp")]) for i in range(3)]
    for peer in (1, 2):
        ranks[0].start(ranks[0].send(peer, 10**6), stream=peer)
        ranks[peer].start(ranks[peer].recv(0, 10**6))
    assert simulate(job(*ranks), H100, Wire()).total_s == pytest.approx(8e-3, rel=0.02)
