"""Which loop a program is in where it asks something, read from its bytecode."""

import dis
from functools import cache
from types import CodeType, FrameType


def is_in_while(frame: FrameType | None) -> bool:
    """Whether the innermost loop around what runs, in this frame or in one that called it, is a `while`: one that ends by
    what it is told. A `for` ends when nothing is left."""
    while frame is not None:
        around = [loop for loop in _loops(frame.f_code) if loop[0] <= frame.f_lasti <= loop[1]]
        if around:
            return not min(around, key=lambda loop: loop[1] - loop[0])[2]
        frame = frame.f_back
    return False


@cache
def _loops(code: CodeType) -> tuple[tuple[int, int, bool], ...]:
    """First and last byte of each loop of a function, and whether it is a `for`: whatever jumps back to a FOR_ITER."""
    found: dict[int, tuple[int, int, bool]] = {}
    instructions = {one.offset: one for one in dis.get_instructions(code)}
    for one in instructions.values():
        if "JUMP_BACKWARD" in one.opname and "NO_INTERRUPT" not in one.opname:  # that one waits for a coroutine
            start = int(one.argval)
            found[start] = (start, one.offset, instructions[start].opname == "FOR_ITER")  # the last is the loop's end
    return tuple(found.values())
