"""What is live, and when."""

from anychip.timeline.memory import memory
from tests.timeline.tapes import ALLOC, FREE, OP, Mark, mark, program, t, w
from tests.timeline.tapes import op as call

OPS = [call("aten.relu.default", t(4), out=t(4))]


def test_the_peak_of_steps_is_told_apart_from_that_of_the_start():
    # A model of 100 bytes is made of one of 200; each of two calls takes 30 more for a while.
    one = [mark(Mark.INFER_BEGIN), w(ALLOC, 2), w(OP, 0), w(FREE, 2), mark(Mark.INFER_END)]
    words = [w(ALLOC, 0), w(OP, 0), w(ALLOC, 1), w(OP, 0), w(FREE, 0), *one, *one]
    held = memory(program(words, OPS, [200, 100, 30]))
    assert (held.peak_bytes, held.stepping_bytes, held.end_bytes) == (300, 130, 100)


def test_without_steps_the_two_peaks_are_one():
    held = memory(program([w(ALLOC, 0), w(OP, 0), w(FREE, 0), w(ALLOC, 1), w(OP, 0)], OPS, [200, 100]))
    assert held.peak_bytes == held.stepping_bytes == 200
