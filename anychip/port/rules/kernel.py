"""Kernels in Python's hands: extension builds, Triton, CuPy, Numba, CUDA Python. No edit makes them run elsewhere."""

import ast

from anychip.port.edits import KERNEL
from anychip.port.unit import Unit

NAME = "kernel"
_SYMBOLS = {
    "torch.utils.cpp_extension.CUDAExtension": "builds CUDA C++",
    "torch.utils.cpp_extension.CUDA_HOME": "looks for NVIDIA's compiler",
    "torch.utils.cpp_extension.load": "may build CUDA C++ when it runs",
    "torch.utils.cpp_extension.load_inline": "may build CUDA C++ when it runs",
    "triton.jit": "a Triton kernel: runs where the vendor has a Triton, after a look at its block sizes",
    "numba.cuda.jit": "a kernel for NVIDIA's compiler",
    "cupy.RawKernel": "CUDA C++ in a string",
    "cupy.RawModule": "CUDA C++ in a string",
    "cupy.ElementwiseKernel": "CUDA C++ in a string",
    "cupy.ReductionKernel": "CUDA C++ in a string",
}
_LIBRARIES = {
    "cupy": "NumPy for CUDA and ROCm: PyTorch's own functions, or NumPy on the CPU",
    "pycuda": "CUDA's driver itself",
    "cuda": "CUDA's driver itself",
    "nvidia": "NVIDIA's libraries themselves",
}

VALID = ["import numpy as np\n", "def jit(f):\n    return f\n\n@jit\ndef g():\n    pass\n"]
INVALID: list[tuple[str, str, str]] = []


def run(unit: Unit) -> None:
    used = set()
    for node, name in unit.module.uses:
        if name in _SYMBOLS:
            used.add(name)
            unit.leave(node, NAME, _SYMBOLS[name], KERNEL, name)
    for statement in unit.module.found.imports:
        # An import without a use that is certain: another file may take the name from here.
        for name in sorted(_imported(statement) & set(_SYMBOLS) - used):
            unit.leave(statement, NAME, _SYMBOLS[name], KERNEL, f"import {name}")
        for package in _packages(statement):
            if package in _LIBRARIES:
                unit.leave(statement, NAME, _LIBRARIES[package], KERNEL, f"import {package}")


def _imported(node: ast.Import | ast.ImportFrom) -> set[str]:
    if isinstance(node, ast.Import) or node.level:
        return set()
    return {f"{node.module}.{alias.name}" for alias in node.names}


def _packages(node: ast.Import | ast.ImportFrom) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {(node.module or "").split(".")[0]} if node.level == 0 else set()
