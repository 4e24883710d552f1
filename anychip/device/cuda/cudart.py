"""The CUDA runtime by `ctypes`: what a program asks of `ctypes.CDLL("libcudart.so")`, which is not here, or speaks of no chip.

Programs set limits with it (NVIDIA's examples the size of fetches into L2) and ask how many chips there are. Results go
where the program's pointers say; a function that is not here is an AttributeError that says so.
"""

import ctypes
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import torch

from anychip.device.cuda.cuda_api import cuda_version

NAME = "libcudart.so"
L2_FETCH_BYTES = 64  # cudaLimitMaxL2FetchGranularity as it is at first
LIMITS = {5: L2_FETCH_BYTES}


class Cudart:
    """The library. A function returns CUDA's error number, which is 0."""

    def __init__(self, runtime: Any) -> None:
        self._limits = dict(LIMITS)
        self._functions: dict[str, Callable[..., Any]] = {
            "cudaDeviceSetLimit": self._set_limit,
            "cudaDeviceGetLimit": lambda pointer, limit: _put(self._limits.get(_number(limit), 0))(pointer),
            "cudaGetDeviceCount": _put(runtime.count),
            "cudaGetDevice": lambda pointer: _put(torch.cuda.current_device())(pointer),
            "cudaSetDevice": _calls(torch.cuda.set_device),
            "cudaDeviceSynchronize": _calls(torch.cuda.synchronize),
            "cudaMemGetInfo": lambda *pointers: _put(*torch.cuda.mem_get_info())(*pointers),
            "cudaRuntimeGetVersion": _put(cuda_version()),
            "cudaDriverGetVersion": _put(cuda_version()),
            "cudaProfilerStart": lambda: 0,
            "cudaProfilerStop": lambda: 0,
            "cudaGetLastError": lambda: 0,
            "cudaGetErrorString": lambda code: f"error {_number(code)}".encode(),
        }

    def _set_limit(self, limit: Any, value: Any) -> int:
        self._limits[_number(limit)] = _number(value)
        return 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        try:
            return self._functions[name]
        except KeyError:
            raise AttributeError(
                f"the virtual chip has no {name}; of libcudart it has {', '.join(self._functions)}"
            ) from None

    __getitem__ = __getattr__  # ctypes has both


def _put(*values: int) -> Callable[..., int]:
    """A function that puts these where the pointers that it is given point."""

    def function(*pointers: Any) -> int:
        for pointer, value in zip(pointers, values, strict=True):
            if hasattr(pointer, "_obj"):  # byref
                pointer._obj.value = value
            else:
                pointer[0] = value
        return 0

    return function


def _calls(torchs: Callable[..., Any]) -> Callable[..., int]:
    """One of torch's functions, given numbers of ctypes."""

    def function(*numbers: Any) -> int:
        torchs(*(_number(one) for one in numbers))
        return 0

    return function


def _number(value: Any) -> int:
    return int(getattr(value, "value", value))


def install(runtime: Any) -> None:
    """Serve the library where a program loads it by its bare name, as it finds the one that is installed."""
    original = ctypes.CDLL

    class CDLL(original):  # type: ignore[valid-type, misc]
        def __new__(cls, name: Any = None, *args: Any, **kwargs: Any) -> Any:
            if isinstance(name, str) and PurePath(name).name == name and name.startswith(NAME):
                return Cudart(runtime)
            return super().__new__(cls)

    ctypes.CDLL = ctypes.cdll._dlltype = CDLL  # type: ignore[misc, attr-defined]
