"""What failures leave of the time: closed form against simulation, and a published run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anychip.cluster.goodput import Reliability, best_interval_s, gaps, goodput, share, simulated
from anychip.errors import BadUse
from anychip.spec import load_cluster

HOUR = 3600.0


def test_by_hand():
    # a failure an hour, 10 s checkpoints: sqrt(2 * 10 * 3600) = 268 s after Young, 268.3 * (1 + 0.0124 + 0.0002) - 10 = 261.7
    assert best_interval_s(HOUR, 10) == pytest.approx(261.7, abs=0.1)
    # without recovery, of each 271.7 s 10 are checkpoint and with probability 271.7 / 3600 half of it is lost
    assert share(HOUR, 261.7, 10, 0) == pytest.approx(261.7 / 271.7 * (1 - 271.7 / 3600 / 2), rel=1e-3)
    # a recovery of six minutes ends without another failure with probability exp(-0.1)
    assert share(HOUR, 261.7, 10, 360) == pytest.approx(share(HOUR, 261.7, 10, 0) * np.exp(-0.1))


def test_a_job_that_never_fails_only_writes_checkpoints():
    assert share(1e15, 90, 10, 600) == pytest.approx(0.9)
    assert share(1, 1000, 0, 0) == 0


@settings(max_examples=60, deadline=None)
@given(st.floats(600, 1e6), st.floats(0.1, 300))
def test_no_other_interval_is_better(mtbf, checkpoint):
    best = best_interval_s(mtbf, checkpoint)
    most = share(mtbf, best, checkpoint, 300)
    for factor in (0.5, 0.8, 1.25, 2):
        assert share(mtbf, best * factor, checkpoint, 300) <= most * (1 + 1e-6)


@pytest.mark.parametrize("recovery", [0, 600])
@pytest.mark.parametrize("chips", [1024, 16384])
def test_simulated_failures_agree_with_the_closed_form(chips, recovery):
    rate = 1.973e-5 / HOUR
    drawn = gaps(chips, rate, 200_000)
    interval = best_interval_s(1 / (rate * chips), 30)
    expected = share(1 / (rate * chips), interval, 30, recovery)
    assert simulated(drawn, interval, 30, recovery) == pytest.approx(expected, rel=3e-3)


def test_failures_of_whole_racks_part_from_the_closed_form():
    # as many chips fail, but half of the failures come 16 at once: 8.5 interruptions where there were 16
    rate, chips = 1.973e-5 / HOUR, 16384
    mean = 1 / (rate * chips)
    interval = best_interval_s(mean, 30)
    drawn = gaps(chips, rate, 200_000, rack_chips=16, rack_share=0.5)
    assert drawn.mean() == pytest.approx(mean * 16 / 8.5, rel=1e-2)
    independent = share(mean, interval, 30, 600)
    found = simulated(drawn, interval, 30, 600)
    assert found > independent + 0.02
    assert found == pytest.approx(share(mean * 16 / 8.5, interval, 30, 600), rel=3e-3)


def test_llama_3_405b_on_16384_chips():
    # 54 days, 419 unexpected interruptions: one in 3.09 h; more than 90% effective training time (arXiv:2407.21783).
    # 405e9 parameters, 14 bytes each
    known = Reliability.of(load_cluster("llama3"))
    found = goodput(16384, 405e9 * 14, known)
    assert found.mtbf_s == pytest.approx(54 * 24 * HOUR / 419, rel=1e-3)
    assert found.mtbf_s / HOUR == pytest.approx(3.09, abs=0.01)
    assert found.share[1] > 0.9
    assert found.share[0] < found.share[1] < found.share[2] < 1
    assert found.checkpoint_s == pytest.approx(2.8, abs=0.1)
    assert found.interval_s[0] < found.interval_s[1] < found.interval_s[2]


def test_fewer_chips_fail_less():
    known = Reliability.of(load_cluster("llama3"))
    shares = [goodput(count, 1e12, known).share[1] for count in (8, 1024, 16384, 131072)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.999


def test_a_cluster_that_says_too_little_has_none():
    assert Reliability.of(load_cluster("dgx-h100")) is None


def test_what_makes_no_sense_is_refused():
    with pytest.raises(BadUse):
        share(0, 10, 10, 10)
    with pytest.raises(BadUse):
        share(10, 10, -1, 10)
