"""What a program can ask about its chip, and what each chip answers. Imports no torch.

Each answer that a program was given is kept in its recording (`Question`). On a chip that would answer one
of them otherwise, the program might have done something else.
"""

import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np

from anychip.record import Kind, Program, Question
from anychip.spec import Chip

MIB = 1 << 20

ANSWERS: dict[str, Callable[[Chip], Any]] = {
    "name": lambda chip: chip.torch.device_name,
    "capability": lambda chip: list(chip.torch.capability),
    "multi_processor_count": lambda chip: chip.torch.multi_processor_count,
    "warp_size": lambda chip: chip.torch.warp_size,
    "memory_bytes": lambda chip: chip.torch.total_memory_bytes,
    "arch": lambda chip: chip.torch.arch or f"sm_{chip.torch.capability[0]}{chip.torch.capability[1]}",
    "L2_bytes": lambda chip: next((tier.bytes for tier in chip.memory_tiers if tier.name == "l2" and tier.bytes), 0),
    "power_w": lambda chip: chip.power_w or 0.0,
    "compiles_whole": lambda chip: chip.execution == "graph",
    "tf32": lambda chip: chip.peak_flop_per_s("tf32") is not None,
}


def answer(chip: Chip, name: str) -> Any:
    """What `chip` says when asked `name`: a row of ANSWERS, or `supports.DTYPE.USE`."""
    if name.startswith("supports."):
        _, dtype, use = name.split(".")
        return chip.platform.supports(dtype, use) in ("native", "emulated")
    return ANSWERS[name](chip)


def differing(program: Program, chip: Chip) -> list[Question]:
    """The questions of a recording that this chip would have answered otherwise."""
    return [question for question in program.questions if answer(chip, question.name) != question.answer]


def may_refuse(chip: Chip, program: Program) -> bool:
    """Whether a program might have been refused memory on this chip, which it was not where it was recorded. (What a compiler's
    kernels never write is counted, so that one which asks for so much runs again and is seen to fit.)"""
    return any(most_live_bytes(rank) > chip.memory_bytes for rank in program.ranks)


def most_live_bytes(program: Program) -> int:
    """The most that was live at once, as recorded."""
    kinds, payloads = program.kinds, program.payloads
    at = np.flatnonzero((kinds == Kind.ALLOC) | (kinds == Kind.FREE))
    sizes = program.block_bytes[payloads[at]]
    return int(np.cumsum(np.where(kinds[at] == Kind.ALLOC, sizes, -sizes)).max(initial=0))


# Functions of torch that ask what decides nothing: so whatever calls them would be recorded anew for each chip.
IN_VAIN = {
    ("broadcast", "distributed_c10d.py"): ("capability",),  # of every tensor, before it looks whether it is in FP8
    ("_check_balance", "data_parallel.py"): ("memory_bytes", "multi_processor_count"),  # of chips that are all alike
}


def is_asked_in_vain(name: str) -> bool:
    """Whether one of these functions asks, and not for a tensor in FP8."""
    if not any(name in names for names in IN_VAIN.values()):
        return False
    frame: FrameType | None = sys._getframe(1)
    for _ in range(8):  # __getattr__ and torch.cuda's own functions stand between
        if frame is None:
            return False
        code = frame.f_code
        if name in IN_VAIN.get((code.co_name, os.path.basename(code.co_filename)), ()):
            return "float8" not in str(getattr(frame.f_locals.get("tensor"), "dtype", ""))
        frame = frame.f_back
    return False
