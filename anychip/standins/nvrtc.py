"""Stand-in for `torch.cuda._compile_kernel`, by which a program compiles CUDA C while it runs and launches it on tensors.

Nothing is compiled: each launch is one op, `cuda.<name>`, priced by the bytes of its tensors.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from anychip.standins.libraries.cupy import RawKernel


class _Raw(RawKernel):
    library = "cuda"


class Kernel:
    """What torch gives back: `kernel(grid, block, args, shared_mem, stream)`."""

    def __init__(self, source: str, name: str) -> None:
        self._raw = _Raw(source, name)

    def __call__(
        self, grid: Any = (1, 1, 1), block: Any = (1, 1, 1), args: Sequence[Any] | None = None, shared_mem: int = 0,
        stream: Any = None,
    ) -> None:  # fmt: skip
        with nullcontext() if stream is None else torch.cuda.stream(stream):
            self._raw(grid, block, args or (), shared_mem=shared_mem)

    def set_shared_memory_config(self, shared_mem_bytes: int) -> None:
        """Memory inside the chip, of which no price depends."""


def compile_kernel(kernel_source: str, kernel_name: str, *_options: Any, **_more: Any) -> Kernel:
    return Kernel(kernel_source, kernel_name)


def install() -> None:
    torch.cuda._compile_kernel = compile_kernel  # type: ignore[assignment]
