"""`torch.profiler` and NVTX: programs that profile themselves run on; what they did is in the recording anyway.

The host's part of a profile is real. Chip activity is not added to it: its times are the virtual clock's,
which `anychip forecast --trace` writes out.
"""

from contextlib import suppress
from functools import wraps
from importlib import import_module
from itertools import count
from types import SimpleNamespace
from typing import Any

import torch


def nvtx() -> SimpleNamespace:
    """`torch._C._nvtx`: ranges nest and have handles; nothing is drawn."""
    open_ranges: list[str] = []
    handles = count(1)

    def push(message: str) -> int:
        open_ranges.append(message)
        return len(open_ranges) - 1

    def pop() -> int:
        if not open_ranges:
            return -2  # as NVTX answers an unbalanced pop
        open_ranges.pop()
        return len(open_ranges)

    return SimpleNamespace(
        rangePushA=push, rangePop=pop, rangeStartA=lambda message: next(handles), rangeEnd=lambda handle: None,
        markA=lambda message: None, deviceRangeStart=lambda message, stream: next(handles),
        deviceRangeEnd=lambda handle, stream: None,
    )  # fmt: skip


def install(runtime: Any) -> None:
    """Say that chip activities can be profiled, and ask torch's own profiler only for the host's."""
    cuda = torch.profiler.ProfilerActivity.CUDA
    known = {*torch._C._autograd._supported_activities(), cuda}
    host = torch.profiler.ProfilerActivity.CPU
    for module in (torch._C._autograd, torch.autograd, torch.autograd.profiler, torch.profiler):
        module._supported_activities = lambda: set(known)  # type: ignore[attr-defined]

    def for_host(function: Any) -> Any:
        def call(config: Any, activities: Any, *rest: Any, **options: Any) -> Any:
            return function(config, {one for one in activities if one != cuda} or {host}, *rest, **options)

        return call

    for name in ("_prepare_profiler", "_enable_profiler"):
        call = for_host(getattr(torch._C._autograd, name))
        for module in (torch._C._autograd, torch.autograd, torch.autograd.profiler):
            if hasattr(module, name):
                setattr(module, name, call)
    _on_this_host()
    torch.autograd.profiler.emit_nvtx = EmitNvtx  # type: ignore[misc,assignment]


def _on_this_host() -> None:
    """`profile(use_cuda=True)` times each op with CUDA events of C++, which are not there: take the host's times. And load what
    torch itself loads while it profiles: with stacks it reads the name of a file's code when nothing holds that any more."""
    states = vars(torch.autograd)["ProfilerState"]
    original = torch.autograd.profiler.profile.__init__

    @wraps(original)
    def __init__(self: Any, *args: Any, **options: Any) -> None:
        with suppress(ImportError):  # of a release that has none
            import_module("torch.profiler._cupti_monitor")
        original(self, *args, **options)
        if getattr(self, "profiler_kind", None) == states.KINETO_GPU_FALLBACK:
            self.profiler_kind = states.KINETO

    torch.autograd.profiler.profile.__init__ = __init__  # type: ignore[method-assign]


class EmitNvtx:
    """`torch.autograd.profiler.emit_nvtx`: a range for every op, which nobody draws."""

    def __init__(self, enabled: bool = True, record_shapes: bool = False) -> None:
        self.enabled, self.record_shapes = enabled, record_shapes

    def __enter__(self) -> "EmitNvtx":
        return self

    def __exit__(self, *_: Any) -> None:
        return None
