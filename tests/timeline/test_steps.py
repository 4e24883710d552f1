"""Where steps begin and end, on tapes written by hand."""

from itertools import chain

import pytest

from anychip.forecast import forecast
from anychip.record import Program
from anychip.record.steps import PHASES, Marks, find_steps
from anychip.spec import load_chip
from tests.timeline.tapes import BACKWARD, FORWARD, INFER, OPS, Kind, Mark, mark, optimizer, program, w

M = Mark


def steps(*parts):
    """(kind, number of forwards) of each step found."""
    return [(step.kind, len(step.forwards)) for step in find_steps(program(chain.from_iterable(parts), OPS))]


def test_forward_backward_optimizer():
    assert steps(*[FORWARD, BACKWARD, optimizer()] * 3) == [("train", 1)] * 3


def test_gradients_accumulated_over_four_forwards():
    assert steps(*[*[FORWARD, BACKWARD] * 4, optimizer()] * 2) == [("train", 4)] * 2


def test_a_gan_with_two_optimizers_is_one_step():
    # discriminator: two forwards, then its optimizer; generator: one forward, then its own
    gan = [FORWARD, BACKWARD, FORWARD, BACKWARD, optimizer(0), FORWARD, BACKWARD, optimizer(1)]
    assert steps(*gan * 3) == [("train", 3)] * 3


def test_a_gan_s_turns_of_unequal_number_are_one_step():
    """Two updates of the discriminator for one of the generator: half a loop was a step."""
    critic, generator = [FORWARD, BACKWARD, optimizer(0)], [FORWARD, BACKWARD, optimizer(1)]
    assert steps(*[*critic * 2, *generator] * 3) == [("train", 3)] * 3
    assert steps(*[*generator, *critic * 2] * 2) == [("train", 3)] * 2
    # Nothing comes again in the same order: a step goes to the next update of the first after all have.
    irregular = [*critic, *critic, *generator, *critic, *generator, *generator]
    assert [count for _, count in steps(*irregular)] == [3, 3]


def test_what_regularises_a_gan_in_some_iterations_is_of_these():
    """StyleGAN's: a second update of each in some. Steps went from the middle of one iteration to that of another, five for each four."""
    one, other = [FORWARD, BACKWARD, optimizer(0)], [FORWARD, BACKWARD, optimizer(1)]
    iterations = [[*one, *one, *other, *other], [*one, *other], [*one, *other], [*one, *one, *other], [*one, *other]]
    assert [count for _, count in steps(*chain.from_iterable(iterations))] == [4, 2, 2, 3, 2]


def test_one_that_is_trained_after_another_is_of_no_step_of_its():
    first, then = [FORWARD, BACKWARD, optimizer(0)], [FORWARD, BACKWARD, optimizer(1)]
    assert [count for _, count in steps(*first * 3, *then * 3)] == [1, 1, 1]


def test_figures_of_uneven_steps_are_of_the_median_one():
    """The step's time was the median, what it was made of the mean of all."""
    short, long = [*FORWARD, *BACKWARD, *optimizer()], [*INFER * 20, *FORWARD, *BACKWARD, *optimizer()]
    uneven = forecast(program([*short, *short, *long, *short], OPS), load_chip("a100"))
    even = forecast(program(short * 4, OPS), load_chip("a100"))
    for figure in ("step_time_s", "time_by_phase_s", "breakdown_s", "kernels_per_step", "evidence"):
        assert getattr(uneven, figure) == pytest.approx(getattr(even, figure), rel=0.02), figure
    assert [(op.name, op.count) for op in uneven.top_ops] == [(op.name, op.count) for op in even.top_ops]
    assert (uneven.uneven != "", even.uneven) == (True, "")


def test_two_optimizers_in_a_row_are_one_step():
    assert steps(*[FORWARD, BACKWARD, optimizer(0), optimizer(1)] * 2) == [("train", 1)] * 2


def test_optimizers_that_step_in_another_order_make_steps():
    """One for each parameter, inside the backward: DistributedDataParallel orders its buckets anew after the first, and all
    iterations were one step."""
    call = [FORWARD, BACKWARD]
    turned = [*call, optimizer(1), optimizer(0)]
    assert steps(*call, optimizer(0), optimizer(1), *turned * 2) == [("train", 1)] * 3


def test_an_optimizer_that_steps_others_is_one():
    def container(*inner, ends=True):
        end = [mark(M.OPTIMIZER_END)] if ends else []
        return [w(Kind.OPTIMIZER, 0), mark(M.OPTIMIZER_BEGIN), *chain(*inner), *end]

    inner = optimizer(1), optimizer(2)
    micro = [*[FORWARD, BACKWARD] * 3]
    assert steps(*[*micro, container(*inner)] * 3) == [("train", 3)] * 3
    assert steps(*micro, container(optimizer(1), ends=False), *[*micro, container(*inner)] * 2) == [
        ("train", 6),
        ("train", 3),
    ]
    closure = [w(Kind.OPTIMIZER, 0), mark(M.OPTIMIZER_BEGIN), *FORWARD, *BACKWARD, mark(M.OPTIMIZER_END)]
    assert steps(*[closure] * 4) == [("train", 1)] * 4


def test_evaluation_in_between_belongs_to_the_step_after_it():
    assert steps(FORWARD, BACKWARD, optimizer(), INFER, INFER, FORWARD, BACKWARD, optimizer()) == [("train", 1)] * 2


def test_a_forward_inside_a_backward_is_no_step():
    again = [mark(M.BACKWARD_BEGIN), *FORWARD, w(Kind.OP, 1), mark(M.BACKWARD_END)]
    assert steps(*[FORWARD, again, optimizer()] * 2) == [("train", 1)] * 2


def test_a_reentrant_checkpoint_stays_in_its_backward():
    """It calls a module again and runs a backward of its own, after which the outer one goes on."""
    op = w(Kind.OP, 0)
    call = [w(Kind.ENTER, 0), *FORWARD, w(Kind.EXIT, 0)]
    marks = Marks(
        program([*FORWARD, mark(M.BACKWARD_BEGIN), *call, *BACKWARD, op, *call, mark(M.BACKWARD_END), op], OPS)
    )
    at_ops = marks.program.kinds == Kind.OP
    assert [PHASES[phase] for phase in marks.phase()[at_ops]] == ["forward", *["backward"] * 4, "other"]
    assert marks.recomputed[at_ops].tolist() == [False, True, False, False, True, False]


def test_what_goes_on_after_a_phase_inside_it_is_in_its_own():
    """LBFGS calls a closure between its own ops, and a model that predicts forces takes gradients inside its forward."""
    op = w(Kind.OP, 0)
    forces = [mark(M.FORWARD_BEGIN), op, *BACKWARD, op, mark(M.FORWARD_END)]
    closure = [w(Kind.OPTIMIZER, 0), mark(M.OPTIMIZER_BEGIN), op, *FORWARD, *BACKWARD, op, mark(M.OPTIMIZER_END)]
    marks = Marks(program([*forces, op, *closure, op], OPS))
    found = [PHASES[phase] for phase in marks.phase()[marks.program.kinds == Kind.OP]]
    inside = ["forward", "backward", "forward", "other"], ["optimizer", "forward", "backward", "optimizer", "other"]
    assert found == [*inside[0], *inside[1]]
    failed = [w(Kind.OPTIMIZER, 0), mark(M.OPTIMIZER_BEGIN), op]
    marks = Marks(program([*failed, *FORWARD, *optimizer(), op], OPS))
    assert PHASES[marks.phase()[-1]] == "other"


def test_a_step_that_was_cut_off_does_not_count():
    assert steps(FORWARD, BACKWARD, optimizer(), FORWARD, BACKWARD) == [("train", 1)]


def test_without_an_optimizer_each_call_is_one():
    assert steps(INFER, INFER, INFER) == [("call", 1)] * 3


def call(module):
    return [mark(M.INFER_BEGIN), w(Kind.ENTER, module), w(Kind.OP, 0), w(Kind.EXIT, module), mark(M.INFER_END)]


def test_many_calls_are_found_without_a_look_at_the_whole_tape_for_each(monkeypatch):
    """1,716 calls of a draft and its model were looked for in 13 of the 19 seconds of a forecast."""
    looks, kinds = [], Program.kinds.fget
    monkeypatch.setattr(Program, "kinds", property(lambda self: looks.append(1) or kinds(self)))
    assert len(steps(*[call(0)] * 500)) == 500
    assert len(looks) < 20


def test_a_model_and_its_head_that_are_called_in_turn_are_one_call():
    """A server calls the model, then its head: half of its calls were of the head alone, and so was the median one."""
    assert steps(*[call(1), call(2)] * 4) == [("call", 2)] * 4
    assert steps(*[call(1), call(2)] * 4, call(1)) == [("call", 2)] * 4  # the last head is still to come
    assert steps(call(3), *[call(1), call(2)] * 4) == [("call", 1)] + [("call", 2)] * 4
    # no turns: one module again and again, what comes once, in no order
    assert steps(call(1), *[call(2)] * 4) == [("call", 1)] * 5
    assert steps(*[call(1), call(2)]) == [("call", 1)] * 2
    assert steps(call(1), call(2), call(3), call(1), call(3), call(2)) == [("call", 1)] * 6


def test_turns_of_several_texts_are_one_call_each():
    """A program that writes texts (nanoVLM) calls an embedding, layers and a head for each token, and an encoder of pictures before them:
    of three texts the median call was of the embedding alone, a hundredth of a token's time."""
    prompt, token = [call(1), call(4), call(2), call(3)], [call(1), call(2), call(3)]
    text = [*prompt, *token * 5]
    told = [("call", 4), *[("call", 3)] * 5]
    assert steps(*text) == told
    assert steps(*text * 3) == told * 3
    assert steps(*text * 3, *prompt[:1]) == told * 3  # the rest of a token is still to come
    # another module that writes token by token is no turn, nor are a few turns among others
    assert steps(*[call(1), *[call(2)] * 10] * 3) == [("call", 1)] * 33
    assert steps(*[call(5)] * 20, *token * 2, call(5)) == [("call", 1)] * 27


def test_bare_tensors_step_with_their_optimizer():
    """No module is called: two backward passes accumulate, then the optimizer."""
    assert steps(*[BACKWARD, BACKWARD, optimizer()] * 3) == [("train", 0)] * 3


def test_two_optimizers_of_bare_tensors_are_one_step():
    assert steps(*[BACKWARD, optimizer(0), BACKWARD, optimizer(1)] * 3) == [("train", 0)] * 3


def test_an_input_trained_through_a_frozen_network_steps_with_its_optimizer():
    assert steps(*[INFER, BACKWARD, optimizer()] * 3) == [("train", 0)] * 3


def test_without_module_and_optimizer_each_backward_is_a_step():
    assert steps(*[BACKWARD] * 3) == [("train", 0)] * 3


def test_phases_by_word():
    tape = program([*FORWARD, *BACKWARD, *optimizer()], OPS)
    names = [PHASES[index] for index in Marks(tape).phase()]
    assert names[1] == "forward"
    assert names[4] == "backward"
    assert names[8] == "optimizer"
