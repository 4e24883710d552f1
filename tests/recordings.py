"""Recordings made by hand, of one chip and of a job."""

import numpy as np

from anychip.device.cuda import answers
from anychip.record import Group, Kind, Op, Place, Program, Question, TensorMeta, word

X = TensorMeta((64, 64), (64, 1), "float32")
PLACE = Place("train.py", 7, "main")


def recording(chip, *questions, **meta):
    """A program of one product that asked the chip some questions."""
    return Program(
        tape=np.array([word(Kind.ALLOC, 0), word(Kind.OP, 0)], dtype=np.int64),
        ops=[Op("aten.mm.default", (X, X), outputs=(X,))],
        block_bytes=np.array([X.nbytes], dtype=np.int64),
        questions=[Question(name, answers.answer(chip, name), PLACE) for name in questions],
        meta={"argv": ["train.py"], "chip": chip.id, **meta},
    )


def job_of(chip, ranks):
    """A recording of a job whose ranks all do the same: a product and an all-reduce of its result."""
    one = recording(chip)
    one.world_size, one.members, one.groups = ranks, tuple(range(ranks)), [Group(tuple(range(ranks)), "dp")]
    one.ops.append(Op("c10d.allreduce_.default", ((X,), (X,), 0)))
    one.tape = np.append(one.tape, [word(Kind.OP, 1)])
    return one
