"""Calls of CUDA's runtime and driver, NVML and NVTX in C and C++.

PyTorch's hipify knows a HIP name for most; the finding says which. Through PyTorch's own C++ interface (c10::Device,
at::Tensor, c10::DeviceGuard) an extension needs few of them.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from anychip.audit.finding import Finding
from anychip.audit.hip import hip_names
from anychip.audit.reading import Plain
from anychip.audit.rules._cxx import KINDS as KINDS
from anychip.audit.rules._cxx import Construct, find_constructs

NAME = "cuda-runtime"
VALID = ("<cxx>\nvoid cuda(); int x = 1;\n", "<cuda>\n// cudaMalloc(&p, 4);\nint a;\n", "<cxx>\ncurrent(1); cull(2);\n")
INVALID = (
    ("<cxx>\ncudaMalloc(&p, 4);\n", ("cudaMalloc",)),
    ("<cxx>\ncudaStream_t s;\n", ("cudaStream_t",)),
    ("<cxx>\n#include <cuda_runtime.h>\nif (e != cudaSuccess) {}\n", ("cuda_runtime.h", "cudaSuccess")),
    ("<cxx>\nint main() { cuInit(0); nvmlInit(); }\n", ("cuInit", "nvmlInit")),
)
_CALL = re.compile(
    r"\b(cuda[A-Z]\w+|nvml[A-Z]\w+|nvtx[A-Z]\w+|nvrtc[A-Z]\w+|cu(?:Ctx|Mem|Module|Launch|Device|Stream|Event|Init|Func|Graph|Link|Occupancy)[A-Z]?\w*)\s*\("
)
_TYPE = re.compile(
    r"\b(cuda[A-Z]\w*|CU(?:device|context|module|function|stream|event|result|deviceptr|tensorMap|array)\w*|CUDA_SUCCESS|CUDA_ERROR_\w+|CU_[A-Z]+_\w+)"
    r"\b(?!\s*\()"
)
_HEADER = re.compile(
    r"^[ \t]*#[ \t]*include[ \t]*[<\"]((?:\w+/)*(?:cuda(?:_\w+)?\.h(?:pp)?|cuda/[^>\"]+|nvtx3?/[^>\"]+|nvToolsExt\w*\.h|nvml\.h|nvrtc\.h|"
    r"device_launch_parameters\.h|device_functions\.h|vector_types\.h|math_constants\.h|cooperative_groups(?:/[^>\"]+|\.h)|mma\.h|"
    r"cuda(?:GL|Profiler|Typedefs)\w*\.h))[>\"]",
    re.MULTILINE,
)
CALLS = (
    Construct(_CALL, "thought", "NVIDIA's runtime", ""),
    Construct(_TYPE, "thought", "a type or constant of NVIDIA's runtime", ""),
    Construct(_HEADER, "thought", "a header of NVIDIA's runtime", ""),
)


def find(file: Plain) -> Iterable[Finding]:
    for found in find_constructs(file, NAME, CALLS, lambda symbol: ("cuda_symbol", symbol)):
        yield replace(found, fix=fix_of(found.symbol))


def fix_of(symbol: str) -> str:
    name = hip_names().get(symbol)
    return (
        f"{name} for AMD, by PyTorch's hipify; the chip's own runtime elsewhere"
        if name
        else "the chip's own runtime: hipify has no name for it"
    )
