"""Kernels written in Python or in strings: Triton, CUTLASS DSL, Numba, CuPy, CUDA C++ in a string.

A Triton kernel runs where the vendor has a Triton: `anychip audit` says which do. CUDA C++ in a string is made HIP by PyTorch
for AMD; elsewhere it is written again.
"""

import ast
import re
from collections.abc import Iterable

from anychip.audit.finding import Finding, finding
from anychip.audit.rules._symbols import find_listed
from anychip.source.module import Module

NAME = "kernel"
VALID = (
    "import torch\n@torch.jit.script\ndef f(x): ...\n",
    "import functools\n@functools.cache\ndef f(): ...\n",
    '"""Wraps a __global__ function."""\n',
)
INVALID = (
    ("import triton\n@triton.jit\ndef k(x): ...\n", ("@triton.jit",)),
    (
        "import triton\n@triton.autotune(configs=[], key=[])\n@triton.jit\ndef k(x): ...\n",
        ("@triton.autotune", "@triton.jit"),
    ),
    ('src = """extern "C" __global__ void k() {}"""\n', ("__global__",)),
    ("from numba import cuda\n@cuda.jit\ndef k(x): ...\n", ("numba.cuda", "numba.cuda.jit", "@numba.cuda.jit")),
    ("import cupy as cp\nk = cp.RawKernel(src, 'k')\n", ("cupy.RawKernel",)),
)
_TRITON = re.compile(r"(?:^|\.)(?:triton\.(?:\w+\.)*(?:jit|autotune|heuristics)|gluon\.jit)$")
_CUTE = re.compile(r"(?:^|\.)cute\.(?:jit|kernel)$")
_NUMBA = re.compile(r"^numba\.cuda\.jit$")
_CUDA_SOURCE = re.compile(r"\b__global__\b")
_FIX_TRITON = "the vendor's Triton where there is one; else plain PyTorch with torch.compile"
_FIX_CUDA = "a kernel in Triton, plain PyTorch, or a kernel in the chip's own language"


def find(module: Module) -> Iterable[Finding]:
    yield from find_listed(module, NAME)
    for function in (*module.found.functions, *module.found.classes):
        for decorator in function.decorator_list:
            yield from _decorator(module, decorator)
    for node in module.strings:
        if _CUDA_SOURCE.search(str(node.value)):
            yield finding(
                module, node, NAME, "rewrite", "__global__", "CUDA C++ in a string", _FIX_CUDA, ("kernel", "")
            )


def _decorator(module: Module, decorator: ast.expr) -> Iterable[Finding]:
    what = decorator.func if isinstance(decorator, ast.Call) else decorator
    name = module.qualified(what) or _written(what)
    if _TRITON.search(name):
        severity = "thought" if name.endswith("jit") else "cosmetic"
        yield finding(module, decorator, NAME, severity, f"@{name}", "a kernel in Triton", _FIX_TRITON, ("triton", ""))
    elif _CUTE.search(name):
        yield finding(
            module,
            decorator,
            NAME,
            "rewrite",
            f"@{name}",
            "a kernel in NVIDIA's CUTLASS DSL",
            _FIX_CUDA,
            ("kernel", ""),
        )
    elif _NUMBA.match(name):
        yield finding(module, decorator, NAME, "rewrite", f"@{name}", "a kernel for CUDA", _FIX_CUDA, ("kernel", ""))


def _written(node: ast.AST) -> str:
    """A chain of names as it is written, where nobody knows what it means."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""
