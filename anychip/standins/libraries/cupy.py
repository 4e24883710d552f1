"""Stand-in for the part of CuPy that PyTorch programs use: kernels of CUDA C, launched on the addresses of tensors.

Arrays of CuPy's own are not covered.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import torch

from anychip.device.insides._torch_tensors import FIRST_ADDRESS
from anychip.standins import custom, recording

VERSION = "13.5.1"

_PARAMETERS = re.compile(r"__global__[\w\s]*?\b{}\s*\(([^)]*)\)", re.S)


class RawKernel:
    """A kernel of CUDA C. `kernel(grid, block, args)` records one op, `cupy.<name>`."""

    library = "cupy"

    def __init__(
        self, code: str, name: str, options: Sequence[str] = (), backend: str = "nvrtc", **_options: Any
    ) -> None:
        self.code, self.name = code, name
        self.const = constants(code, name)

    def __call__(self, grid: Any, block: Any, args: Sequence[Any], *, shared_mem: int = 0, **_options: Any) -> None:
        tensors = [one for one in args if isinstance(one, torch.Tensor)]
        blocks = [block for one in args if (block := _block(one)) is not None]
        if not blocks and not recording.any_on_chip(tensors):
            raise ValueError(
                f"{self.library} kernel {self.name}: no argument is a tensor on the chip or the address of one"
            )
        cost = custom.COSTS.get(f"{self.library}.{self.name}")
        if cost is not None:
            custom.record_call(f"custom.{self.library}.{self.name}", cost, tuple(args), {})
            return
        written = [one for n, one in enumerate(args) if isinstance(one, torch.Tensor) and n not in self.const]
        moved = sum(one.numel() * one.element_size() for one in tensors) + sum(block.nbytes for block in blocks)
        # An address would make an op of its own of every call, and says nothing beyond its block's bytes.
        plain = tuple("address" if _block(one) is not None else _plain(one) for one in args)
        recording.launch(f"{self.library}.{self.name}", plain, (), written, (("bytes", moved),))


def _plain(value: Any) -> Any:
    return value if isinstance(value, torch.Tensor | int | float | bool) else str(value)


def constants(code: str, name: str) -> set[int]:
    """Positions of the parameters that a kernel of CUDA C declares const."""
    found = re.search(_PARAMETERS.pattern.format(re.escape(name)), code, re.S)
    return {n for n, one in enumerate(found[1].split(",")) if "const" in one} if found else set()


def _block(value: Any) -> Any:
    """The block of the chip's memory that an integer argument points into, or None."""
    runtime = recording.runtime()
    if runtime is None or not isinstance(value, int) or value < FIRST_ADDRESS:
        return None
    blocks = runtime.tensors.blocks  # in the order of their addresses, as none is handed out twice
    at = bisect_right(blocks, value, key=lambda block: block.address) - 1
    inside = at >= 0 and value < blocks[at].address + max(blocks[at].nbytes, 1)
    return blocks[at] if inside else None


class RawModule:
    def __init__(self, *, code: str, **_options: Any) -> None:
        self.code = code

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(self.code, name)


def compile_with_cache(source: str, *_args: Any, **_options: Any) -> RawModule:
    return RawModule(code=source)


def memoize(for_each_device: bool = False) -> Callable[[Any], Any]:
    from functools import cache

    return cache


class ndarray:
    """An array of CuPy's, which nothing is: of each value that is passed to them, einops and others ask whether it is one."""

    def __new__(cls, *_args: Any, **_options: Any) -> "ndarray":
        raise recording.not_covered("cupy", "arrays (cupy.ndarray)")


class _Stream:
    """`cupy.cuda.Stream` over an address: kernels go to torch's current stream."""

    def __init__(self, ptr: int = 0, **_options: Any) -> None:
        self.ptr = ptr

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_: Any) -> None:
        pass


class _Device(_Stream):
    pass


_CUDA: dict[str, Any] = {
    "compile_with_cache": compile_with_cache, "ExternalStream": _Stream, "Stream": _Stream, "Device": _Device,
}  # fmt: skip

MODULES: dict[str, dict[str, Any]] = {
    "cupy": {"RawKernel": RawKernel, "RawModule": RawModule, "memoize": memoize, "ndarray": ndarray},
    "cupy.cuda": _CUDA,
    "cupy.util": {"memoize": memoize},
    "cupy._util": {"memoize": memoize},
}

UNCOVERED: dict[str, tuple[str, ...]] = {
    "cupy": ("array", "asarray", "zeros", "ones", "empty", "arange", "random", "linalg", "fft", "sum", "dot", "matmul",
             "fuse", "ElementwiseKernel", "ReductionKernel", "asnumpy", "get_array_module", "from_dlpack", "float32", "int32"),
    "cupy.cuda": ("runtime", "memory", "Event", "nvtx", "set_allocator", "MemoryPool", "driver", "device"),
}  # fmt: skip
