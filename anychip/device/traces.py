"""The program's own traceback: its frames and torch's, without those of the recorder around and between them."""

import os
import runpy
import sys
import traceback
from pathlib import Path
from types import TracebackType

OURS = tuple(str(Path(__file__).parents[1] / folder) + os.sep for folder in ("device", "drivers", "standins"))
RUNNERS = (
    *(str(Path(__file__).with_name(name)) for name in ("__main__.py", "session.py")),
    runpy.__file__,
    "<frozen runpy>",
)


def print_program_traceback() -> None:
    """The program's own traceback, of this error and of those that it came of: its frames and torch's, not ours."""
    error = sys.exception()
    assert error is not None
    for one in causes_of(error):
        one.__traceback__ = without_ours(one)
    traceback.print_exception(error)


def causes_of(error: BaseException) -> list[BaseException]:
    """An error and those that it came of."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and not any(one is other for other in found):
            found.append(one)
            waiting += [one.__cause__, one.__context__]
    return found


def without_ours(error: BaseException) -> TracebackType | None:
    """The traceback of an error without our frames: above the program's, and below them where our kernels and hooks stand
    between it and torch. What may be a fault of ours keeps those below: an error in our code that torch does not raise."""
    frames: list[TracebackType] = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    while frames and frames[0].tb_frame.f_code.co_filename in RUNNERS:
        del frames[0]
    if not frames or isinstance(error, RuntimeError) or not is_ours(frames[-1]):
        frames = [one for one in frames if not is_ours(one)]
    for one in reversed(frames):
        trace = TracebackType(trace, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return trace


def is_ours(trace: TracebackType) -> bool:
    return trace.tb_frame.f_code.co_filename.startswith(OURS)
