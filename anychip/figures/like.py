"""What a program is, by which published runs err like it: read off its tape, where nothing has been fused yet.

In: recordings of one rank. Out: the traits of `spec.validated.Like`. By the FLOP of matrix products, as no run is made of anything else.
"""

import numpy as np
import numpy.typing as npt

from anychip.cost.regions import spans
from anychip.cost.work import work
from anychip.figures.sums import products_in
from anychip.record import Kind, Program
from anychip.record.steps import Marks, Phase

TRAINED = 1.5  # a backward takes two of a forward's products for weights that are trained, one for those that are not
MOSTLY = 0.5


def has_frozen_weights(program: Program) -> bool:
    """Whether most gradients are of activations alone, as where adapters are trained; what is computed again counts once."""
    at, flop = _products(program)
    marks = Marks(program)
    phase, again = marks.phase()[at], marks.recomputed[at]
    forward, backward = (float(flop[(phase == one) & ~again].sum()) for one in (Phase.FORWARD, Phase.BACKWARD))
    return 0 < backward < TRAINED * forward


def is_compiled(program: Program) -> bool:
    """Whether most products are launched by what torch.compile made."""
    begins, ends = spans(program)
    if not begins.size:
        return False
    at, flop = _products(program)
    latest = np.searchsorted(begins, at, side="right") - 1
    inside = (latest >= 0) & (at < ends[np.maximum(latest, 0)])
    return bool(flop[inside].sum() > MOSTLY * flop.sum())


def _products(program: Program) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Where on the tape ops are launched, and the FLOP of matrix products of each; attention has no weights."""
    at = np.flatnonzero(program.kinds == Kind.OP)
    tasks = [work(op) for op in program.ops]
    flop = np.array([products_in(task) if not task.attention else 0 for task in tasks], np.float64)
    return at, flop[program.payloads[at]]
