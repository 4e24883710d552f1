"""Environment variables of CUDA, NCCL and their tools, in code, scripts and configuration.

CUDA_VISIBLE_DEVICES and the allocator's have a twin on most chips, which the platforms of the standard name; the others mean
nothing there.
"""

import re
from collections.abc import Iterable

from anychip.audit.finding import Finding, finding
from anychip.audit.reading import Plain
from anychip.audit.rules._lines import Pattern, find_patterns
from anychip.source.module import Module

NAME = "environment"
KINDS = ("python", "shell", "config", "dockerfile", "cmake", "docs")
VALID = (
    'import os\nos.environ["RANK"]\n',
    'print("CUDA_VISIBLE_DEVICES")\n',
    "<shell>\nCUDA_DASHED=12-4\n",
    "<shell>\n# export CUDA_VISIBLE_DEVICES=0\nexport OMP_NUM_THREADS=1\n",
)
INVALID = (
    ('import os\nos.environ["CUDA_VISIBLE_DEVICES"] = "0"\n', ("CUDA_VISIBLE_DEVICES",)),
    ('import os\nos.getenv("NCCL_DEBUG")\n', ("NCCL_DEBUG",)),
    ("<shell>\nCUDA_VISIBLE_DEVICES=0,1 NCCL_DEBUG=INFO python train.py\n", ("CUDA_VISIBLE_DEVICES", "NCCL_DEBUG")),
    ("<dockerfile>\nENV TORCH_CUDA_ARCH_LIST=8.0\n", ("TORCH_CUDA_ARCH_LIST",)),
)
_NAME = (
    r"CUDA_[A-Z0-9_]+|NCCL_[A-Z0-9_]+|TORCH_NCCL_[A-Z0-9_]+|TORCH_CUDA_[A-Z0-9_]+|PYTORCH_CUDA_[A-Z0-9_]+|PYTORCH_ALLOC_CONF|"
    r"PYTORCH_NVML_[A-Z0-9_]+|NVTE_[A-Z0-9_]+|CUBLAS_[A-Z0-9_]+|CUDNN_[A-Z0-9_]+|NVIDIA_[A-Z0-9_]+|TORCH_CUDNN_[A-Z0-9_]+|"
    r"CUDAHOSTCXX|CUDACXX|FORCE_CUDA|NVCC_[A-Z0-9_]+|TRITON_[A-Z0-9_]+|CUDAARCHS"
)
_WHOLE = re.compile(rf"(?:{_NAME})\Z")
# Scripts call variables of their own CUDA_SOMETHING as well: there only the known ones count.
_KNOWN = (
    r"CUDA_(?:VISIBLE_DEVICES|DEVICE_ORDER|DEVICE_MAX_\w+|LAUNCH_BLOCKING|HOME|PATH|ROOT|VERSION|CACHE_\w+|MODULE_LOADING|MPS_\w+|"
    r"TOOLKIT_\w+|BIN_PATH|LIB_PATH|ENABLE_\w+|SCALE_LAUNCH_QUEUES|GRAPHS_\w+|GRAPH_CAPTURE_\w+|DISABLE_\w+|FORCE_\w+|AUTO_BOOST)"
)
_IN_TEXT = re.compile(rf"(?<![A-Za-z0-9_])(?:{_KNOWN}|{_NAME.partition('|')[2]})(?![A-Za-z0-9_])")
# In words, which follow: devices to use, the allocator, waiting for each kernel.
TWINS = {
    "CUDA_VISIBLE_DEVICES": "visible_devices", "PYTORCH_CUDA_ALLOC_CONF": "alloc_conf", "PYTORCH_ALLOC_CONF": "alloc_conf",
    "CUDA_LAUNCH_BLOCKING": "launch_blocking", "NVIDIA_VISIBLE_DEVICES": "visible_devices",
}  # fmt: skip
_NVIDIAS = re.compile(r"PTXAS|NVDISASM|CUOBJDUMP|CUPTI|CUDA|CUDART|NVIDIA|NSIGHT")
_FIX_TWIN = "the platform's own variable beside it"
_FIX = "leave it out, or set it where CUDA is: it means nothing on other chips"
# CMake and nvcc use such names for variables of their own: those are another rule's.
_CODE_KINDS = ("cmake",)
_NOT_ENV = frozenset({"CUDA_ARCHITECTURES", "CUDA_STANDARD", "CUDA_SEPARABLE_COMPILATION", "CUDA_STANDARD_REQUIRED"})


def find(file: Module | Plain) -> Iterable[Finding]:
    if isinstance(file, Module):
        for node in file.strings:
            text = str(node.value)
            if len(text) < 60 and _WHOLE.match(text) and not _is_printed(file, node):
                severity, fix, need = _judge(text)
                yield finding(file, node, NAME, severity, text, "a variable of CUDA or its tools", fix, need)
    elif file.kind not in _CODE_KINDS:
        yield from find_patterns(
            file, NAME, (Pattern(_IN_TEXT, "thought", "a variable of CUDA or its tools", _FIX),), _row
        )


def _is_printed(file: Module, node: object) -> bool:
    import ast

    parent = file.parent(node)  # type: ignore[arg-type]
    return isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id == "print"


def _judge(name: str) -> tuple[str, str, tuple[str, str]]:
    if name.startswith("TRITON_") and not _NVIDIAS.search(name):
        return "flow", "nothing here: every vendor's Triton reads it", ("", "")
    twin = TWINS.get(name)
    if twin:
        # Which devices a program sees is lost elsewhere; how it allocates and waits is not missed.
        return "thought" if twin == "visible_devices" else "cosmetic", _FIX_TWIN, ("env", twin)
    return "cosmetic" if name.startswith(("NCCL_", "TORCH_NCCL_", "NVTE_", "CUBLAS_")) else "thought", _FIX, ("", "")


def _row(symbol: str) -> tuple[str, str, tuple[str, str]] | None:
    return None if symbol in _NOT_ENV else _judge(symbol)
