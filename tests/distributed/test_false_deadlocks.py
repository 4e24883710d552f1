"""Ranks that wait for one another for a moment are no deadlock."""

import json

import pytest

from anychip.device.distributed import job as jobs
from anychip.device.distributed.job import Job, Rank
from anychip.device.distributed.middle import Middle


@pytest.fixture
def two(tmp_path):
    """A job of two ranks that wait for each other."""
    found = Job(tmp_path, 2, 2, 2, lambda rank, tokens: 0)
    found.running = {1: Rank(0), 2: Rank(1)}
    for rank in (0, 1):
        note = [1 - rank, [0, 1], f"mail-{1 - rank}-{rank}-0", "recv", "train.py", 3]
        (tmp_path / f"waiting-{rank}").write_text(json.dumps(note), encoding="utf-8")
    return found


def stopped(job):
    return sorted(path.name for path in job.folder.glob("stop-*"))


def test_ranks_that_wait_for_each_other_are_told_so(two):
    two._start_awaited()
    assert stopped(two) == ["stop-0", "stop-1"]


def test_a_letter_that_comes_while_notes_are_read_is_seen(two, monkeypatch):
    read = json.loads
    seen = []

    def loads(text):
        seen.append(read(text))
        if len(seen) == 2:  # the first note's rank is about to go on
            (two.folder / seen[0][2]).write_bytes(b"")
        return seen[-1]

    monkeypatch.setattr(jobs.json, "loads", loads)
    two._start_awaited()
    assert stopped(two) == []


def test_what_stopped_a_sample_of_a_rank_does_not_stop_the_rank(two):
    two._stop(0, "it waits as another would, for what nobody sent")
    assert stopped(two) == ["stop-0"]
    two._start(Rank(0))
    assert stopped(two) == []


def test_ranks_that_run_themselves_are_no_stages_that_another_stands_for(tmp_path):
    """In a ring the second rank's neighbours run beside it: whichever had ended first was taken for a stage that it stood for."""
    ring = Job(tmp_path, 8, 8, 2, lambda rank, tokens: 0)
    ring.middle, ring.codes, ring.running = Middle(tmp_path, tuple(range(8))), {0: 0, 2: 0}, {1: Rank(3)}
    for rank in (0, 1, 2, 3):
        ring.recorded.file(rank).touch()
    ring._stood_for(ring.middle)
    assert ring.middle.played == []
    ring.recorded.file(4).touch()
    ring._stood_for(ring.middle)
    assert ring.middle.played == [4]
