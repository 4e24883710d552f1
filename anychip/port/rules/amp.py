"""torch.cuda.amp is torch.amp with the device type "cuda" fixed. torch.amp takes it as its first argument.

`autocast(use_amp)` had `enabled` first and has it by name now. torch.amp.GradScaler() without a device means CUDA as well.
torch.get_autocast_gpu_dtype() and torch.is_autocast_enabled() name no device and mean CUDA.
"""

import ast

from anychip.port.edits import UNSURE
from anychip.port.unit import Unit

NAME = "amp"
REASON = "torch.amp takes the device type; torch.cuda.amp is CUDA's alone and deprecated"
_NAMES = ("autocast", "GradScaler", "custom_fwd", "custom_bwd")
_OLD = {
    f"torch.cuda.amp.{inner}{name}": name
    for name in _NAMES
    for inner in ("", "autocast_mode.", "grad_scaler.", "common.")
}
# torch functions that mean CUDA where no device type is given -> what to call instead
_SILENT = {
    "torch.amp.GradScaler": None, "torch.GradScaler": None, "torch.is_autocast_enabled": None,
    "torch.get_autocast_gpu_dtype": "get_autocast_dtype", "torch.set_autocast_gpu_dtype": "set_autocast_dtype",
}  # fmt: skip
_AUTOCAST_POSITIONAL = ("enabled", "dtype", "cache_enabled")

VALID = [
    "import torch\n\nwith torch.autocast(device_type=kind):\n    pass\n",
    "from other.amp import autocast\n\nwith autocast():\n    pass\n",
    "import torch\n\nscaler = torch.amp.GradScaler(kind)\n",
]
INVALID = [
    (
        "import torch\n\nwith torch.cuda.amp.autocast():\n    pass\n",
        "with torch.amp.autocast(ACCELERATOR):\n    pass\n",
        'with torch.amp.autocast("npu"):\n    pass\n',
    ),
    (
        "import torch\nfrom torch.cuda.amp import autocast, GradScaler\n\nscaler = GradScaler(enabled=use)\nwith autocast(use):\n    pass\n",
        'from torch.amp import autocast, GradScaler\n\nACCELERATOR = getattr(torch.accelerator.current_accelerator(), "type", "cuda")\n\nscaler = GradScaler(ACCELERATOR, enabled=use)\nwith autocast(ACCELERATOR, enabled=use):\n    pass\n',
        'from torch.amp import autocast, GradScaler\nimport torch_npu\n\nscaler = GradScaler("npu", enabled=use)\nwith autocast("npu", enabled=use):\n    pass\n',
    ),
    (
        "import torch\n\nscaler = torch.amp.GradScaler()\n",
        "scaler = torch.amp.GradScaler(ACCELERATOR)\n",
        'scaler = torch.amp.GradScaler("npu")\n',
    ),
    (
        "import torch\n\nkind = torch.get_autocast_gpu_dtype()\n",
        "kind = torch.get_autocast_dtype(ACCELERATOR)\n",
        'kind = torch.get_autocast_dtype("npu")\n',
    ),
    (
        "import torch\n\n@torch.cuda.amp.custom_fwd\ndef f(ctx, x):\n    return x\n",
        "@torch.amp.custom_fwd(device_type=ACCELERATOR)\ndef f(ctx, x):\n    return x\n",
        '@torch.amp.custom_fwd(device_type="npu")\ndef f(ctx, x):\n    return x\n',
    ),
]


def run(unit: Unit) -> None:
    imported = _imports(unit)
    for node, name in unit.module.uses:
        if name in _OLD:
            _port(unit, node, _OLD[name], name)
        elif name in _SILENT:
            _name_device(unit, node, _SILENT[name])
    for statement in imported:
        _move_import(unit, statement)


def _imports(unit: Unit) -> list[ast.ImportFrom]:
    """`from torch.cuda.amp import autocast`, where all that it imports is in torch.amp too."""
    found = []
    for node in unit.module.found.imports:
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("torch.cuda.amp"):
            if all(alias.name in _NAMES for alias in node.names):
                found.append(node)
            else:
                unit.leave(node, NAME, "imports more than torch.amp has", UNSURE, f"from {node.module}")
    return found


def _move_import(unit: Unit, node: ast.ImportFrom) -> None:
    start = unit.module.start(node)
    end = start + len("from ") + len(node.module or "")
    if unit.module.slice(start, end) == f"from {node.module}":
        unit.change([(start, end, "from torch.amp")], NAME, REASON, f"from {node.module}")


def _is_imported(unit: Unit, node: ast.expr) -> bool:
    """Whether the name comes from an import that is moved as a whole, so that only its call changes."""
    return isinstance(node, ast.Name)


def _port(unit: Unit, node: ast.expr, name: str, symbol: str) -> None:
    source, parent = unit.module, unit.module.parent(node)
    pieces: list[tuple[int, int, str]] = []
    if not _is_imported(unit, node):
        pieces.append((source.start(node), source.end(node), f"{_base(unit, node)}.amp.{name}"))
    if isinstance(parent, ast.Call) and parent.func is node:
        added = _with_device(unit, parent, name)
        if added is None:
            return unit.leave(node, NAME, "its arguments are not written out", UNSURE, symbol)
        pieces += added
    elif _is_partial(unit, parent, node):
        pieces.append((source.end(node), source.end(node), f", {unit.header.accelerator()}"))
    elif name in ("custom_fwd", "custom_bwd") and _is_decorator(parent, node):
        pieces.append((source.end(node), source.end(node), f"(device_type={unit.header.accelerator()})"))
    else:
        return unit.leave(
            node, NAME, "is handed on without a call, so that no device type can be added", UNSURE, symbol
        )
    unit.change(pieces, NAME, REASON, symbol)
    return None


def _base(unit: Unit, node: ast.expr) -> str:
    """torch as the expression itself calls it, where it begins with it."""
    root = node
    while isinstance(root, ast.Attribute):
        root = root.value
    if isinstance(root, ast.Name) and unit.module.qualified(root) == "torch":
        return root.id
    return unit.header.torch_name()


def _with_device(unit: Unit, call: ast.Call, name: str) -> list[tuple[int, int, str]] | None:
    if any(isinstance(argument, ast.Starred) for argument in call.args) and name == "autocast":
        return None
    said = unit.header.accelerator()
    if name in ("custom_fwd", "custom_bwd"):
        at = unit.open_paren(call)
        return (
            None
            if at is None
            else [(at, at, f"device_type={said}" + (", " if call.args or call.keywords else ""))]
            if not call.args
            else None
        )
    first = unit.insert_argument(call, said)
    if first is None:
        return None
    pieces = [first]
    if name == "autocast":
        for argument, keyword in zip(call.args, _AUTOCAST_POSITIONAL, strict=False):
            start = unit.module.start(argument)
            pieces.append((start, start, f"{keyword}="))
    return _merged(pieces)


def _merged(pieces: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Insertions at one place as one, so that their order is certain."""
    merged: dict[tuple[int, int], str] = {}
    for start, end, text in pieces:
        merged[start, end] = merged.get((start, end), "") + text
    return [(start, end, text) for (start, end), text in merged.items()]


def _is_partial(unit: Unit, parent: ast.AST, node: ast.expr) -> bool:
    return (
        isinstance(parent, ast.Call)
        and parent.args[:1] == [node]
        and unit.module.qualified(parent.func) == "functools.partial"
    )


def _is_decorator(parent: ast.AST, node: ast.expr) -> bool:
    return isinstance(parent, ast.FunctionDef) and node in parent.decorator_list


def _name_device(unit: Unit, node: ast.expr, renamed: str | None) -> None:
    """A function that means CUDA without saying so: name the device, if none is named."""
    call = unit.module.parent(node)
    if not isinstance(call, ast.Call) or call.func is not node:
        return
    takes_device_first = renamed != "set_autocast_dtype"
    if takes_device_first and (call.args or any(k.arg in ("device", "device_type", None) for k in call.keywords)):
        return
    first = unit.insert_argument(call, unit.header.accelerator())
    if first is None or unit.f_string(node) is not None:
        return
    source, pieces = unit.module, [first]
    if renamed:
        if not isinstance(node, ast.Attribute):
            return unit.leave(node, NAME, "imported by name", UNSURE)
        pieces.append((source.end(node) - len(node.attr), source.end(node), renamed))
    unit.change(pieces, NAME, "without a device type it means CUDA", source.of(node))
    return None
