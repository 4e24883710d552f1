"""The types that CUDA programs used before `device=`: `torch.cuda.FloatTensor(...)`, as class and as string.

They are torch's own classes, freed of the mark that makes a build without CUDA refuse them, so construction,
`isinstance`, `x.type(...)` and the default tensor type work in C++ as they do with CUDA.
"""

from collections.abc import Callable
from typing import Any

import torch

from anychip.device.insides import _torch_host
from anychip.device.runtime import Runtime


def install(runtime: Runtime) -> None:
    _torch_host.free_legacy_types()
    for name in ("_set_default_dtype", "_set_default_tensor_type"):
        setattr(torch._C, name, _forgetting(runtime, getattr(torch._C, name)))


def _forgetting(runtime: Runtime, original: Callable[[Any], None]) -> Callable[[Any], None]:
    """What comes out of an op can depend on the default dtype, which is no argument: nothing known stays known."""

    def change(value: Any) -> None:
        original(value)
        runtime.kernels.cache.clear()
        runtime.kernels.entries.clear()

    return change
