"""What is live, and when."""

import pytest

from anychip.timeline.memory import memory
from tests.timeline.tapes import ALLOC, FREE, OP, Kind, Mark, mark, program, t, w
from tests.timeline.tapes import op as call

OPS = [call("aten.relu.default", t(4), out=t(4))]


def test_the_peak_of_steps_is_told_apart_from_that_of_the_start():
    # A model of 100 bytes is made of one of 200; each of two calls takes 30 more for a while.
    one = [mark(Mark.INFER_BEGIN), w(ALLOC, 2), w(OP, 0), w(FREE, 2), mark(Mark.INFER_END)]
    words = [w(ALLOC, 0), w(OP, 0), w(ALLOC, 1), w(OP, 0), w(FREE, 0), *one, *one]
    held = memory(program(words, OPS, [200, 100, 30]))
    assert (held.peak_bytes, held.stepping_bytes, held.end_bytes) == (300, 130, 100)


def test_parameters_that_a_conversion_replaced_were_parameters():
    """`net.cuda().half()` is fullest while both are there: its 3.5 GiB in fp32 were said to be "inputs, others"."""
    one = [mark(Mark.INFER_BEGIN), w(ALLOC, 2), w(OP, 0), w(FREE, 2), mark(Mark.INFER_END)]
    words = [w(ALLOC, 3), w(ALLOC, 0), w(OP, 0), w(ALLOC, 1), w(OP, 0), w(FREE, 0), w(FREE, 3), *one, *one]
    meta = {"parameter_blocks": [1], "replaced_blocks": [0]}
    held = memory(program(words, OPS, [200, 100, 30, 7], modules=["Net"], meta=meta))
    assert {name: size for name, size in held.by_kind.items() if size} == {"parameters": 300, "other": 7}


def test_without_steps_the_two_peaks_are_one():
    held = memory(program([w(ALLOC, 0), w(OP, 0), w(FREE, 0), w(ALLOC, 1), w(OP, 0)], OPS, [200, 100]))
    assert held.peak_bytes == held.stepping_bytes == 200


def test_parameters_of_a_program_that_calls_no_module_with_gradients():
    """Reentrant checkpoints of a list of blocks: whatever was alive after the first step was a parameter."""
    step = [
        mark(Mark.INFER_BEGIN), w(ALLOC, 1), w(OP, 0), mark(Mark.INFER_END),
        mark(Mark.BACKWARD_BEGIN), w(ALLOC, 2), w(OP, 0), mark(Mark.BACKWARD_END),
        w(Kind.OPTIMIZER, 0), mark(Mark.OPTIMIZER_BEGIN), w(ALLOC, 3), w(OP, 0), mark(Mark.OPTIMIZER_END),
    ]  # fmt: skip
    held = memory(program([w(ALLOC, 0), w(OP, 0), *step, w(OP, 0)], OPS, [100, 30, 100, 200]))
    kinds = {name: size for name, size in held.by_kind.items() if size}
    assert kinds == {"parameters": 100, "activations": 30, "gradients": 100, "optimizer": 200}


def test_what_is_kept_and_is_no_parameter_is_told_apart():
    """Caches that a model reads were its parameters, as was the state of an optimizer that was loaded with it."""
    call_ = [
        mark(Mark.INFER_BEGIN), w(Kind.ENTER, 0), w(ALLOC, 3), w(ALLOC, 4), w(OP, 0), w(FREE, 3), w(Kind.EXIT, 0), mark(Mark.INFER_END),
    ]  # fmt: skip
    words = [*(w(ALLOC, block) for block in range(3)), w(OP, 0), *call_, w(OP, 0), w(FREE, 4), *call_]
    meta = {"parameter_blocks": [0], "state_blocks": [1], "held_by": [[0, 0], [2, 0]]}
    held = memory(program(words, OPS, [100, 30, 50, 20, 10], modules=["Net"], meta=meta))
    kinds = {name: size for name, size in held.by_kind.items() if size}
    assert kinds == {"parameters": 100, "buffers": 60, "optimizer": 30, "workspace": 20}
    assert held.by_module == {"Net": 180, "(optimizer)": 30}
    # without a call nothing tells
    assert memory(program(words[:4], OPS, [100, 30, 50, 20, 10], modules=["Net"])).by_kind["parameters"] == 180


def test_a_cache_that_is_made_for_a_request_is_no_temporary():
    """Between two calls of a served model, after the first."""
    call_ = [mark(Mark.INFER_BEGIN), w(Kind.ENTER, 0), w(OP, 0), w(Kind.EXIT, 0), mark(Mark.INFER_END)]
    words = [w(ALLOC, 0), w(OP, 0), *call_, w(ALLOC, 1), w(ALLOC, 2), w(OP, 0), *call_, w(FREE, 2), *call_, w(FREE, 1)]
    held = memory(program(words, OPS, [100, 30, 5], modules=["Net"], meta={"parameter_blocks": [0]}))
    assert {name: size for name, size in held.by_kind.items() if size} == {"parameters": 100, "buffers": 30, "other": 5}


def test_a_program_without_a_model_has_no_parameters():
    """Operands of bare products were said to be parameters. One that was refused memory may have been about to make a model of them."""
    words = [w(Kind.ALLOC, 0), w(Kind.ALLOC, 1), w(Kind.OP, 0)]
    for meta, name in (({}, "other"), ({"exit_code": 1}, "parameters")):
        found = memory(program(words, OPS, [100, 30], meta=meta))
        assert {kind: size for kind, size in found.by_kind.items() if size} == {name: 130}


def test_parameters_are_what_the_recording_names():
    """A data set on the chip was 1.6 GiB of parameters, and weights that were cast after a first call of the model were none."""
    step = [
        mark(Mark.FORWARD_BEGIN), w(ALLOC, 2), w(OP, 0), mark(Mark.FORWARD_END),
        mark(Mark.BACKWARD_BEGIN), w(OP, 0), w(FREE, 2), mark(Mark.BACKWARD_END),
        w(Kind.OPTIMIZER, 0), mark(Mark.OPTIMIZER_BEGIN), w(OP, 0), mark(Mark.OPTIMIZER_END),
    ]  # fmt: skip
    check = [mark(Mark.FORWARD_BEGIN), w(OP, 0), mark(Mark.FORWARD_END), w(ALLOC, 3), w(OP, 0), w(FREE, 0)]
    words = [w(ALLOC, 0), w(ALLOC, 1), w(OP, 0), *check, *step, *step]
    held = memory(program(words, OPS, [100, 1600, 300, 100], meta={"parameter_blocks": [0, 3]}))
    kinds = {name: size for name, size in held.by_kind.items() if size}
    assert kinds == {"parameters": 100, "activations": 300, "buffers": 1600}


@pytest.mark.parametrize(("graph", "name"), [([], "gradients"), ([Mark.GRAPH], "activations")])
def test_what_a_backward_leaves_to_another_is_kept_for_that(graph, name):
    """Derivatives of a physics-informed network by its inputs were 58 MiB of gradients, of 34 KB of parameters."""
    step = [
        mark(Mark.FORWARD_BEGIN), w(OP, 0), mark(Mark.FORWARD_END),
        mark(Mark.BACKWARD_BEGIN), w(ALLOC, 1), w(OP, 0), mark(Mark.BACKWARD_END), *map(mark, graph),
        mark(Mark.BACKWARD_BEGIN), w(OP, 0), w(FREE, 1), mark(Mark.BACKWARD_END),
        w(Kind.OPTIMIZER, 0), mark(Mark.OPTIMIZER_BEGIN), w(OP, 0), mark(Mark.OPTIMIZER_END),
    ]  # fmt: skip
    held = memory(program([w(ALLOC, 0), w(OP, 0), *step, *step], OPS, [100, 300], meta={"parameter_blocks": [0]}))
    assert {kind: size for kind, size in held.by_kind.items() if size} == {"parameters": 100, name: 300}


@pytest.mark.parametrize(("buckets", "name"), [([], "other"), ([2], "gradients")])
def test_buckets_that_a_forward_makes_are_no_activations(buckets, name):
    """DistributedDataParallel makes its buckets anew in the second forward, and keeps them; they were "inputs, others"."""

    def step(*made):
        return [
            mark(Mark.FORWARD_BEGIN), *(w(ALLOC, block) for block in made), w(ALLOC, 1), w(OP, 0), mark(Mark.FORWARD_END),
            mark(Mark.BACKWARD_BEGIN), w(OP, 0), w(FREE, 1), mark(Mark.BACKWARD_END),
            w(Kind.OPTIMIZER, 0), mark(Mark.OPTIMIZER_BEGIN), w(OP, 0), mark(Mark.OPTIMIZER_END),
        ]  # fmt: skip

    words = [w(ALLOC, 0), w(OP, 0), *step(), *step(2), *step()]
    held = memory(program(words, OPS, [100, 30, 50], meta={"parameter_blocks": [0], "bucket_blocks": buckets}))
    assert {kind: size for kind, size in held.by_kind.items() if size} == {
        "parameters": 100,
        "activations": 30,
        name: 50,
    }


def test_what_a_program_held_that_failed_midway_whether_or_not_its_interpreter_gives_it_back():
    """With another variable in the environment the interpreter's end freed the moments, and "other" was what filled a chip."""
    words = [
        w(ALLOC, 0), w(OP, 0), mark(Mark.FORWARD_BEGIN), w(ALLOC, 1), w(OP, 0), mark(Mark.FORWARD_END),
        mark(Mark.BACKWARD_BEGIN), w(ALLOC, 2), w(OP, 0), w(FREE, 1), mark(Mark.BACKWARD_END),
        w(Kind.OPTIMIZER, 0), mark(Mark.OPTIMIZER_BEGIN), w(ALLOC, 3), w(OP, 0), w(ALLOC, 4), w(OP, 0), w(FREE, 4),
        w(ALLOC, 5), w(OP, 0),
    ]  # fmt: skip
    given_back = [w(FREE, block) for block in (3, 5, 2, 0)]
    left, freed = (memory(program([*words, *end], OPS, [100, 30, 100, 90, 10, 80])) for end in ([], given_back))
    assert left.by_kind == freed.by_kind
    assert {name: size for name, size in freed.by_kind.items() if size} == {
        "parameters": 100, "gradients": 100, "optimizer": 170,
    }  # fmt: skip


@pytest.mark.parametrize(
    "end", [[], [mark(Mark.FORWARD_END)], [mark(Mark.FORWARD_END), w(FREE, 1), w(FREE, 2), w(FREE, 0)]]
)
def test_what_a_forward_keeps_for_a_backward_that_it_does_not_come_to_are_activations(end):
    """Of a training that had no memory left in its first forward 70 GiB were buffers."""
    call = [mark(Mark.FORWARD_BEGIN), w(ALLOC, 1), w(OP, 0), w(ALLOC, 3), w(OP, 0), w(FREE, 3), w(ALLOC, 2), w(OP, 0)]
    sizes, meta = [100, 30, 50, 5], {"parameter_blocks": [0], "exit_code": 1, "refused": {"bytes": 9, "of_bytes": 180}}
    held = memory(program([w(ALLOC, 0), w(OP, 0), *call, *end], OPS, sizes, meta=meta))
    assert {name: size for name, size in held.by_kind.items() if size} == {"parameters": 100, "activations": 80}
    # Without gradients nothing is kept for a backward.
    called = [
        {mark(Mark.FORWARD_BEGIN): mark(Mark.INFER_BEGIN), mark(Mark.FORWARD_END): mark(Mark.INFER_END)}.get(one, one)
        for one in (*call, *end)
    ]
    assert memory(program([w(ALLOC, 0), w(OP, 0), *called], OPS, sizes, meta=meta)).by_kind["activations"] == 0


def steps_that_make(*blocks_of_steps, freed=()):
    """Steps that make these blocks, and free those of `freed` as each begins."""
    freed = [*freed, *([()] * len(blocks_of_steps))]
    words = [w(ALLOC, 0), w(OP, 0)]
    for made, gone in zip(blocks_of_steps, freed, strict=False):
        words += [
            mark(Mark.FORWARD_BEGIN), *(w(FREE, block) for block in gone), *(w(ALLOC, block) for block in made), w(OP, 0),
            mark(Mark.FORWARD_END), mark(Mark.BACKWARD_BEGIN), w(OP, 0), mark(Mark.BACKWARD_END),
            w(Kind.OPTIMIZER, 0), mark(Mark.OPTIMIZER_BEGIN), w(OP, 0), mark(Mark.OPTIMIZER_END),
        ]  # fmt: skip
    return program(words, OPS, [100, 30, 40, 50, 60])


@pytest.mark.parametrize(("made", "freed", "growth"), [
    ([[1], [2], [3]], [], 30),  # a list that keeps an output: 30 and 40 are there in the end, live memory grew by 40 and 50
    ([[1, 2], [3], [4]], [], 50),
    ([[1], [2], [3]], [(), (1,), (2,)], 0),  # the last output: given back a step later
    ([[1], [2], []], [], 0),  # an optimizer's state, and buckets that are made anew
    ([[1], [], []], [], 0),
    ([[], [1], [2]], [], 0),  # begins in the second step: one more would tell
    ([[], [], [1]], [], 0),
    ([[1], [2]], [], 0),  # two steps are too few
])  # fmt: skip
def test_growth_is_what_every_step_leaves_behind(made, freed, growth):
    """Memory that grew from step to step fitted in silence."""
    assert memory(steps_that_make(*made, freed=freed)).growth_bytes == growth
