"""Build files that look for CUDA: find_package(CUDAToolkit), project(... CUDA), nvcc, -lcublas.

HIP has the same in CMake; other chips have toolchains of their own. A build without kernels is the portable one.
"""

import re
from collections.abc import Iterable

from anychip.audit.finding import Finding
from anychip.audit.reading import Plain
from anychip.audit.rules._lines import Pattern, find_patterns

NAME = "build"
KINDS = ("cmake", "shell", "dockerfile")
VALID = ("<cmake>\nproject(a LANGUAGES CXX)\n", "<cmake>\n# find_package(CUDA)\nadd_library(x x.cpp)\n")
INVALID = (
    (
        "<cmake>\nproject(a LANGUAGES CXX CUDA)\nfind_package(CUDAToolkit REQUIRED)\n",
        ("project(a LANGUAGES CXX CUDA", "find_package(CUDAToolkit"),
    ),
    ("<cmake>\nNVCC = nvcc\nLIBS = -lcudart -lcublas\n", ("nvcc", "-lcudart", "-lcublas")),
)
_FIX = "a build that is chosen by what is installed: HIP, SYCL or the chip's toolchain beside CUDA"
_LIBRARY = r"cudart|cublas(?:Lt)?|cudnn|cufft|curand|cusparse|cusolver|nccl|nvrtc|nvToolsExt|nvidia-ml|cuda"
PATTERNS = (
    Pattern(re.compile(r"(find_package\s*\(\s*(?:CUDA|CUDAToolkit|CUDNN|NCCL|TensorRT|CUB|Thrust)\b)", re.IGNORECASE),
            "rewrite", "a build that looks for CUDA", _FIX, ("kernel", "")),
    Pattern(re.compile(r"(enable_language\s*\(\s*CUDA|check_language\s*\(\s*CUDA|project\s*\([^)]*\bCUDA\b)", re.IGNORECASE),
            "rewrite", "a build in CUDA C++", _FIX, ("kernel", "")),
    Pattern(re.compile(r"((?:target_link_libraries\s*\([^)]*)?CUDA::\w+)"), "rewrite", "a library of CUDA", _FIX, ("kernel", "")),
    Pattern(re.compile(r"\b(CMAKE_CUDA_\w+|CUDA_ARCHITECTURES|CUDA_SEPARABLE_COMPILATION|cuda_add_(?:library|executable)|CUDA_NVCC_FLAGS|cuda_std_\d+)\b"),
            "rewrite", "settings of CUDA's compiler", _FIX, ("kernel", "")),
    Pattern(re.compile(r"(?<![\w/.$({-])(nvcc)(?=[\s\"']|$)"), "rewrite", "NVIDIA's compiler", _FIX, ("kernel", "")),
    Pattern(re.compile(rf"(?<!\S)(-l(?:{_LIBRARY}))(?=\s|$)"), "rewrite", "a library of CUDA", _FIX, ("kernel", "")),
)  # fmt: skip


def find(file: Plain) -> Iterable[Finding]:
    return find_patterns(file, NAME, PATTERNS)
