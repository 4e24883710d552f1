"""Long runs are recorded as a few short ones, whose weighted times add up to theirs."""

import pytest

from accuracy.fold import points
from accuracy.plan import plan
from tests.published.runs import run_of


def test_long_runs_are_folded_with_weights_that_add_up_to_one():
    found = points({**plan(run_of()).options, "micro_batches": 32})
    # layers 4 and 6 for 32, micro-batches 2 and 3 for 32: (6-32)/2 = -13, (32-4)/2 = 14; 3-32 = -29, 32-2 = 30
    assert [(p.options["layers"], p.options["micro_batches"], p.weight) for p in found] == [
        (4, 2, 377.0), (4, 3, -390.0), (6, 2, -406.0), (6, 3, 420.0),
    ]  # fmt: skip
    assert sum(p.weight for p in found) == 1


@pytest.mark.parametrize(("sharding", "count"), [("optimizer", 1), ("ddp", 1), ("fsdp", 4)])
def test_few_micro_batches_are_recorded_as_they_are_where_gradients_travel_once_a_step(sharding, count):
    # that travel hides behind the head of few layers, and not of all
    options = {**plan(run_of()).options, "layers": 36, "micro_batches": 5, "sharding": sharding}
    assert len(points(options)) == count
    assert len(points({**options, "micro_batches": 32})) == 4


def test_interleaved_stages_keep_their_form_when_folded():
    # 126 layers in 16 parts leave 2 for the embedding and the head: (126 + 2) / 16 = 8 a part, as deep in 4 stages of 2 and
    # of 3 parts
    options = {**plan(run_of()).options, "layers": 126, "pp": 4, "vp": 4, "micro_batches": 32}
    found = points(options)
    assert sorted({p.options["layers"] for p in found}) == [8 * 8 - 2, 8 * 12 - 2]
    # many micro-batches are steady, and so are two and three for each stage
    assert sorted({p.options["micro_batches"] for p in found}) == [8, 12]


def test_as_many_micro_batches_as_stages_stay_so():
    options = {**plan(run_of()).options, "layers": 96, "pp": 16, "vp": 3, "micro_batches": 16}
    assert {(p.options["pp"], p.options["micro_batches"]) for p in points(options, always=0)} == {(4, 4), (5, 5)}


def test_a_pipeline_that_is_soon_recorded_is_not_folded():
    options = {**plan(run_of()).options, "layers": 126, "pp": 16, "vp": 8, "micro_batches": 16}
    assert [(p.weight, p.options) for p in points(options)] == [(1.0, options)]
    assert len(points({**options, "micro_batches": 32})) > 1


def test_a_pipeline_is_folded_to_the_functions_that_it_is_made_of():
    # p = 16, v = 8, m = 64, l = 2: in (m v + p - 1) slots of two layers, and m heads
    options = {**plan(run_of()).options, "layers": 256, "pp": 16, "vp": 8, "micro_batches": 64}
    found = points(options)

    def time(o):
        deep = o["layers"] / o["pp"] / o["vp"]
        return (
            3
            + 5 * deep * o["vp"]
            + (7 + 11 * deep) * (o["micro_batches"] * o["vp"] + o["pp"] - 1)
            + 13 * o["micro_batches"]
        )

    assert sum(p.weight * time(p.options) for p in found) == pytest.approx(time(options), rel=1e-9)
    assert max(p.options["pp"] for p in found) == 5
    assert max(p.options["layers"] * p.options["micro_batches"] for p in found) < 256 * 64 / 50


@pytest.mark.parametrize(
    ("layers", "pp", "vp", "micro"), [(126, 16, 8, 32), (105, 35, 3, 280), (96, 8, 12, 16), (94, 8, 2, 128)]
)
def test_parts_of_one_layer_and_stages_of_two_parts_are_folded_too(layers, pp, vp, micro):
    options = {**plan(run_of()).options, "layers": layers, "pp": pp, "vp": vp, "micro_batches": micro}
    found = points(options, always=0)

    def time(o):
        parts = o["pp"] * o["vp"]
        deep = -(-o["layers"] // parts)
        return 3 + 5 * deep * o["vp"] + (7 + 11 * deep) * (o["micro_batches"] * o["vp"] + o["pp"] - 1) + 13 * o["micro_batches"]  # fmt: skip

    def last(o):  # parts in flight on the last stage: p v - p + 1
        deep = -(-o["layers"] // (o["pp"] * o["vp"]))
        return 3 + 5 * deep * o["vp"] + 2 * deep * (o["pp"] * o["vp"] - o["pp"] + 1)

    assert max(p.options["pp"] for p in found) == 5
    assert sum(p.weight * time(p.options) for p in found) == pytest.approx(time(options), rel=1e-9)
    assert sum(p.last * last(p.options) for p in found) == pytest.approx(last(options), rel=1e-9)


def test_a_pipeline_without_parts_is_folded_so_too():
    options = {
        **plan(run_of()).options,
        "layers": 94,
        "pp": 12,
        "micro_batches": 128,
    }  # 8 layers each, with two missing
    found = points(options)

    def time(o):
        deep = (o["layers"] + 2) / o["pp"]
        return 3 + 5 * deep + (7 + 11 * deep) * (o["micro_batches"] + o["pp"] - 1) + 13 * o["micro_batches"]

    assert sum(p.weight * time(p.options) for p in found) == pytest.approx(time(options), rel=1e-9)
