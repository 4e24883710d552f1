"""CUDA C++: kernels, launches, and what only NVIDIA's hardware has: PTX, tensor-core intrinsics, CUTLASS, textures.

PyTorch's hipify makes HIP of most of it for AMD; PTX, WMMA and CUTLASS stay behind. Every other chip has a kernel language of
its own: the platforms of the standard name it. Warps of 32 are assumed more often than said.
"""

import re
from collections.abc import Iterable

from anychip.audit.finding import Finding
from anychip.audit.reading import Plain
from anychip.audit.rules._cxx import KINDS as KINDS
from anychip.audit.rules._cxx import Construct, find_constructs

NAME = "cuda-kernel"
VALID = ("<cxx>\nint main() { return 0; }\n", "<cuda>\n// __global__ void k();\nint f();\n")
INVALID = (
    (
        "<cuda>\n__global__ void k(float* x) { x[threadIdx.x] = 0; }\nvoid f() { k<<<1, 32>>>(x); }\n",
        ("__global__", "<<<>>>"),
    ),
    (
        '<cuda>\n__device__ void f() { asm volatile("ret;"); __shfl_down_sync(m, v, 1); }\n',
        ("inline PTX", "__shfl_down_sync"),
    ),
)
_FIX = "HIP by PyTorch's hipify for AMD; a kernel in Triton or in the chip's language elsewhere"
_FIX_NONE = "written again for the other chip: hipify does not translate it"
CONSTRUCTS = (
    Construct(re.compile(r"\b__global__\b"), "rewrite", "a CUDA kernel", _FIX),
    Construct(re.compile(r"<<<"), "rewrite", "a kernel's launch", _FIX, "<<<>>>"),
    Construct(re.compile(r"\b__shared__\b"), "rewrite", "memory that a block shares", _FIX),
    Construct(re.compile(r"\b(__(?:shfl|ballot|any|all|activemask|match|reduce)\w*_sync)\b"), "rewrite",
              "threads of a warp exchange values: the warp's width differs", _FIX),
    Construct(re.compile(r"\b(atomic[A-Z]\w*)\s*\("), "rewrite", "an atomic of CUDA", _FIX),
    Construct(re.compile(r"\basm\s*(?:volatile)?\s*\("), "blocks", "NVIDIA's assembler", _FIX_NONE, "inline PTX"),
    Construct(re.compile(r"\b(wmma::|mma_sync|nvcuda::|wgmma|tcgen05)"), "blocks", "tensor cores by their instructions", _FIX_NONE),
    Construct(re.compile(r"\b(?:cutlass|cute)::"), "blocks", "NVIDIA's matrix templates", _FIX_NONE),
    Construct(re.compile(r"\bcooperative_groups\b"), "rewrite", "groups of threads", _FIX),
    Construct(re.compile(r"\b(cudaTextureObject_t|tex[123]D\w*|cudaSurfaceObject_t)\b"), "rewrite", "textures", _FIX),
)  # fmt: skip


def find(file: Plain) -> Iterable[Finding]:
    return find_constructs(file, NAME, CONSTRUCTS, lambda symbol: ("kernel", ""))
