"""PyTorch's C++ interface to CUDA: at::cuda, c10::cuda, kernels registered for the CUDA key.

c10::DeviceGuard, c10::impl::VirtualGuardImpl and the key of the device serve every backend. What is written with PyTorch's
interface alone is built again for the chip.
"""

import re
from collections.abc import Iterable

from anychip.audit.finding import Finding
from anychip.audit.reading import Plain
from anychip.audit.rules._cxx import KINDS as KINDS
from anychip.audit.rules._cxx import Construct, find_constructs

NAME = "torch-extension"
VALID = ("<cxx>\nat::Tensor f(at::Tensor x) { return x; }\n", "<cxx>\nTORCH_LIBRARY_IMPL(a, CPU, m) {}\n")
INVALID = (
    ("<cxx>\n#include <ATen/cuda/CUDAContext.h>\n", ("ATen/cuda/CUDAContext.h",)),
    ("<cxx>\nauto s = at::cuda::getCurrentCUDAStream();\n", ("at::cuda",)),
    (
        "<cxx>\nTORCH_LIBRARY_IMPL(a, CUDA, m) {}\nTORCH_CHECK(x.is_cuda());\n",
        ("TORCH_LIBRARY_IMPL(a, CUDA", "TORCH_CHECK", "is_cuda"),
    ),
)
CONSTRUCTS = (
    Construct(re.compile(r"\b((?:at|c10|torch)::cuda)\b"), "thought", "PyTorch's CUDA part",
              "c10::DeviceGuard and the device's own stream; hipify renames it for AMD"),
    Construct(re.compile(r"\b(TORCH_LIBRARY_IMPL\s*\(\s*\w+\s*,\s*(?:Autograd|Autocast)?CUDA)\b"), "thought",
              "a kernel registered for CUDA", "the key of the other device beside it"),
    Construct(re.compile(r"[.>](is_cuda)\s*\(\s*\)"), "automatic", "false on every other chip", "compare the tensors' devices"),
    Construct(re.compile(r"^[ \t]*#[ \t]*include[ \t]*[<\"]((?:ATen|c10|torch/csrc)/cuda/[^>\"]+)[>\"]", re.MULTILINE), "thought",
              "a header of PyTorch's CUDA part", "the device's own; hipify renames it for AMD"),
    Construct(re.compile(r"\b(C10_CUDA_\w+|AT_CUDA_\w+|TORCH_CUDA_\w+)\b"), "thought", "a macro of PyTorch's CUDA part",
              "the device's own; hipify renames it for AMD"),
    Construct(re.compile(r"\b(TORCH_CHECK|torch::Tensor|at::Tensor|PYBIND11_MODULE|TORCH_LIBRARY(?:_FRAGMENT)?|NB_MODULE)\b"), "flow",
              "PyTorch's C++ interface beside CUDA", "nothing here: it is built again for the chip"),
    Construct(re.compile(r"\b((?:at|torch|c10)::(?:kCUDA|DeviceType::CUDA)|(?<!:)kCUDA)\b"), "automatic", "CUDA as a device type", "the device of an input"),
)  # fmt: skip


def find(file: Plain) -> Iterable[Finding]:
    return find_constructs(file, NAME, CONSTRUCTS, lambda symbol: ("kernel", ""))
