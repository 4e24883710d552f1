"""Weights that a program makes on the host: where random numbers would fill many, their memory stays unwritten.

A chip gets none of these numbers. A model of 7B parameters that is made there and moved took 28 GB of the machine that forecasts, and minutes of
random numbers in each process. Memory that nobody has written takes none, and reads as zeros. What is converted, cloned or
scaled of it stays so; what is loaded into it is written, as is whatever else is done with it.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.nn import Module, Parameter

from anychip.device.runtime import Runtime

# Bytes from which on memory that is asked for is fresh, of zeros: glibc takes no more than this from what was given back
# (M_MMAP_THRESHOLD of mallopt(3), which grows to 32 MiB).
LEAST = 1 << 25
PLAIN = (torch.Tensor, Parameter)
FILLS = ("normal_", "uniform_")
SCALES = ("mul_", "div_", "add_", "erfinv_", "clamp_")  # of which `trunc_normal_` is made, and depths of layers
CASTS = {"half": torch.float16, "bfloat16": torch.bfloat16, "float": torch.float32, "double": torch.float64}


def install(runtime: Runtime) -> None:
    del runtime
    for name in FILLS:
        _before(name, _fill)
    for name in SCALES:
        _before(name, _scale)
    for name in (*CASTS, "to", "clone"):
        _before(name, _made_of(name))
    _before("copy_", _copy)
    original = Module.register_parameter

    @wraps(original)
    def register_parameter(self: Module, name: str, param: Parameter | None) -> None:
        original(self, name, param)
        if param is not None and (storage := _storage(param)) is not None and not hasattr(storage, "unwritten"):
            storage.unwritten = False  # it may hold what the program has computed

    Module.register_parameter = register_parameter  # type: ignore[method-assign]


def _before(name: str, function: Callable[..., torch.Tensor | None]) -> None:
    """Where `function` has a result it is that of the method."""
    original = getattr(torch.Tensor, name)

    @wraps(original)
    def method(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.is_cpu and (result := function(self, *args, **kwargs)) is not None:
            return result
        return original(self, *args, **kwargs)

    setattr(torch.Tensor, name, method)


def _storage(tensor: torch.Tensor) -> Any:
    """Of many numbers of the host, else None."""
    if type(tensor) not in PLAIN or not tensor.is_cpu or tensor.layout != torch.strided:
        return None
    if not tensor.is_floating_point() or tensor.numel() * tensor.element_size() < LEAST:
        return None
    try:
        return tensor.untyped_storage()
    except RuntimeError:  # one of torch.func has none
        return None


def _is_unwritten(tensor: torch.Tensor) -> bool:
    return getattr(_storage(tensor), "unwritten", False)


def _fill(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor | None:
    storage = _storage(tensor)
    if storage is None or not (hasattr(storage, "unwritten") or isinstance(tensor, Parameter)):
        return None  # data of the program's
    storage.unwritten = tensor.nbytes == storage.nbytes()  # a part says nothing of the others
    return tensor


def _scale(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor | None:
    others = (*args, *kwargs.values())
    return tensor if _is_unwritten(tensor) and not any(isinstance(one, torch.Tensor) for one in others) else None


def _copy(tensor: torch.Tensor, source: Any, *_: Any, **__: Any) -> torch.Tensor | None:
    """Weights of one model that are those of another (averaged ones) stay unwritten, too."""
    if not _is_unwritten(tensor):
        return None
    if isinstance(source, torch.Tensor) and _is_unwritten(source):
        return tensor
    tensor.untyped_storage().unwritten = False  # type: ignore[attr-defined]
    return None


def _made_of(name: str) -> Callable[..., torch.Tensor | None]:
    def made(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor | None:
        if not _is_unwritten(tensor) or (tensor.requires_grad and torch.is_grad_enabled()):
            return None
        dtype: torch.dtype | None = CASTS.get(name, tensor.dtype)
        if name == "to":
            kwargs.pop("copy", None)
            device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
            if device is not None and device.type != "cpu":
                return None
        dtype = dtype or tensor.dtype
        if (dtype == tensor.dtype and name != "clone") or tensor.numel() * dtype.itemsize < LEAST:
            return None
        result = torch.empty_like(tensor, dtype=dtype, device="cpu", requires_grad=False)
        if (storage := _storage(result)) is not None:
            storage.unwritten = True
        return result

    return made
