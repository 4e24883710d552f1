"""Which strings name a device, and in what role: only those are edited, and a "cuda" of any other meaning is not.

A string is a device where what takes it says so: a parameter of PyTorch, a name (device, map_location), a comparison with
such a name, an option of the command line called --device. What only looks like one is left, and told.
"""

import ast
import re
from collections.abc import Iterator

from anychip.port.module import Module

# Roles. PLACE: work goes there, so a CPU will do where there is nothing else. NAME: it is compared or named, and must
# not become the CPU. OBJECT: as PLACE, and whoever takes it takes a torch.device as well as a string.
PLACE, NAME, OBJECT = "place", "name", "object"

DEVICE_STRING = re.compile(r"cuda(?::(\d+))?\Z")
DEVICE_NAME = re.compile(
    r"(?:.*_)?(?:device|dev|devices|device_?type|device_?name|device_?str|device_map|device_?id|map_location|torch_device|device_types?)\d*\Z",
    re.IGNORECASE,
)
# Other accelerators' device types, as PyTorch has them: a program that chooses among them ports itself.
OTHER_ACCELERATORS = frozenset(
    [
        "mps",
        "xpu",
        "npu",
        "mlu",
        "hpu",
        "musa",
        "xla",
        "tpu",
        "gcu",
        "sdaa",
        "neuron",
        "mtia",
        "ipu",
        "maia",
        "privateuseone",
    ]
)
# torch functions -> positions of a device; all take a torch.device. Keywords are known by their names.
OBJECT_AT = {
    "torch.set_default_device": 0, "torch.get_device_module": 0, "torch.Generator": 0, "torch.load": 1, "torch.jit.load": 1,
    "torch.cuda.set_device": 0, "torch.cuda.device": 0, "torch.cuda.get_device_name": 0, "torch.cuda.synchronize": 0,
    "torch.cuda.get_device_properties": 0, "torch.cuda.memory_allocated": 0, "torch.cuda.max_memory_allocated": 0,
    "torch.cuda.memory_reserved": 0, "torch.cuda.max_memory_reserved": 0, "torch.cuda.reset_peak_memory_stats": 0,
    "torch.cuda.mem_get_info": 0, "torch.cuda.current_stream": 0, "torch.cuda.memory_stats": 0, "torch.cuda.Stream": 0,
    "torch.cuda.get_rng_state": 0, "torch.cuda.set_rng_state": 1, "torch.accelerator.set_device_index": 0,
}  # fmt: skip
NAME_AT = {
    "torch.autocast": 0, "torch.amp.autocast": 0, "torch.amp.autocast_mode.autocast": 0, "torch.amp.GradScaler": 0,
    "torch.get_autocast_dtype": 0, "torch.set_autocast_dtype": 0, "torch.is_autocast_enabled": 0,
    "torch.set_autocast_enabled": 0, "torch.amp.is_autocast_available": 0,
}  # fmt: skip
PLACE_AT = {
    "torch.device": 0, "torch.distributed.init_device_mesh": 0, "torch.distributed.device_mesh.init_device_mesh": 0,
    "torch.distributed.DeviceMesh": 0, "torch.distributed.device_mesh.DeviceMesh": 0, "torch.distributed.tensor.DeviceMesh": 0,
}  # fmt: skip
# Methods of tensors, modules and storages -> position of a device.
METHODS_AT = {"to": 0, "to_empty": 0}
NAME_KEYWORDS = frozenset(["device_type"])
KERNEL_KEYWORDS = frozenset(["device_types"])


def device_strings(module: Module) -> Iterator[tuple[ast.Constant, str | None]]:
    """Every "cuda" and "cuda:0" of a file that is no docstring and no part of an f-string, with its role or None."""
    for node in module.strings:
        if not DEVICE_STRING.match(str(node.value)) or isinstance(module.parent(node), ast.JoinedStr | ast.Expr):
            continue
        yield node, role(module, node)


def role(module: Module, node: ast.expr, depth: int = 3) -> str | None:
    """The role of an expression where it stands; None where nothing says that it is a device."""
    parent = module.parent(node)
    if isinstance(parent, ast.keyword):
        return _keyword(module, parent, depth)
    if isinstance(parent, ast.Call):
        return _argument(module, parent, node, depth)
    if isinstance(parent, ast.IfExp):
        return None if parent.test is node else _place(role(module, parent, depth))
    if isinstance(parent, ast.BoolOp | ast.Starred | ast.FormattedValue):
        return _place(role(module, parent, depth)) if isinstance(parent, ast.BoolOp) else None
    if isinstance(parent, ast.List | ast.Tuple | ast.Set):
        return _collection(module, parent, node, depth)
    if isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Add | ast.Mod) and parent.left is node:
        return _place(role(module, parent, depth))
    if isinstance(parent, ast.Compare):
        return _compared(module, parent, node)
    if isinstance(parent, ast.Dict):
        return _dict(module, parent, node)
    if isinstance(parent, ast.Assign | ast.AnnAssign | ast.NamedExpr):
        return _assigned(module, parent, depth)
    if isinstance(parent, ast.arguments):
        return PLACE if DEVICE_NAME.match(parameter_of_default(parent, node) or "") else None
    if isinstance(parent, ast.Return):
        function = module.function_of(parent)
        return PLACE if function is not None and DEVICE_NAME.match(function.name) else None
    return None


def _place(found: str | None) -> str | None:
    """The same role for a part of an expression, which must stay a string."""
    return PLACE if found == OBJECT else found


def is_torch(name: str | None) -> bool:
    return name is not None and (name.startswith("torch.") or name == "torch")


def _keyword(module: Module, keyword: ast.keyword, depth: int) -> str | None:
    call = module.parent(keyword)
    name = keyword.arg or ""
    if not isinstance(call, ast.Call):
        return None
    if name in KERNEL_KEYWORDS:
        return None
    if name in ("default", "choices"):
        return _option(module, call, name)
    callee = module.qualified(call.func)
    if name == "type" and callee == "torch.device":
        return PLACE
    if not DEVICE_NAME.match(name):
        return None
    if name in NAME_KEYWORDS and _is_autocast(callee):
        return NAME
    if name in NAME_KEYWORDS:
        return NAME if is_torch(callee) and PLACE_AT.get(callee or "") is None else PLACE
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    takes_object = (is_torch(callee) and callee not in PLACE_AT and name != "pin_memory_device") or method in METHODS_AT
    return OBJECT if takes_object else PLACE


def _is_autocast(name: str | None) -> bool:
    return name in NAME_AT


def _argument(module: Module, call: ast.Call, node: ast.expr, depth: int) -> str | None:
    if node is call.func:
        return None
    at = next((i for i, argument in enumerate(call.args) if argument is node), -1)
    callee = module.qualified(call.func)
    for table, found in ((OBJECT_AT, OBJECT), (NAME_AT, NAME), (PLACE_AT, PLACE)):
        if callee is not None and table.get(callee) == at:
            return found
    if isinstance(call.func, ast.Attribute) and not is_torch(callee):
        if METHODS_AT.get(call.func.attr) == at:
            return OBJECT
        if call.func.attr in ("startswith", "endswith") and is_device(module, call.func.value):
            return NAME
    if at == 1 and _asks_by_key(call):
        return PLACE
    if isinstance(call.func, ast.Name) and call.func.id in ("getattr", "setattr") and at == 2:
        named = call.args[1]
        said = named.value if isinstance(named, ast.Constant) else ""
        return PLACE if isinstance(said, str) and DEVICE_NAME.match(said) else None
    if isinstance(call.func, ast.Name) and call.func.id == "str" and depth:
        return _place(role(module, call, depth - 1))
    return _own_parameter(module, call, at)


def _own_parameter(module: Module, call: ast.Call, at: int) -> str | None:
    """A function of the same file, or a method of the same class, whose parameter there is called a device."""
    if at < 0:
        return None
    if isinstance(call.func, ast.Name):
        name = call.func.id
        home: ast.AST | None = module.tree
    elif (
        isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) and call.func.value.id == "self"
    ):
        name = call.func.attr
        home = next((up for up in module.ancestors(call) if isinstance(up, ast.ClassDef)), None)
        at += 1
    else:
        return None
    own = [f for f in module.found.functions if f.name == name and module.parent(f) is home]
    shifted = {"staticmethod", "classmethod"}
    if len(own) != 1 or any(isinstance(d, ast.Name) and d.id in shifted for d in own[0].decorator_list):
        return None
    parameters = [*own[0].args.posonlyargs, *own[0].args.args]
    return PLACE if at < len(parameters) and DEVICE_NAME.match(parameters[at].arg) else None


def _asks_by_key(call: ast.Call) -> bool:
    """options.get("device", ...), os.getenv("DEVICE", ...)."""
    asks = isinstance(call.func, ast.Attribute) and call.func.attr in ("get", "pop", "setdefault", "getenv")
    key = call.args[0].value if asks and call.args and isinstance(call.args[0], ast.Constant) else None
    return isinstance(key, str) and bool(DEVICE_NAME.match(key))


def _option(module: Module, call: ast.Call, keyword: str) -> str | None:
    """add_argument("--device", default="cuda"), click.option the same."""
    flags = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    if not any(DEVICE_NAME.match(flag.lstrip("-").replace("-", "_")) for flag in flags):
        return None
    return PLACE if keyword == "default" else NAME


def _collection(module: Module, parent: ast.expr, node: ast.expr, depth: int) -> str | None:
    above = module.parent(parent)
    elements = [e.value for e in parent.elts if isinstance(e, ast.Constant)]  # type: ignore[attr-defined]
    if any(isinstance(e, str) and e in OTHER_ACCELERATORS for e in elements):
        return None
    if isinstance(above, ast.Compare) and above.left is not parent:
        return NAME if is_device(module, above.left) else None
    if isinstance(above, ast.Call) and parent in above.args:
        first = above.args[0]
        named = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""
        return (
            PLACE
            if parent is not first and any(DEVICE_NAME.match(n.strip()) for n in named.split(",")) and "," not in named
            else None
        )
    if isinstance(above, ast.Assign) and len(above.targets) == 1 and isinstance(above.targets[0], ast.Tuple):
        at, targets = parent.elts.index(node), above.targets[0].elts  # type: ignore[attr-defined]
        return PLACE if len(targets) == len(parent.elts) and is_device(module, targets[at]) else None  # type: ignore[attr-defined]
    if isinstance(above, ast.keyword | ast.Assign | ast.AnnAssign) and depth:
        found = role(module, parent, depth - 1)
        return NAME if found == NAME else _place(found)
    if isinstance(above, ast.For | ast.comprehension):
        return PLACE if isinstance(above.target, ast.Name) and DEVICE_NAME.match(above.target.id) else None
    return None


def _compared(module: Module, compare: ast.Compare, node: ast.expr) -> str | None:
    """`x.device.type == "cuda"`, `"cuda" in device`; None in a program that asks for other accelerators as well."""
    if len(compare.ops) != 1:
        return None
    other = compare.comparators[0] if compare.left is node else compare.left
    if not is_device(module, other) or chooses_among(module, compare, other):
        return None
    return NAME


def chooses_among(module: Module, compare: ast.Compare, subject: ast.expr) -> bool:
    """Whether the same chain of conditions compares the same thing with another accelerator's name."""
    top: ast.AST = compare
    for up in module.ancestors(compare):
        if isinstance(up, ast.BoolOp | ast.IfExp | ast.UnaryOp) or (isinstance(up, ast.If) and not _in_body(up, top)):
            top = up
        else:
            break
    said = ast.dump(subject)
    tests = _tests(top)
    for test in tests:
        for inner in ast.walk(test):
            if isinstance(inner, ast.Compare) and inner is not compare:
                words = {n.value for n in ast.walk(inner) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
                if words & OTHER_ACCELERATORS and said in (ast.dump(inner.left), *map(ast.dump, inner.comparators)):
                    return True
    return False


def _in_body(node: ast.If, child: ast.AST) -> bool:
    return any(child is inner for inner in node.body)


def _tests(top: ast.AST) -> list[ast.AST]:
    """The conditions of an if and of its elifs, of a conditional expression, or the expression itself."""
    if isinstance(top, ast.If):
        below = _tests(top.orelse[0]) if len(top.orelse) == 1 and isinstance(top.orelse[0], ast.If) else []
        return [top.test, *below]
    return [top]


def _dict(module: Module, parent: ast.Dict, node: ast.expr) -> str | None:
    keys = [key.value for key in parent.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
    if node in parent.keys:
        return NAME if "cpu" in keys and not set(keys) & OTHER_ACCELERATORS else None
    key = parent.keys[parent.values.index(node)]
    said = key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else ""
    return PLACE if DEVICE_NAME.match(said) else None


def _assigned(module: Module, parent: ast.Assign | ast.AnnAssign | ast.NamedExpr, depth: int) -> str | None:
    targets = parent.targets if isinstance(parent, ast.Assign) else [parent.target]
    for target in targets:
        if is_device(module, target):
            return PLACE
        if isinstance(target, ast.Name) and depth and _flows(module, target, depth):
            return PLACE
    return None


def _flows(module: Module, target: ast.Name, depth: int) -> bool:
    """Whether a variable of another name ends up where a device goes."""
    return any(
        isinstance(use, ast.Name) and use.id == target.id and role(module, use, depth - 1) in (PLACE, OBJECT, NAME)
        for use in module.found.chains
    )


def parameter_of_default(arguments: ast.arguments, node: ast.expr) -> str | None:
    positional = [*arguments.posonlyargs, *arguments.args]
    with_default = positional[len(positional) - len(arguments.defaults) :]
    for parameter, default in [
        *zip(with_default, arguments.defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]:
        if default is node:
            return parameter.arg
    return None


def is_device(module: Module, node: ast.expr) -> bool:
    """Whether an expression is a device or its type, by its name or by what made it."""
    if isinstance(node, ast.Name):
        return bool(DEVICE_NAME.match(node.id))
    if isinstance(node, ast.Attribute):
        if node.attr == "type":
            return is_device(module, node.value)
        return bool(DEVICE_NAME.match(node.attr))
    if isinstance(node, ast.Subscript):
        key = node.slice.value if isinstance(node.slice, ast.Constant) else None
        return (isinstance(key, str) and bool(DEVICE_NAME.match(key))) or (
            not isinstance(key, str) and is_device(module, node.value)
        )
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id == "str" and node.args:
            return is_device(module, node.args[0])
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("lower", "strip", "split") and not node.keywords:
            return is_device(module, node.func.value)
        if _asks_by_key(node):
            return True
        return module.qualified(node.func) == "torch.device"
    return False
