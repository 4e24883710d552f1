"""Legacy tensor types of CUDA: torch.cuda.FloatTensor(...), x.type("torch.cuda.FloatTensor"), the default tensor type.

A call that names sizes or elements becomes torch.empty or torch.tensor with a dtype and a device. torch.cuda.DoubleTensor
becomes float64, never less. What cannot be told apart (an array or a size in a variable) is left.
"""

import ast
import re

from anychip.port.edits import THOUGHT, UNSURE
from anychip.port.unit import Unit

NAME = "legacy-tensor"
REASON = "legacy tensor types exist on CUDA only: a dtype and a device say the same"
DTYPES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64",
    "Int": "int32", "Short": "int16", "Byte": "uint8", "Char": "int8", "Bool": "bool",
}  # fmt: skip
_TYPE = re.compile(r"torch\.cuda\.([A-Z][A-Za-z0-9]*)Tensor\Z")

VALID = ["import torch\n\nx = torch.FloatTensor(3)\n", 'print("torch.cuda.FloatTensor")\n']
INVALID = [
    (
        "import torch\n\nx = torch.cuda.FloatTensor(2, 3)\n",
        "x = torch.empty(2, 3, dtype=torch.float32, device=DEVICE)\n",
        'x = torch.empty(2, 3, dtype=torch.float32, device="npu")\n',
    ),
    (
        "import torch\n\nx = torch.cuda.DoubleTensor([1, 2])\n",
        "x = torch.tensor([1, 2], dtype=torch.float64, device=DEVICE)\n",
        'x = torch.tensor([1, 2], dtype=torch.float64, device="npu")\n',
    ),
    (
        "import torch\n\nx = y.type(torch.cuda.LongTensor)\n",
        "x = y.to(DEVICE, torch.int64)\n",
        'x = y.to("npu", torch.int64)\n',
    ),
    (
        "import torch\n\nx = y.type('torch.cuda.HalfTensor')\n",
        "x = y.to(DEVICE, torch.float16)\n",
        'x = y.to("npu", torch.float16)\n',
    ),
    (
        "import torch\n\nif True:\n    torch.set_default_tensor_type('torch.cuda.FloatTensor')\n",
        "if True:\n    torch.set_default_dtype(torch.float32)\n    torch.set_default_device(DEVICE)\n",
        'if True:\n    torch.set_default_dtype(torch.float32)\n    torch.set_default_device("npu")\n',
    ),
]


def run(unit: Unit) -> None:
    for call in unit.module.calls:
        callee = unit.module.qualified(call.func)
        if (
            isinstance(call.func, ast.Attribute)
            and call.func.attr == "type"
            and len(call.args) == 1
            and not call.keywords
        ):
            _cast(unit, call, call.func)
        elif callee == "torch.set_default_tensor_type" and len(call.args) == 1:
            _default(unit, call)
        elif callee is not None and _dtype(callee) is not None:
            _construct(unit, call, callee)


def _dtype(name: str | None) -> str | None:
    found = _TYPE.match(name or "")
    return DTYPES.get(found[1]) if found else None


def _named(unit: Unit, node: ast.expr) -> str | None:
    """float32 for torch.cuda.FloatTensor, as a class or in words."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _dtype(node.value)
    return _dtype(unit.module.qualified(node))


def _cast(unit: Unit, call: ast.Call, func: ast.Attribute) -> None:
    dtype = _named(unit, call.args[0])
    if dtype is None:
        return
    if unit.f_string(call) is not None:
        unit.unsure(call, NAME)
        return
    source, header = unit.module, unit.header
    end = source.end(func)
    argument = call.args[0]
    unit.change(
        [
            (end - len("type"), end, "to"),
            (source.start(argument), source.end(argument), f"{header.device()}, {header.torch_name()}.{dtype}"),
        ],
        NAME, REASON, f".type({dtype})",
    )  # fmt: skip


def _default(unit: Unit, call: ast.Call) -> None:
    dtype, statement = _named(unit, call.args[0]), unit.module.parent(call)
    if dtype is None:
        return
    source, header = unit.module, unit.header
    line = source.line(call.lineno)
    indent = line[: len(line) - len(line.lstrip())]
    alone = isinstance(statement, ast.Expr) and source.of(statement) == line.strip().split("#")[0].rstrip()
    if not alone:
        return unit.leave(call, NAME, "shares its line with other statements", UNSURE)
    torch = header.torch_name()
    unit.replace(
        call,
        f"{torch}.set_default_dtype({torch}.{dtype})\n{indent}{torch}.set_default_device({header.device()})",
        NAME,
        REASON,
        "set_default_tensor_type",
    )
    return None


def _construct(unit: Unit, call: ast.Call, callee: str) -> None:
    dtype, header, source = _dtype(callee), unit.header, unit.module
    made = _maker(call)
    opened = unit.open_paren(call)
    if made is None or opened is None or unit.f_string(call) is not None:
        return unit.leave(
            call, NAME, "its argument may be a size or the elements: torch.empty or torch.tensor", THOUGHT, callee
        )
    torch = header.torch_name()
    last = source.end(call.args[-1]) if call.args else opened
    lead = ", " if call.args else "0, "
    unit.change(
        [
            (source.start(call.func), source.end(call.func), f"{torch}.{made}"),
            (last, last, f"{lead}dtype={torch}.{dtype}, device={header.device()}"),
        ],
        NAME, REASON, callee,
    )  # fmt: skip
    return None


def _maker(call: ast.Call) -> str | None:
    """empty for sizes, tensor for elements, None where the argument may be either."""
    if call.keywords or any(isinstance(argument, ast.Starred) for argument in call.args):
        return None
    if len(call.args) != 1:
        return "empty"
    only = call.args[0]
    if isinstance(only, ast.List | ast.Tuple | ast.ListComp):
        return "tensor"
    return "empty" if isinstance(only, ast.Constant) and type(only.value) is int else None
