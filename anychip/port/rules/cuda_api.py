"""torch.cuda.X, by the table of this package (portable.csv) or by the chip's own (the standard's apis/).

Portable: is_available, device_count, set_device and current_device have their twins in torch.accelerator; what has none is
reached through torch.get_device_module(ACCELERATOR), which on CUDA is torch.cuda itself, so nothing changes there. What
means nothing on other chips (compute capability, NVTX, NVML, CUDA graphs) is left, with the reason.
"""

import ast

from anychip.port.devices import NAME_AT, OBJECT, role
from anychip.port.edits import THOUGHT
from anychip.port.rules.amp import _OLD as AMP_NAMES
from anychip.port.target import SUBMODULES
from anychip.port.unit import Unit

NAME = "cuda-api"
PORTABLE_REASON = {
    "accelerator": "torch.accelerator answers for whichever accelerator is here",
    "module": "the module of the accelerator that is here; on CUDA that is torch.cuda",
    "device": "the module of where work goes, which on the CPU has nothing to wait for",
    "torch": "the same class under its general name",
}
# Where a type is named, the class of all devices will do: torch.cuda.Stream is one of its subclasses.
GENERAL_TYPES = {"Stream": "Stream", "Event": "Event"}

VALID = [
    "from numba import cuda\n\ncuda.synchronize()\n",
    "def f(torch):\n    return torch.cuda.is_available()\n",
    "import torch\n\n# torch.cuda.synchronize()\n",
    "import torch\n\nprint('torch.cuda.synchronize()')\n",
    "cuda = config.cuda\ncuda.synchronize()\n",
]
INVALID = [
    (
        "import torch\n\nif torch.cuda.is_available():\n    pass\n",
        "if torch.accelerator.is_available():\n    pass\n",
        "if torch.npu.is_available():\n    pass\n",
    ),
    (
        "import torch as th\n\nn = th.cuda.device_count()\n",
        "n = th.accelerator.device_count()\n",
        "n = th.npu.device_count()\n",
    ),
    (
        "import torch\n\ntorch.cuda.set_device(rank)\n",
        "torch.accelerator.set_device_index(rank)\n",
        "torch.npu.set_device(rank)\n",
    ),
    (
        "import torch\n\ntorch.cuda.manual_seed_all(1)\n",
        "torch.get_device_module(ACCELERATOR).manual_seed_all(1)\n",
        "torch.npu.manual_seed_all(1)\n",
    ),
    (
        "import torch\n\nx = torch.zeros(2, device=torch.cuda.current_device())\n",
        "x = torch.zeros(2, device=DEVICE)\n",
        'x = torch.zeros(2, device="npu")\n',
    ),
    (
        "from torch import cuda\n\ncuda.empty_cache()\n",
        "torch.get_device_module(ACCELERATOR).empty_cache()\n",
        "torch.npu.empty_cache()\n",
    ),
    (
        "from torch.cuda import synchronize\n\nsynchronize()\n",
        "torch.get_device_module(DEVICE).synchronize()\n",
        "torch.npu.synchronize()\n",
    ),
    (
        "import torch\n\ntry:\n    f()\nexcept torch.cuda.OutOfMemoryError:\n    pass\n",
        "except torch.OutOfMemoryError:\n    pass\n",
        "except torch.OutOfMemoryError:\n    pass\n",
    ),
    (
        "import torch\n\ndef f(s: torch.cuda.Stream) -> None:\n    pass\n",
        "def f(s: torch.Stream) -> None:\n    pass\n",
        "def f(s: torch.npu.Stream) -> None:\n    pass\n",
    ),
    (
        "import torch\n\nprint(f'{torch.cuda.device_count()} of them')\n",
        "print(f'{torch.accelerator.device_count()} of them')\n",
        "print(f'{torch.npu.device_count()} of them')\n",
    ),
]


def run(unit: Unit) -> None:
    for chain, whole in unit.module.uses:
        found = _symbol(chain, whole)
        if found is not None:
            _port(unit, *found)


def _symbol(chain: ast.expr, whole: str) -> tuple[ast.expr, str] | None:
    """(the node that is torch.cuda.<symbol>, symbol); symbol "" for torch.cuda itself. None for anything else."""
    if not (whole == "torch.cuda" or whole.startswith("torch.cuda.")) or whole in AMP_NAMES:
        return None
    parts = whole.split(".")[2:]
    wanted = parts[:2] if parts and parts[0] in SUBMODULES else parts[:1]
    node = chain
    for _ in parts[len(wanted) :]:
        if not isinstance(node, ast.Attribute):
            return None
        node = node.value
    return node, ".".join(wanted)


def _port(unit: Unit, node: ast.expr, symbol: str) -> None:
    if _is_stored(node):
        return unit.leave(node, NAME, "is assigned to: the program replaces a part of torch.cuda itself", THOUGHT)
    if unit.scripted(node):
        unit.unsure(node, NAME)
        return None
    if not symbol:
        return _bare(unit, node)
    call = unit.module.parent(node)
    called = isinstance(call, ast.Call) and call.func is node
    if symbol == "current_device" and called and _is_place(unit, call):
        unit.replace(
            call,
            unit.header.device(),
            NAME,
            "the current device of the accelerator that is here",
            f"torch.cuda.{symbol}",
        )
        return None
    spelling = unit.target.spelling(symbol)
    if unit.target.portable and symbol in GENERAL_TYPES and _is_type(unit, node):
        unit.replace(node, f"{unit.header.torch_name()}.{GENERAL_TYPES[symbol]}", NAME, PORTABLE_REASON["torch"])
        return None
    if not spelling.written:
        return unit.leave(node, NAME, spelling.note, spelling.kind, f"torch.cuda.{symbol}")
    reason = PORTABLE_REASON.get(spelling.form, spelling.note or f"{unit.target.platform}'s twin of torch.cuda")
    unit.replace(node, unit.header.fill(spelling.words), NAME, reason, f"torch.cuda.{symbol}")
    return None


def _is_stored(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute | ast.Name) and not isinstance(node.ctx, ast.Load)


def _bare(unit: Unit, node: ast.expr) -> None:
    """torch.cuda as a value: `device_module = torch.cuda`, getattr(torch.cuda, name)."""
    if not unit.target.portable:
        if not unit.target.module:
            return unit.leave(node, NAME, f"{unit.target.platform} has no module like torch.cuda", THOUGHT)
        unit.replace(
            node,
            unit.target.module.replace("torch", unit.header.torch_name(), 1),
            NAME,
            "the plug-in's twin of torch.cuda",
        )
        return None
    if isinstance(unit.module.parent(node), ast.Attribute):
        return None
    unit.replace(node, unit.header.fill("torch.get_device_module({accelerator})"), NAME, PORTABLE_REASON["module"])
    return None


def _is_place(unit: Unit, call: ast.AST) -> bool:
    assert isinstance(call, ast.expr)
    parent = unit.module.parent(call)
    if isinstance(parent, ast.Call) and unit.module.qualified(parent.func) == "torch.device":
        return False
    return (
        role(unit.module, call) == OBJECT
        and NAME_AT.get(unit.module.qualified(getattr(parent, "func", None)) or "") is None
    )


def _is_type(unit: Unit, node: ast.expr) -> bool:
    """In an annotation, or the second argument of isinstance."""
    child: ast.AST = node
    for up in unit.module.ancestors(node):
        if isinstance(up, ast.arg) or (isinstance(up, ast.AnnAssign) and up.annotation is child):
            return True
        if isinstance(up, ast.FunctionDef | ast.AsyncFunctionDef):
            return up.returns is child
        if isinstance(up, ast.Call):
            return isinstance(up.func, ast.Name) and up.func.id == "isinstance" and up.args[0] is not child
        if isinstance(up, ast.stmt):
            return False
        child = up
    return False
