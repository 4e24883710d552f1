"""`isfinite` and `isclose`: torch composes them of comparisons, whose results one by one mean nothing to a chip
that computes no values. The composition runs and is recorded; then the driver hears of the whole."""

from collections.abc import Callable
from typing import Any

import torch

from anychip.device.insides._torch_host import implement
from anychip.device.ops.kernels import flat_tensors
from anychip.device.runtime import Runtime
from anychip.drivers.base import Call

NAMES = ("isfinite", "isclose", "isreal")


def install(runtime: Runtime) -> None:
    implement("aten", ((name, _kernel(runtime, name), "CUDA") for name in NAMES))


def _kernel(runtime: Runtime, name: str) -> Callable[..., Any]:
    overload = getattr(torch.ops.aten, name).default

    def kernel(*args: Any, **kwargs: Any) -> Any:
        result = overload.decompose(*args, **kwargs)
        runtime.driver.run(Call(overload, name, args, kwargs, flat_tensors((args, kwargs)), [], [result]))
        return result

    return kernel
