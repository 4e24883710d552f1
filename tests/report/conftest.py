"""A recorded program made by hand: two training steps of one product each, and a copy on a second stream."""

import numpy as np
import pytest

from anychip.record import Kind, Mark, Op, Place, Program, TensorMeta, word

X = TensorMeta((256, 512), (512, 1), "bfloat16")
W = TensorMeta((512, 1024), (1024, 1), "bfloat16")
Y = TensorMeta((256, 1024), (1024, 1), "bfloat16")
OPS = [
    Op("aten.mm.default", (X, W), outputs=(Y,)),
    Op("aten.relu.default", (Y,), outputs=(Y,)),
    Op("mystery.fuse.default", (Y,), outputs=(Y,)),  # nobody has a formula for it
    Op("aten.copy_.default", (X, X), mutates=(0,)),
]
MIB = 1 << 20
STEP = [
    word(Kind.MARK, Mark.FORWARD_BEGIN),
    word(Kind.ENTER, 0),
    word(Kind.ENTER, 1),
    word(Kind.ALLOC, 1),
    word(Kind.OP, 0),
    word(Kind.EXIT, 1),
    word(Kind.OP, 1),
    word(Kind.EXIT, 0),
    word(Kind.MARK, Mark.FORWARD_END),
    word(Kind.MARK, Mark.BACKWARD_BEGIN),
    word(Kind.OP, 0),
    word(Kind.OP, 2),
    word(Kind.MARK, Mark.BACKWARD_END),
    word(Kind.FREE, 1),
    word(Kind.STREAM, 1),
    word(Kind.OP, 3),
    word(Kind.STREAM, 0),
    word(Kind.MARK, Mark.OPTIMIZER_BEGIN),
    word(Kind.OP, 1),
    word(Kind.MARK, Mark.OPTIMIZER_END),
    word(Kind.READ, 0),
]


@pytest.fixture
def program():
    return Program(
        tape=np.array([word(Kind.ALLOC, 0), *STEP, *STEP, *STEP], dtype=np.int64),
        ops=OPS,
        block_bytes=np.array([3 * MIB, 5 * MIB], dtype=np.int64),
        modules=["", "linear"],
        places=[Place("train.py", 12, "main")],
        meta={"argv": ["train.py", "--size", "2"]},
    )
