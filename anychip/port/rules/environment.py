"""Environment variables of CUDA that the program itself sets or reads.

A chip's form writes the chip's own, where its platform file names one. Portable code leaves them: on CUDA they must stay
what they are, and elsewhere nobody reads them; which is told, since choosing devices by them has no effect there.
"""

import ast
import re

from anychip.port.edits import HARMLESS, THOUGHT
from anychip.port.unit import Unit

NAME = "environment"
# variable -> the field of a platform's [env] that has its twin
TWINS = {
    "CUDA_VISIBLE_DEVICES": "visible_devices",
    "PYTORCH_CUDA_ALLOC_CONF": "alloc_conf",
    "CUDA_LAUNCH_BLOCKING": "launch_blocking",
}
VARIABLE = re.compile(
    r"(?:CUDA_(?:VISIBLE_DEVICES|LAUNCH_BLOCKING|DEVICE_[A-Z_]+|HOME|PATH|ROOT|MODULE_LOADING|CACHE_[A-Z]+|TOOLKIT_[A-Z_]+|MPS_[A-Z_]+)|NCCL_[A-Z0-9_]+|TORCH_NCCL_[A-Z0-9_]+|TORCH_CUDA_[A-Z0-9_]+|PYTORCH_CUDA_[A-Z0-9_]+|NVTE_[A-Z0-9_]+|CUBLAS_[A-Z0-9_]+"
    r"|CUDNN_[A-Z0-9_]+|NVIDIA_[A-Z0-9_]+|TORCH_CUDNN_[A-Z0-9_]+|CUDAHOSTCXX|FORCE_CUDA|NVCC_[A-Z0-9_]+)\Z"
)
_ENVIRON = (
    "os.environ",
    "os.environ.get",
    "os.environ.setdefault",
    "os.environ.pop",
    "os.getenv",
    "os.putenv",
    "os.unsetenv",
)

VALID = ['import os\n\nx = os.environ["LOCAL_RANK"]\n', 'x = "CUDA_VISIBLE_DEVICES"\n']
INVALID = [
    (
        'import os\n\nos.environ["CUDA_VISIBLE_DEVICES"] = "0"\n',
        'os.environ["CUDA_VISIBLE_DEVICES"] = "0"\n',
        'os.environ["ASCEND_RT_VISIBLE_DEVICES"] = "0"\n',
    ),
    (
        'import os\n\nx = os.getenv("CUDA_VISIBLE_DEVICES", "")\n',
        'x = os.getenv("CUDA_VISIBLE_DEVICES", "")\n',
        'x = os.getenv("ASCEND_RT_VISIBLE_DEVICES", "")\n',
    ),
]


def run(unit: Unit) -> None:
    for node in unit.module.strings:
        if VARIABLE.match(str(node.value)) and _is_variable(unit, node):
            _port(unit, node, str(node.value))


def _is_variable(unit: Unit, node: ast.Constant) -> bool:
    parent = unit.module.parent(node)
    if isinstance(parent, ast.Subscript) and parent.slice is node:
        return unit.module.qualified(parent.value) == "os.environ"
    if isinstance(parent, ast.Call):
        return parent.args[:1] == [node] and unit.module.qualified(parent.func) in _ENVIRON
    if isinstance(parent, ast.Compare):
        return any(unit.module.qualified(c) == "os.environ" for c in parent.comparators)
    return False


def _port(unit: Unit, node: ast.Constant, name: str) -> None:
    twin = unit.target.env.get(TWINS.get(name, ""))
    if unit.target.portable or unit.target.masked:
        kind = THOUGHT if name == "CUDA_VISIBLE_DEVICES" else HARMLESS
        return unit.leave(node, NAME, "read by CUDA only; every other vendor has a variable of its own", kind, name)
    if twin is None:
        return unit.leave(node, NAME, f"{unit.target.platform} names no variable like it", THOUGHT, name)
    quote = unit.module.of(node)[-1]
    if twin != name:
        unit.replace(node, f"{quote}{twin}{quote}", NAME, f"{unit.target.platform}'s variable for the same", name)
    return None
