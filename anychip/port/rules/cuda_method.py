"""`x.cuda()` puts a tensor or a module on a CUDA device. Portable code says `x.to(DEVICE)`.

An index becomes `torch.device(DEVICE.type, index)`, which takes None as .cuda() does. A class of the project that has a
method cuda() of its own and no to() is left alone. A storage, as `map_location` is given, takes `device=` by its name.
"""

import ast
import re

from anychip.port.devices import DEVICE_NAME, DEVICE_STRING
from anychip.port.edits import UNSURE
from anychip.port.unit import Unit

NAME = "cuda-method"
REASON = ".to() moves to any device; .cuda() only to CUDA"
INDEX_NAME = re.compile(
    r"(?:.*_)?(?:rank|gpu|gpus|gpu_?id|gpu_?index|index|idx|id|i|local_rank|device_id|device_idx|device_index|dev_id)\d*\Z",
    re.I,
)

VALID = [
    "args.cuda\n",
    "use = args.cuda and torch.cuda.is_available() if False else None\n",
    "# model.cuda()\n",
    '"""model.cuda()"""\n',
    "def cuda(x):\n    return x\n\ncuda(1)\n",
]
INVALID = [
    ("import torch\n\nx = y.cuda()\n", "x = y.to(DEVICE)\n", 'x = y.to("npu")\n'),
    (
        "import torch\n\nx = y.cuda(non_blocking=True)  # fast\n",
        "x = y.to(DEVICE, non_blocking=True)  # fast\n",
        'x = y.to("npu", non_blocking=True)  # fast\n',
    ),
    (
        "import torch\n\nx = y.cuda(1)\n",
        "x = y.to(torch.device(DEVICE.type, 1))\n",
        'x = y.to(torch.device("npu", 1))\n',
    ),
    (
        "import torch\n\nx = y.cuda(args.gpu)\n",
        "x = y.to(torch.device(DEVICE.type, args.gpu))\n",
        'x = y.to(torch.device("npu", args.gpu))\n',
    ),
    ("import torch\n\nx = y.cuda(device)\n", "x = y.to(device)\n", "x = y.to(device)\n"),
    (
        "import torch\n\nx = torch.load(p, map_location=lambda s, l: s.cuda(0))\n",
        "x = torch.load(p, map_location=lambda s, l: s.to(device=torch.device(DEVICE.type, 0)))\n",
        'x = torch.load(p, map_location=lambda s, l: s.to(device=torch.device("npu", 0)))\n',
    ),
    (
        "import torch\n\ndef there(s, l):\n    return s.cuda()\n\nx = torch.load(p, there)\n",
        "def there(s, l):\n    return s.to(device=DEVICE)\n\nx = torch.load(p, there)\n",
        'def there(s, l):\n    return s.to(device="npu")\n\nx = torch.load(p, there)\n',
    ),
    (
        "import torch\n\nx = y.a().cuda().b().cuda()\n",
        "x = y.a().to(DEVICE).b().to(DEVICE)\n",
        'x = y.a().to("npu").b().to("npu")\n',
    ),
]


def run(unit: Unit) -> None:
    for call in unit.module.calls:
        func = call.func
        if isinstance(func, ast.Attribute) and func.attr == "cuda" and not _is_module(unit, func):
            _port(unit, call, func)


def _is_module(unit: Unit, func: ast.Attribute) -> bool:
    """torch.cuda or numba.cuda called as a function: no method."""
    return unit.module.qualified(func) in ("torch.cuda", "numba.cuda", "cupy.cuda", "triton.language.extra.cuda")


def _port(unit: Unit, call: ast.Call, func: ast.Attribute) -> None:
    storage = _is_storage(unit, func.value)
    if unit.own_cuda and not storage and not _is_surely_torch(unit, func.value):
        where = next(iter(unit.own_cuda.values()))
        return unit.leave(
            call, NAME, f"{where} has a method cuda() of its own, and no to(): this may be one", UNSURE, ".cuda()"
        )
    if unit.f_string(call) is not None or unit.scripted(call):
        unit.unsure(call, NAME, ".cuda()")
        return None
    destination = _destination(unit, call)
    opened, source = unit.open_paren(call), unit.module
    name_end = source.end(func)
    if destination is None or opened is None or source.slice(name_end - 4, name_end) != "cuda":
        return unit.leave(
            call, NAME, "what it is moved to is not certain: a device, or the number of one", UNSURE, ".cuda()"
        )
    if storage:  # its to() takes keywords alone
        destination = f"device={destination}"
    pieces = [(name_end - 4, name_end, "to")]
    rest = [*call.args[1:], *[k for k in call.keywords if k.arg != "device"]]
    given = _device_argument(call)
    if given is not None:
        node: ast.AST = next((k for k in call.keywords if k.value is given), given)
        pieces.append((source.start(node), source.end(node), destination))
    else:
        pieces.append((opened, opened, destination + (", " if rest else "")))
    for extra in call.args[1:]:  # .cuda(0, True): to() takes a dtype there
        pieces.append((source.start(extra), source.start(extra), "non_blocking="))
    unit.change(pieces, NAME, REASON, ".cuda()")
    return None


def _is_storage(unit: Unit, node: ast.expr) -> bool:
    """The first parameter of a function that says where torch.load puts a storage."""
    if not isinstance(node, ast.Name):
        return False
    for up in unit.module.ancestors(node):
        if isinstance(up, ast.Lambda | ast.FunctionDef):
            names = [one.arg for one in up.args.args]
            if node.id in names:
                return names[0] == node.id and len(names) == 2 and (isinstance(up, ast.Lambda) or _maps(unit, up.name))
    return False


def _maps(unit: Unit, name: str) -> bool:
    """Whether a function of that name is given as a `map_location`."""
    given = [keyword.value for call in unit.module.calls for keyword in call.keywords if keyword.arg == "map_location"]
    given += [
        call.args[1] for call in unit.module.calls if unit.module.qualified(call.func) == "torch.load" and call.args[1:]
    ]
    return any(isinstance(one, ast.Name) and one.id == name for one in given)


def _device_argument(call: ast.Call) -> ast.expr | None:
    return call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "device"), None)


def _destination(unit: Unit, call: ast.Call) -> str | None:
    """What to() is given for what cuda() was given; None where it is not known which of the two it is."""
    given, header = _device_argument(call), unit.header
    if given is None or (isinstance(given, ast.Constant) and given.value is None):
        return header.device()
    if isinstance(given, ast.Starred):
        return None
    if unit.module.qualified(given.func if isinstance(given, ast.Call) else None) == "torch.cuda.current_device":
        return header.device()
    if isinstance(given, ast.Constant) and isinstance(given.value, str):
        found = DEVICE_STRING.match(given.value)
        if found is None:
            return None
        return (
            header.device() if found[1] is None else f"{header.torch_name()}.device({header.device_type()}, {found[1]})"
        )
    name = _last_name(given)
    if name is None or not (_is_index(given, name) or DEVICE_NAME.match(name)):
        return None
    text = unit.module.of(given)
    if _is_index(given, name):
        return f"{header.torch_name()}.device({header.device_type()}, {text})"
    return None if _may_be_none(unit, given) else text


def _is_index(given: ast.expr, name: str) -> bool:
    return (isinstance(given, ast.Constant) and type(given.value) is int) or bool(INDEX_NAME.match(name))


def _last_name(node: ast.expr) -> str | None:
    """gpu of args.gpu, device of self.device, rank of dist.get_rank(), gpu_ids of gpu_ids[0]."""
    if isinstance(node, ast.Constant):
        return "" if type(node.value) is int else None
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Call):
        name = _last_name(node.func)
        return name.removeprefix("get_") if name and INDEX_NAME.match(name.removeprefix("get_")) else None
    if isinstance(node, ast.Subscript):
        name = _last_name(node.value)
        return name.rstrip("s") if name else None
    return None


def _may_be_none(unit: Unit, given: ast.expr) -> bool:
    """A parameter with default None: cuda(None) moves, and to(None) does not."""
    function = unit.module.function_of(given)
    if function is None or not isinstance(given, ast.Name):
        return False
    arguments = function.args
    with_default = [*arguments.posonlyargs, *arguments.args][-len(arguments.defaults) or 10**6 :]
    defaults = [
        *zip(with_default, arguments.defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return any(p.arg == given.id and isinstance(d, ast.Constant) and d.value is None for p, d in defaults)


def _is_surely_torch(unit: Unit, node: ast.expr) -> bool:
    """A call of torch, or a method of one's result."""
    while isinstance(node, ast.Call | ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Call) and (unit.module.qualified(node.func) or "").startswith("torch."):
            return True
        node = node.func if isinstance(node, ast.Call) else node.value
    return False
