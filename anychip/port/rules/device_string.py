"""Strings that name a CUDA device: "cuda", "cuda:0", f"cuda:{rank}", torch.device("cuda").

Where work goes there they become DEVICE or its type; where they are compared or named, ACCELERATOR, which is never the
CPU. A string whose place does not say that it is a device is left: a folder may be called cuda as well.
"""

import ast
import re

from anychip.port.devices import DEVICE_STRING, NAME, OBJECT, device_strings, role
from anychip.port.edits import KERNEL, THOUGHT, UNSURE
from anychip.port.header import is_own
from anychip.port.unit import Unit

RULE = "device-string"
REASON = "the accelerator that is here, not CUDA by name"
_OPENING = re.compile(r"""([A-Za-z]{0,2})('''|\"\"\"|'|")(cuda)""")

VALID = [
    'path = os.path.join("csrc", "cuda")\n',
    'impl = "cuda"\nif impl == "cuda":\n    pass\n',
    '"""Runs on cuda."""\n',
    'print("cuda")\n',
    'if device == "cuda":\n    a()\nelif device == "mps":\n    b()\n',
    'backends = {"cuda": "nccl", "npu": "hccl"}\n',
    'name = f"cuda/{file}"\n',
    'kind, impl = "fast", "cuda"\n',
]
INVALID = [
    (
        'import torch\n\ndevice, dtype = "cuda", torch.float16\n',
        "device, dtype = DEVICE.type, torch.float16\n",
        'device, dtype = "npu", torch.float16\n',
    ),
    ('import torch\n\ndevice = torch.device("cuda")\n', "device = DEVICE\n", 'device = torch.device("npu")\n'),
    (
        'import torch\n\ndevice = torch.device("cuda:1")\n',
        "device = torch.device(DEVICE.type, 1)\n",
        'device = torch.device("npu:1")\n',
    ),
    (
        'import torch\n\ndevice = torch.device("cuda", rank)\n',
        "device = torch.device(DEVICE.type, rank)\n",
        'device = torch.device("npu", rank)\n',
    ),
    ('import torch\n\nx = x.to("cuda")\n', "x = x.to(DEVICE)\n", 'x = x.to("npu")\n'),
    (
        "import torch\n\nx = torch.zeros(3, device='cuda:0')\n",
        "x = torch.zeros(3, device=torch.device(DEVICE.type, 0))\n",
        "x = torch.zeros(3, device='npu:0')\n",
    ),
    ('import torch\n\ndevice = f"cuda:{rank}"\n', 'device = f"{DEVICE.type}:{rank}"\n', 'device = f"npu:{rank}"\n'),
    (
        'import torch\n\nif x.device.type == "cuda":\n    pass\n',
        "if x.device.type == ACCELERATOR:\n    pass\n",
        'if x.device.type == "npu":\n    pass\n',
    ),
    (
        'import torch\n\nkind = "cuda" if "cuda" in device else "cpu"\ntorch.autocast(kind)\n',
        'kind = DEVICE.type if ACCELERATOR in device else "cpu"\ntorch.autocast(kind)\n',
        'kind = "npu" if "npu" in device else "cpu"\ntorch.autocast(kind)\n',
    ),
    (
        'import torch\n\nparser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])\n',
        'parser.add_argument("--device", default=DEVICE.type, choices=["cpu", ACCELERATOR])\n',
        'parser.add_argument("--device", default="npu", choices=["cpu", "npu"])\n',
    ),
    (
        'import torch\n\nwhere = "cuda:" + str(rank)\nx.to(where)\n',
        'where = DEVICE.type + ":" + str(rank)\nx.to(where)\n',
        'where = "npu:" + str(rank)\nx.to(where)\n',
    ),
    (
        'import torch\n\nclass T:\n    def f(self, device):\n        pass\n\n    def g(self):\n        self.f("cuda")\n',
        "class T:\n    def f(self, device):\n        pass\n\n    def g(self):\n        self.f(DEVICE.type)\n",
        'class T:\n    def f(self, device):\n        pass\n\n    def g(self):\n        self.f("npu")\n',
    ),
    (
        'import torch\n\nx.to(os.getenv("DEVICE", "cuda"))\n',
        'x.to(os.getenv("DEVICE", DEVICE.type))\n',
        'x.to(os.getenv("DEVICE", "npu"))\n',
    ),
    (
        'import torch\n\nwith torch.autocast("cuda", dtype=torch.bfloat16):\n    pass\n',
        "with torch.autocast(ACCELERATOR, dtype=torch.bfloat16):\n    pass\n",
        'with torch.autocast("npu", dtype=torch.bfloat16):\n    pass\n',
    ),
]


def run(unit: Unit) -> None:
    for node, found in device_strings(unit.module):
        if is_own(unit.module, node):
            continue
        if found is None:
            _leave(unit, node)
        elif unit.f_string(node) is not None or unit.scripted(node):
            unit.unsure(node, RULE)
        else:
            _port(unit, node, found)
    for string in unit.module.strings:
        _prefix(unit, string)
    for joined in unit.module.found.joined:
        _joined(unit, joined)


def _port(unit: Unit, node: ast.Constant, found: str) -> None:
    index = DEVICE_STRING.match(str(node.value))
    assert index is not None
    parent = unit.module.parent(node)
    if isinstance(parent, ast.Call) and unit.module.qualified(parent.func) == "torch.device" and unit.target.portable:
        _port_device(unit, parent, node, index[1])
    else:
        unit.replace(node, _text(unit, node, found, index[1]), RULE, REASON, str(node.value))


def _text(unit: Unit, node: ast.Constant, found: str, index: str | None) -> str:
    header = unit.header
    if not unit.target.portable:
        quote = unit.module.of(node)[-1]
        kind = header.device_type(quote)
        return kind if index is None else f"{kind[:-1]}:{index}{quote}"
    if found == OBJECT:
        return header.device() if index is None else f"{header.torch_name()}.device({header.device_type()}, {index})"
    kind = header.accelerator() if found == NAME else header.device_type()
    return kind if index is None else f'f"{{{kind}}}:{index}"'


def _port_device(unit: Unit, call: ast.Call, node: ast.Constant, index: str | None) -> None:
    """torch.device("cuda...") itself: DEVICE where it says no more than that."""
    compared = isinstance(unit.module.parent(call), ast.Compare)
    kind = unit.header.accelerator() if compared else unit.header.device_type()
    if index is None and len(call.args) + len(call.keywords) == 1 and not compared:
        unit.replace(call, unit.header.device(), RULE, REASON, "torch.device")
    elif index is None:
        unit.replace(node, kind, RULE, REASON, "torch.device")
    else:
        unit.replace(node, f"{kind}, {index}", RULE, REASON, "torch.device")


def _leave(unit: Unit, node: ast.Constant) -> None:
    parent = unit.module.parent(node)
    if isinstance(parent, ast.Call) and (unit.module.qualified(parent.func) or "").startswith("torch.cuda."):
        return None  # cuda-api tells of the call
    if isinstance(parent, ast.keyword) and parent.arg == "device_types":
        return unit.leave(node, RULE, "the operator's kernel is written for CUDA", KERNEL, str(node.value))
    if isinstance(parent, ast.Compare | ast.Dict | ast.List | ast.Tuple | ast.Set):
        return unit.leave(
            node, RULE, "the program chooses among kinds of device here, or this is none", THOUGHT, str(node.value)
        )
    return unit.leave(node, RULE, "nothing here says for certain that this string is a device", UNSURE, str(node.value))


def _prefix(unit: Unit, node: ast.Constant) -> None:
    """ "cuda:" + str(i), "cuda:%d" % i, "cuda:{}".format(i)."""
    text, parent = str(node.value), unit.module.parent(node)
    if not text.startswith("cuda:") or DEVICE_STRING.match(text) or isinstance(parent, ast.JoinedStr):
        return
    formatted = isinstance(parent, ast.Attribute) and parent.attr == "format"
    whole: ast.AST = unit.module.parent(parent) if formatted else parent
    if not ((formatted and isinstance(whole, ast.Call)) or (isinstance(parent, ast.BinOp) and parent.left is node)):
        return
    assert isinstance(whole, ast.expr)
    found = role(unit.module, whole)
    if found is None or unit.f_string(node) is not None:
        return unit.leave(node, RULE, "nothing here says for certain that this string is a device", UNSURE, text)
    quote = unit.module.of(node)[-1]
    if not unit.target.portable:
        kind = unit.target.device_type
        new = f"{quote}{kind}{text.removeprefix('cuda')}{quote}"
    else:
        kind = unit.header.accelerator() if found == NAME else unit.header.device_type()
        new = f"{kind} + {quote}{text.removeprefix('cuda')}{quote}"
        new = f"({new})" if formatted else new
    unit.replace(node, new, RULE, REASON, text)
    return None


def _joined(unit: Unit, node: ast.JoinedStr) -> None:
    first = node.values[0] if node.values else None
    if (
        not isinstance(first, ast.Constant)
        or not str(first.value).startswith("cuda:")
        or isinstance(unit.module.parent(node), ast.FormattedValue)
    ):
        return
    found = role(unit.module, node)
    source = unit.module
    opening = _OPENING.match(source.of(node))
    if found is None or opening is None or "f" not in opening[1].lower() or unit.f_string(node) is not None:
        return unit.leave(
            node, RULE, "nothing here says for certain that this string is a device", UNSURE, str(first.value)
        )
    if not unit.target.portable:
        kind = unit.target.device_type
    else:
        kind = "{" + (unit.header.accelerator() if found == NAME else unit.header.device_type()) + "}"
    if opening[2] in kind or "'" in kind:
        return unit.leave(node, RULE, "an f-string inside of which no name of the file's top can be used", UNSURE)
    at = source.start(node) + opening.start(3)
    unit.change([(at, at + 4, kind)], RULE, REASON, str(first.value) + "...")
    return None
