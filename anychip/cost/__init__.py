"""Costs: an op's work, free of any chip, and its time on one."""

import anychip.cost.custom
import anychip.cost.encoder
import anychip.cost.lists
import anychip.cost.matrix
import anychip.cost.memory
import anychip.cost.sparse  # noqa: F401  (registers its formulas)
from anychip.cost.machine import machine
from anychip.cost.price import Cost, host_op_s, price_op
from anychip.cost.work import Attention, Gemm, Work, work, work_of

__all__ = ["Attention", "Cost", "Gemm", "Work", "host_op_s", "machine", "price_op", "work", "work_of"]
