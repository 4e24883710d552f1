"""backend="nccl" is NVIDIA's library of collectives. Portable code asks PyTorch for the device's own.

torch.distributed.get_default_backend_for_device(DEVICE) is nccl on CUDA, gloo on a CPU build, hccl, xccl ... elsewhere.
"""

import ast
import re

from anychip.port.devices import OTHER_ACCELERATORS
from anychip.port.edits import THOUGHT, UNSURE
from anychip.port.unit import Unit

NAME = "collective-backend"
REASON = "every vendor has its own collectives; PyTorch knows which go with a device"
_BACKEND_NAME = re.compile(r"(?:.*_)?backend\Z", re.I)
_CALLS = {"torch.distributed.init_process_group": 0, "torch.distributed.new_group": 2,
          "torch.distributed.distributed_c10d.init_process_group": 0, "torch.distributed.is_backend_available": 0}  # fmt: skip

VALID = [
    'backend = "gloo"\n',
    'print("nccl")\n',
    'backends = {"cuda": "nccl", "npu": "hccl"}\n',
    'path = "nccl"\n',
]
INVALID = [
    (
        'import torch\nimport torch.distributed as dist\n\ndist.init_process_group("nccl")\n',
        "dist.init_process_group(dist.get_default_backend_for_device(DEVICE))\n",
        'dist.init_process_group("hccl")\n',
    ),
    (
        'import torch\n\ntorch.distributed.init_process_group(backend="nccl", rank=0)\n',
        "torch.distributed.init_process_group(backend=torch.distributed.get_default_backend_for_device(DEVICE), rank=0)\n",
        'torch.distributed.init_process_group(backend="hccl", rank=0)\n',
    ),
    (
        'import torch\n\nbackend = "nccl"\n',
        "backend = torch.distributed.get_default_backend_for_device(DEVICE)\n",
        'backend = "hccl"\n',
    ),
    (
        'import torch\n\nparser.add_argument("--dist-backend", default="nccl")\n',
        'parser.add_argument("--dist-backend", default=torch.distributed.get_default_backend_for_device(DEVICE))\n',
        'parser.add_argument("--dist-backend", default="hccl")\n',
    ),
    (
        'import torch\nimport torch.distributed as dist\n\nassert dist.get_backend() == "nccl"\n',
        "assert dist.get_backend() == dist.get_default_backend_for_device(ACCELERATOR)\n",
        'assert dist.get_backend() == "hccl"\n',
    ),
]


def run(unit: Unit) -> None:
    for node in unit.module.strings:
        if node.value in ("nccl", "cpu:gloo,cuda:nccl", "cuda:nccl,cpu:gloo") and not isinstance(
            unit.module.parent(node), ast.JoinedStr | ast.Expr
        ):
            _port(unit, node)


def _port(unit: Unit, node: ast.Constant) -> None:
    found = _role(unit, node)
    if found is None:
        return unit.leave(
            node,
            NAME,
            "nothing here says for certain that this is a backend of torch.distributed",
            UNSURE,
            str(node.value),
        )
    if unit.f_string(node) is not None or (node.value != "nccl" and unit.target.portable):
        return unit.leave(
            node, NAME, "one backend for each device: name the accelerator's as well", THOUGHT, str(node.value)
        )
    if not unit.target.portable:
        if not unit.target.backend or unit.target.backend == "gloo":
            return unit.leave(node, NAME, f"{unit.target.platform} names no collectives of its own", THOUGHT, "nccl")
        quote = unit.module.of(node)[-1]
        value = str(node.value).replace("nccl", unit.target.backend).replace("cuda", unit.target.device_type)
        unit.replace(node, f"{quote}{value}{quote}", NAME, REASON, "nccl")
        unit.header.needs_backend = unit.header.needs_backend or found == "place"
        return None
    unit.replace(node, _question(unit, found), NAME, REASON, "nccl")
    return None


def _question(unit: Unit, found: str) -> str:
    place = unit.header.device() if found == "place" else unit.header.accelerator()
    own = unit.module.bound_to("torch.distributed")
    return f"{own or unit.header.torch_name() + '.distributed'}.get_default_backend_for_device({place})"


def _role(unit: Unit, node: ast.expr) -> str | None:
    """ "place" where a group is made with it, "name" where it is compared, None where it may be anything."""
    parent = unit.module.parent(node)
    if isinstance(parent, ast.keyword):
        call = unit.module.parent(parent)
        if parent.arg in ("default", "choices") and isinstance(call, ast.Call):
            flags = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            return "place" if any(_BACKEND_NAME.match(flag.lstrip("-").replace("-", "_")) for flag in flags) else None
        return "place" if _BACKEND_NAME.match(parent.arg or "") else None
    if isinstance(parent, ast.Call) and node in parent.args:
        position = _CALLS.get(unit.module.qualified(parent.func) or "")
        return "place" if position == parent.args.index(node) else None
    if isinstance(parent, ast.IfExp) and parent.test is not node:
        return _role(unit, parent)
    if isinstance(parent, ast.Assign | ast.AnnAssign | ast.NamedExpr):
        targets = parent.targets if isinstance(parent, ast.Assign) else [parent.target]
        return "place" if any(_is_backend(target) for target in targets) else None
    if isinstance(parent, ast.Compare) and len(parent.ops) == 1:
        other = parent.comparators[0] if parent.left is node else parent.left
        return "name" if _is_backend(other) else None
    if isinstance(parent, ast.arguments):
        return "place" if _BACKEND_NAME.match(_parameter(parent, node) or "") else None
    if isinstance(parent, ast.List | ast.Tuple):
        words = {e.value for e in parent.elts if isinstance(e, ast.Constant) and isinstance(e.value, str)}
        above = unit.module.parent(parent)
        if words <= {"nccl", "gloo", "mpi", "ucc"}:
            return _role(unit, parent) if isinstance(above, ast.keyword | ast.Compare | ast.Assign) else None
    if isinstance(parent, ast.Dict):
        return _in_dict(parent, node)
    return None


def _in_dict(parent: ast.Dict, node: ast.expr) -> str | None:
    keys = [k.value for k in parent.keys if isinstance(k, ast.Constant) and isinstance(k.value, str)]
    if node in parent.keys or set(keys) & OTHER_ACCELERATORS:
        return None
    key = parent.keys[parent.values.index(node)]
    return "place" if isinstance(key, ast.Constant) and _BACKEND_NAME.match(str(key.value)) else None


def _parameter(arguments: ast.arguments, node: ast.expr) -> str | None:
    from anychip.port.devices import parameter_of_default

    return parameter_of_default(arguments, node)


def _is_backend(node: ast.expr) -> bool:
    if isinstance(node, ast.Name):
        return bool(_BACKEND_NAME.match(node.id))
    if isinstance(node, ast.Attribute):
        return bool(_BACKEND_NAME.match(node.attr))
    if isinstance(node, ast.Call):
        name = (
            node.func.attr
            if isinstance(node.func, ast.Attribute)
            else node.func.id
            if isinstance(node.func, ast.Name)
            else ""
        )
        return name == "get_backend" or (
            name in ("lower", "str") and isinstance(node.func, ast.Attribute) and _is_backend(node.func.value)
        )
    return False
