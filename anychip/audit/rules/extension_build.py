"""Extensions that are built or compiled for CUDA with torch.utils.cpp_extension.

CUDAExtension wants NVIDIA's compiler. PyTorch makes HIP of the same sources for AMD; every other chip wants an extension in
its own language, a Triton kernel, or plain PyTorch in its place.
"""

from collections.abc import Iterable

from anychip.audit.finding import Finding
from anychip.audit.rules._symbols import find_listed
from anychip.source.module import Module

NAME = "extension-build"
VALID = (
    'from setuptools import Extension\nExtension("a", ["a.c"])\n',
    "from torch.utils.data import DataLoader\nDataLoader(x)\n",
)
INVALID = (
    (
        'from torch.utils.cpp_extension import CUDAExtension\nCUDAExtension("a", ["a.cu"])\n',
        ("torch.utils.cpp_extension.CUDAExtension", "torch.utils.cpp_extension.CUDAExtension"),
    ),
    (
        'from torch.utils import cpp_extension as ext\next.load("a", ["a.cu"])\n',
        ("torch.utils.cpp_extension", "torch.utils.cpp_extension.load"),
    ),
)


def find(module: Module) -> Iterable[Finding]:
    return find_listed(module, NAME)
