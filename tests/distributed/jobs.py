"""Programs of several ranks, recorded; and the collectives that they issued."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from anychip.device.launch import record
from anychip.record import Kind, Program
from anychip.record.steps import find_steps
from anychip.spec import load_chip

PROGRAMS = Path(__file__).parent / "programs"


def job(name: str, world_size: int, *arguments: object, **options: Any) -> Program:
    argv = [str(PROGRAMS / name), *map(str, arguments)]
    return record(
        argv, load_chip("h100"), world_size=world_size, devices=min(world_size, 8), show_output=False, **options
    )


def collectives(program: Program, of_step: int | None = None) -> Counter[str]:
    """How often each collective was issued, in all or in one step."""
    tape = program.payloads, program.kinds
    if of_step is not None:
        step = find_steps(program)[of_step]
        tape = tape[0][step.begin : step.end], tape[1][step.begin : step.end]
    names = [program.ops[op].name for op in tape[0][tape[1] == Kind.OP]]
    return Counter(re.sub(r"c10d\.|\.default", "", name) for name in names if name.startswith("c10d."))
