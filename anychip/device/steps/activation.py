"""Calls of a module's `forward` by its name, which skip `Module.__call__`: known by the frames that run."""

from types import FrameType
from typing import Any

import torch


class Activation:
    """Tells one run of a function from the next, by the one thing that can be written on a frame: its trace function, which is
    not called but under a debugger. (A frame that is kept keeps its tensors, and the next may have its address.)"""

    def __init__(self, frame: FrameType) -> None:
        self._debugger = frame.f_trace
        frame.f_trace = self

    def __call__(self, *event: Any) -> "Activation":
        if self._debugger is not None:
            self._debugger = self._debugger(*event)
        return self

    def is_running(self, frame: FrameType | None) -> bool:
        """Whether the frame is of it, or of what it calls."""
        while frame is not None and frame.f_trace is not self:
            frame = frame.f_back
        return frame is not None


def called_directly(frame: FrameType | None) -> tuple[torch.nn.Module, FrameType] | None:
    """The outermost module whose `forward` is being run, of those that were not called as modules, and the frame of it."""
    found = None
    while frame is not None:
        if frame.f_code.co_name == "forward" and frame.f_code.co_argcount:
            known = frame.f_locals
            one = known.get(frame.f_code.co_varnames[0])
            if isinstance(known, dict):  # until Python 3.12 a copy that would keep the function's tensors
                known.clear()
            if isinstance(one, torch.nn.Module):
                found = one, frame
        frame = frame.f_back
    return found
