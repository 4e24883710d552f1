"""A rank's engine keeps the time of the one-chip engine, whatever holds its streams up in between."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anychip.cluster import simulate
from anychip.record import Group, Kind
from anychip.spec import load_chip
from anychip.timeline import price
from tests.cluster.jobs import Cost, Rank, Wire, job
from tests.timeline.tapes import program, w
from tests.timeline.test_engine import OPS, WORDS


def same(one, other):
    assert one.position.tolist() == other.position.tolist()
    assert one.op.tolist() == other.op.tolist()
    assert one.stream.tolist() == other.stream.tolist()
    for name in ("start_s", "duration_s", "host_s"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=0, atol=1e-12)
    assert one.total_s == pytest.approx(other.total_s, abs=1e-12)


class Free(Wire):
    """A network that takes no time."""

    def cost(self, kind, nbytes, ranks, dtype):
        return Cost(0.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, max_size=150), st.sampled_from(["a100", "tpu-v5p", "generic-cpu"]), st.integers(0, 3))
def test_one_rank_takes_the_time_of_one_chip(words, chip, repeats):
    chip = load_chip(chip)
    recorded = program([w(Kind.ALLOC, 0), *words, *[w(Kind.OP, 0)] * (40 * repeats), w(Kind.FREE, 0)], OPS, [8])
    (rank,) = simulate(recorded, chip, Free()).ranks
    same(rank.timeline, price(recorded, chip))


MEETINGS = st.lists(st.tuples(st.lists(WORDS, max_size=12), st.sampled_from([0, 1, 2])), max_size=12)


@settings(max_examples=60, deadline=None)
@given(MEETINGS, st.booleans(), st.sampled_from(["a100", "generic-cpu"]))
def test_meeting_a_twin_changes_nothing(parts, first, chip):
    # two ranks that do the same, recorded twice: both meet at every collective, neither is ever late
    def rank(number, members, world):
        me = Rank(number, world, [(tuple(range(world)), "dp")], members)
        me.ops = list(OPS)
        for words, stream in parts:
            me.add(*words, w(Kind.STREAM, stream), me.call("allreduce_", 0, 100))
        return me

    chip = load_chip(chip)
    wire = Wire(1e9, 1e-5)
    twins = simulate(job(rank(0, [0], 2), rank(1, [1], 2)), chip, wire, contention=False)
    (alone,) = simulate(job(rank(0, [0, 1], 2)), chip, wire, contention=False).ranks
    same(twins.ranks[int(first)].timeline, alone.timeline)


def test_a_group_is_told_by_its_ranks():
    assert Rank(0, 2, [((0, 1), None)]).groups == [Group((0, 1), None)]
