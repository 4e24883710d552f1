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
VALID = (
    "<cxx>\n#include <hip/hip_runtime.h>\n__global__ void k();\n",
    "<cxx>\n// about CUDA\nfloat4 v;\n",
    "<cxx>\nint main() { return 0; }\n",
    "<cuda>\n// __global__ void k();\nint f();\n",
)
INVALID = (
    (
        "<cuda>\n__global__ void k(float* x) { x[threadIdx.x] = 0; }\nvoid f() { k<<<1, 32>>>(x); }\n",
        ("__global__", "threadIdx", "<<<>>>"),
    ),
    (
        '<cuda>\n__device__ void f() { asm volatile("ret;"); __shfl_down_sync(m, v, 1); }\n',
        ("__device__", "inline PTX", "__shfl_down_sync"),
    ),
    (
        "<cuda>\n__host__ __device__ void f() { __syncthreads(); dim3 g(1); }\n#if __CUDA_ARCH__ >= 800\n#endif\n",
        ("__host__ __device__", "__syncthreads", "dim3", "__CUDA_ARCH__"),
    ),
    ("<cuda>\nvoid f(const float2* x) { gpuAtomicAdd(x, 1); }\n", ("float2", "gpuAtomicAdd")),
)
_FIX = "HIP by PyTorch's hipify for AMD; a kernel in Triton or in the chip's language elsewhere"
_FIX_NONE = "written again for the other chip: hipify does not translate it"
CONSTRUCTS = (
    Construct(re.compile(r"\b__global__\b"), "rewrite", "a CUDA kernel", _FIX),
    Construct(re.compile(r"<<<"), "rewrite", "a kernel's launch", _FIX, "<<<>>>"),
    Construct(re.compile(r"\b((?:__host__\s+)?__(?:device|constant|managed|grid_constant)__|__(?:launch_bounds|cluster_dims)__)"), "rewrite",
              "code or memory of the chip's own", _FIX),
    Construct(re.compile(r"\b(threadIdx|blockIdx|blockDim|gridDim|warpSize)\b"), "rewrite", "a thread's place in CUDA's grid", _FIX),
    Construct(re.compile(r"\b(__(?:sync(?:threads|warp)\w*|threadfence\w*|ld[a-z]{1,2}|st[a-z]{2}|float2\w+|half2\w+|bfloat162\w+|nanosleep|cvta_\w+))\s*\("),
              "rewrite", "a function that only kernels have", _FIX),
    Construct(re.compile(r"\b(dim3|__half2?|half2|__nv_(?:bfloat16\w*|fp8\w*)|nv_bfloat16\d*)\b"), "rewrite", "a type of CUDA's kernels", _FIX),
    Construct(re.compile(r"\b(__CUDA_ARCH\w*__|__CUDA(?:CC|_NO)\w*__|CUDA_VERSION|CUDART_VERSION)\b"), "thought", "a branch for CUDA's compiler",
              "a branch for the other chip's compiler beside it"),
    Construct(re.compile(r"\b__shared__\b"), "rewrite", "memory that a block shares", _FIX),
    Construct(re.compile(r"\b(__(?:shfl|ballot|any|all|activemask|match|reduce)\w*_sync)\b"), "rewrite",
              "threads of a warp exchange values: the warp's width differs", _FIX),
    Construct(re.compile(r"\b((?:gpuA|a)tomic[A-Z]\w*)\s*\("), "rewrite", "an atomic of CUDA", _FIX),
    Construct(re.compile(r"\basm\s*(?:volatile)?\s*\("), "blocks", "NVIDIA's assembler", _FIX_NONE, "inline PTX"),
    Construct(re.compile(r"\b(wmma::|mma_sync|nvcuda::|wgmma|tcgen05)"), "blocks", "tensor cores by their instructions", _FIX_NONE),
    Construct(re.compile(r"\b(?:cutlass|cute)::"), "blocks", "NVIDIA's matrix templates", _FIX_NONE),
    Construct(re.compile(r"\bcooperative_groups\b"), "rewrite", "groups of threads", _FIX),
    Construct(re.compile(r"\b(cudaTextureObject_t|tex[123]D\w*|cudaSurfaceObject_t)\b"), "rewrite", "textures", _FIX),
)  # fmt: skip


# In C++ that the host compiles these may be anyone's.
IN_KERNELS = (
    Construct(re.compile(r"\b((?:u?(?:char|short|int|long|longlong)|float|double)[1234])\b(?!\s*::)"), "rewrite", "a vector type of CUDA's",
              _FIX),
)  # fmt: skip


def find(file: Plain) -> Iterable[Finding]:
    constructs = (*CONSTRUCTS, *IN_KERNELS) if file.kind == "cuda" else CONSTRUCTS
    return find_constructs(file, NAME, constructs, lambda symbol: ("kernel", ""))
