"""Ranks that take no steps in a job that trains end with those that do: actors beside learners, workers of a parameter server."""

from collections import Counter

import pytest

from anychip.api import Chip
from anychip.cluster.simulate import simulate
from anychip.device.distributed.bystanders import FROM_ANY, RECEIVES, SENDS, Through, called, leave
from anychip.job import forecast_job
from anychip.network import Fabric
from anychip.record import Kind, Op, word
from tests.distributed.jobs import job

BROADCAST = "c10d.broadcast_.default"


def test_what_a_rank_has_called_is_counted_by_group_and_by_who_gives_whom() -> None:
    ops = [Op("aten.mm.default"), Op(SENDS, ((), (), 0), (("peer", 5),)), Op(RECEIVES, ((), (), 0), (("peer", 5),)),
           Op(FROM_ANY, ((), (), 0)), Op(BROADCAST, ((), (), 1))]  # fmt: skip
    tape = [word(Kind.OP, index) for index in (0, 1, 1, 2, 3, 4, 4, 4)]
    counts = {"a 2 5": 2, "a 5 2": 1, "a any 2": 1, "b": 3}
    assert called(tape, ops, ["a", "b"], 2) == Counter(counts)


def test_a_bystander_is_over_where_one_that_it_meets_has_ended_before(tmp_path) -> None:
    through = Through(tmp_path, 5)
    assert not through.is_over(SENDS, "a", (0, 5, 6), 0)  # nobody is through
    leave(tmp_path, 0, {"a 5 0": 2, "a any 0": 1, "b": 1})
    assert [through.is_over(SENDS, "a", (0, 5, 6), 0) for _ in range(3)] == [False, False, True]
    assert [through.is_over(BROADCAST, "b", (0, 5), None) for _ in range(2)] == [False, True]
    assert not through.is_over(SENDS, "a", (0, 5, 6), 6)  # who goes on
    assert not through.is_over(BROADCAST, "b", (5, 6), None)
    assert through.is_over(BROADCAST, "c", (0, 5), None)  # one that it never calls


@pytest.mark.parametrize("first", ["first", "last"])
@pytest.mark.parametrize(("kind", "samples"), [("actors", 8), ("server", 12)])
def test_a_job_in_which_some_ranks_never_step_is_of_the_steps_of_those_that_do(
    kind: str, samples: int, first: str
) -> None:
    """They ran for ever, or the job was said to hang where they waited for who had been ended; tokens are of who learns."""
    program = job("actors.py", 4, kind, first)
    chip = Chip.load("h100")
    fabric = Fabric.of(chip, 4)
    found = forecast_job(program, chip, fabric)
    assert (found.step_kind, found.steps) == ("train", 3)
    assert (found.samples_per_step, found.tokens_per_step) == (samples, samples * 10)
    assert not any("gradients" in text for text in found.warnings)
    assert simulate(program, chip, fabric).num_chips == 4
