"""Costs: an op's work, free of any chip, and its time on one."""

import anychip.cost.matrix
import anychip.cost.memory  # noqa: F401  (registers its formulas)
from anychip.cost.work import Attention, Gemm, Work, work, work_of

__all__ = ["Attention", "Gemm", "Work", "work", "work_of"]
