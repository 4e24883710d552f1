"""What takes an expression, for following device names: the assignment, parameter or call that its value ends up in.

`Consumers(module).of(node)` climbs from the expression through what passes it on (`a if b else c`, `or`, f-strings,
torch.device(...), str(...), .get(key, default)) and yields (kind, detail):

    ("slot", name)      kept in a variable, attribute, parameter, option of the command line, result of a function
    ("sink", what)      taken by PyTorch as a device: to, device=, torch.device, map_location=, init_process_group
    ("compare", what)   compared, or tested for being in something; what: the other side, as far as it has a name
    ("choice", what)    one of several in a list, the choices of an option, a test's parameters
    ("key", "")         a key of a dict or of a subscript
    ("argument", name)  an argument of a call that says nothing of devices
    ("other", "")       anything else
"""

import ast
from collections.abc import Generator, Iterator
from typing import Any

from anychip.source.module import Module
from anychip.source.scopes import FUNCTIONS, Scope, parameters, words

Use = tuple[str, str]
# Callables of torch -> position of the device, and its keyword.
DEVICE_AT = {
    "torch.device": (0, "device"), "torch.set_default_device": (0, "device"), "torch.load": (1, "map_location"),
    "torch.Generator": (0, "device"), "torch.get_device_module": (0, "device"), "torch.jit.load": (1, "map_location"),
    "torch.autocast": (0, "device_type"), "torch.amp.autocast": (0, "device_type"), "torch.amp.GradScaler": (0, "device"),
    "torch.distributed.init_device_mesh": (0, "device_type"), "torch.distributed.DeviceMesh": (0, "device_type"),
    "torch.distributed.device_mesh.init_device_mesh": (0, "device_type"),
    "torch.distributed.device_mesh.DeviceMesh": (0, "device_type"),
    "torch.distributed.tensor.DeviceMesh": (0, "device_type"),
    "torch.distributed.init_process_group": (0, "backend"), "torch.distributed.new_group": (2, "backend"),
    "torch.distributed.distributed_c10d.init_process_group": (0, "backend"),
    "torch.set_default_tensor_type": (0, "t"), "torch.get_autocast_dtype": (0, "device_type"),
    "torch.is_autocast_enabled": (0, "device_type"), "torch.set_autocast_dtype": (0, "device_type"),
    "torch.utils.data.DataLoader": (99, "pin_memory_device"), "torch.cuda.set_device": (0, "device"),
    "torch.cuda.device": (0, "device"), "torch.cuda.synchronize": (0, "device"),
    "torch.cuda.get_device_properties": (0, "device"), "torch.cuda.get_device_name": (0, "device"),
    "torch.cuda.memory_allocated": (0, "device"), "torch.cuda.max_memory_allocated": (0, "device"),
    "torch.cuda.mem_get_info": (0, "device"), "torch.cuda.get_device_capability": (0, "device"),
}  # fmt: skip
METHODS_AT = {"to": 0, "to_empty": 0, "cuda": 0, "type": 0, "set_device": 0}
KEYWORDS = words(
    "device device_type map_location pin_memory_device torch_device device_name output_device device_ids device_id "
    "devices device_str target_device main_device compute_device execution_device backend dist_backend "
    "distributed_backend process_group_backend device_map location"
)
# Methods of strings, devices and dicts that pass their value on.
PASSED_ON = frozenset({"format", "lower", "upper", "strip", "split", "replace", "type", "rstrip", "partition", "index"})
TESTS = frozenset({"startswith", "endswith", "count", "find", "is_available", "match", "search", "fullmatch"})
GETTERS = frozenset({"get", "pop", "setdefault", "getenv"})
WRAPPERS = frozenset({"torch.device", "str", "jnp.asarray", "typing.cast", "cast"})
# Names that the values of options go by, where nothing says what they are.
ARGS = words(
    "args arg opt opts options option cfg conf config configs hparams hps hp flags FLAGS params namespace cli_args"
)
_MAX_CLIMB = 40


class Consumers:
    def __init__(self, module: Module) -> None:
        self.module = module

    def of(self, node: ast.expr) -> Iterator[Use]:
        """Everything that takes the value of the expression."""
        for _ in range(_MAX_CLIMB):
            parent = self.module.parent(node)
            found = _CLIMB.get(type(parent))
            if parent is None or found is None:
                yield "other", ""
                return
            up: ast.expr | None = yield from found(self, parent, node)
            if up is None:
                return
            node = up

    # ------------------------------------------------------------ what passes a value on

    def _conditional(self, parent: ast.IfExp, node: ast.expr) -> "Climb":
        if node is parent.test:
            yield "compare", ""
            return None
        return parent

    def _pass_on(self, parent: ast.expr, node: ast.expr) -> "Climb":
        yield from ()
        return parent

    def _joined(self, parent: ast.FormattedValue, node: ast.expr) -> "Climb":
        whole = self.module.parent(parent)
        if isinstance(whole, ast.JoinedStr) and whole.values[0] is parent and len(whole.values) <= 3:
            return whole
        yield "other", ""
        return None

    def _operation(self, parent: ast.BinOp, node: ast.expr) -> "Climb":
        if parent.left is node and isinstance(parent.op, ast.Add | ast.Mod):
            return parent
        yield "other", ""
        return None

    def _attribute(self, parent: ast.Attribute, node: ast.expr) -> "Climb":
        call = self.module.parent(parent)
        if parent.attr in PASSED_ON:
            return call if isinstance(call, ast.Call) and call.func is parent else parent
        yield ("compare", "") if parent.attr in TESTS else ("other", "")
        return None

    def _subscript(self, parent: ast.Subscript, node: ast.expr) -> "Climb":
        if parent.value is node:
            return parent
        yield "key", ""
        return None

    def _named(self, parent: ast.NamedExpr, node: ast.expr) -> "Climb":
        yield from self._into([parent.target])
        return parent

    # ------------------------------------------------------------ where a value is kept

    def _into(self, targets: "list[ast.expr]") -> Iterator[Use]:
        for target in targets:
            slot = self.slot(target)
            yield ("slot", slot) if slot else ("other", "")

    def _assigned(self, parent: ast.Assign, node: ast.expr) -> "Climb":
        yield from self._into(parent.targets)
        return None

    def _annotated(self, parent: "ast.AnnAssign | ast.AugAssign", node: ast.expr) -> "Climb":
        yield from self._into([parent.target])
        return None

    def _looped(self, parent: "ast.For | ast.comprehension", node: ast.expr) -> "Climb":
        yield from self._into([parent.target])
        return None

    def _default(self, parent: ast.arguments, node: ast.expr) -> "Climb":
        function = self.module.parent(parent)
        scope = self.module.found.scope_of.get(function) if function else None
        name = next((n for n, b in scope.names.items() if b[0].value is node), None) if scope else None
        yield ("slot", f"{self._path(scope)}.{name}") if scope and name else ("other", "")
        return None

    def _returned(self, parent: ast.AST, node: ast.expr) -> "Climb":
        function = next((up for up in self.module.ancestors(parent) if isinstance(up, (*FUNCTIONS, ast.Lambda))), None)
        scope = self.module.found.scope_of.get(function) if function else None
        yield ("slot", f"{self._path(scope)}()") if scope else ("other", "")
        return None

    def _collected(self, parent: ast.expr, node: ast.expr) -> "Climb":
        above = self.module.parent(parent)
        if isinstance(above, ast.Compare):
            return parent
        if isinstance(above, ast.Assign) and isinstance(parent, ast.Tuple | ast.List):
            target = next((t for t in above.targets if isinstance(t, ast.Tuple | ast.List)), None)
            if target is not None and len(target.elts) == len(parent.elts):
                yield from self._into([target.elts[parent.elts.index(node)]])
                return None
        if isinstance(above, ast.Assign | ast.AnnAssign | ast.For | ast.comprehension | ast.Return):
            yield "choice", ""
            return parent
        yield "choice", above.arg or "" if isinstance(above, ast.keyword) else ""
        return None

    def _dict(self, parent: ast.Dict, node: ast.expr) -> "Climb":
        if any(key is node for key in parent.keys):
            yield "key", ""
            return None
        key = parent.keys[next(i for i, value in enumerate(parent.values) if value is node)]
        said = key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None
        above = self.module.parent(parent)
        targets = (
            above.targets
            if isinstance(above, ast.Assign)
            else [above.target]
            if isinstance(above, ast.AnnAssign)
            else []
        )
        slots = [self.slot(target) for target in targets] if said else []
        for slot in slots:
            if slot:
                yield "slot", f"{slot}[{said}]"
        if said in KEYWORDS:
            yield "sink", f"{said}:"
        elif not any(slots):
            yield "other", ""
        return None

    # ------------------------------------------------------------ calls and tests

    def _compared(self, parent: ast.Compare, node: ast.expr) -> "Climb":
        other = parent.comparators[0] if parent.left is node else parent.left
        yield "compare", self.module.of(other)[:60]
        return None

    def _matched(self, parent: ast.MatchValue, node: ast.expr) -> "Climb":
        yield "compare", "match"
        return None

    def _with(self, parent: ast.withitem, node: ast.expr) -> "Climb":
        yield "sink", "with"
        return None

    def _keyword(self, parent: ast.keyword, node: ast.expr) -> "Climb":
        call = self.module.parent(parent)
        if not isinstance(call, ast.Call):
            yield "other", ""
            return None
        name = parent.arg or ""
        if name in ("default", "choices", "const") and (option := self._option(call)):
            yield ("slot", option) if name != "choices" else ("choice", option)
            return None
        callee = self.module.qualified(call.func)
        if name in ("default", "default_value", "factory", "default_factory"):
            return call
        return (yield from self._taken(call, callee, name, -1))

    def _argument(self, parent: ast.Call, node: ast.expr) -> "Climb":
        if node is parent.func:
            yield "other", ""
            return None
        at = next((i for i, argument in enumerate(parent.args) if argument is node), -1)
        callee = self.module.qualified(parent.func)
        function = parent.func.attr if isinstance(parent.func, ast.Attribute) else getattr(parent.func, "id", "")
        if function in GETTERS:
            if at == 0:
                yield "key", ""
                return None
            return parent
        if function in TESTS:
            yield "compare", ""
            return None
        if function in ("getattr", "hasattr", "setattr") and at == 1:
            yield "argument", function
            return None
        if function == "getattr" and at == 2:
            return parent
        return (yield from self._taken(parent, callee, "", at))

    def _taken(self, call: ast.Call, callee: str | None, keyword: str, at: int) -> "Climb":
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        known = DEVICE_AT.get(callee or "")
        name = callee or method or self._called(call)
        if known is not None and (at == known[0] or keyword == known[1]):
            yield "sink", callee or ""
        elif keyword in KEYWORDS:
            yield "sink", f"{keyword}="
        elif at >= 0 and method and METHODS_AT.get(method) == at and not (callee or "").startswith("torch."):
            yield "sink", f".{method}"
        elif callee not in WRAPPERS and name != "str":
            yield "argument", f"{name}({keyword}=)" if keyword else name
        slot = self.slot(call.func)
        if slot and not slot.startswith("torch.") and (at >= 0 or keyword):
            yield "slot", f"{slot}.{keyword}" if keyword else self._parameter(call, slot, at)
        return call if callee in WRAPPERS or name == "str" else None

    def _parameter(self, call: ast.Call, slot: str, at: int) -> str:
        """The slot of a callable's argument: a parameter of this file's function, "f#1" for what another file says."""
        if isinstance(call.func, ast.Name):
            for binding in self.module.bindings(call.func):
                if isinstance(binding.node, FUNCTIONS):
                    named = [p.arg for p in parameters(binding.node.args)]
                    return f"{slot}.{named[at]}" if at < len(named) else f"{slot}#{at}"
        return f"{slot}#{at}"

    def _called(self, call: ast.Call) -> str:
        return call.func.id if isinstance(call.func, ast.Name) else ""

    def _option(self, call: ast.Call) -> str | None:
        """The slot of an option: argparse's and click's, by the name that the program reads it with."""
        method = call.func.attr if isinstance(call.func, ast.Attribute) else self._called(call)
        if method not in ("add_argument", "option", "argument", "DEFINE_string", "add_option", "Option"):
            return None
        flags = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        dest = next(
            (k.value.value for k in call.keywords if k.arg == "dest" and isinstance(k.value, ast.Constant)), None
        )
        long = [flag for flag in flags if flag.startswith("--")] or flags
        if not isinstance(dest, str) and not long:
            return None
        name = dest if isinstance(dest, str) else long[0].lstrip("-").replace("-", "_")
        return self._option_slot(call, name)

    def _option_slot(self, call: ast.Call, name: str) -> str:
        function = self.module.parent(call)
        if isinstance(function, FUNCTIONS):
            scope = self.module.found.scope_of[function]
            return f"{self._path(scope)}.{name}"
        return f"args:{name}@{self.module.name}"

    # ------------------------------------------------------------ names of slots

    def _path(self, scope: Scope | None) -> str:
        assert scope is not None
        return ".".join(part for part in (self.module.name, scope.path) if part)

    def slot(self, node: ast.AST) -> str | None:
        """The slot that an expression reads or an assignment writes; None where it has no lasting name."""
        if isinstance(node, ast.Name):
            return self._name_slot(node)
        if isinstance(node, ast.Attribute):
            return self._attribute_slot(node)
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, str)
        ):
            base = self.slot(node.value)
            return f"{base}[{node.slice.value}]" if base else None
        if isinstance(node, ast.Call):
            base = self.slot(node.func)
            return f"{base}()" if base else None
        return None

    def _name_slot(self, node: ast.Name) -> str | None:
        scope = self.module.found.scope_of.get(node)
        home = scope.find(node.id) if scope else None
        if home is None:
            return None
        binding = home.names[node.id][0]
        if binding.kind == "import":
            return binding.target
        return f"{self._path(home)}.{node.id}"

    def _attribute_slot(self, node: ast.Attribute) -> str | None:
        base = node.value
        if not isinstance(base, ast.Name):
            if isinstance(base, ast.Attribute) and base.attr in ARGS:
                return f"args:{node.attr}@{self.module.name}"
            return self.module.qualified(node)
        scope = self.module.found.scope_of.get(base)
        if scope is None:
            return None
        if base.id in ("self", "cls"):
            owner = scope.class_scope()
            return f"{self._path(owner)}.{node.attr}" if owner else None
        known = self.module.qualified(node)
        return known or self._instance_slot(base, node.attr)

    def _instance_slot(self, base: ast.Name, attribute: str) -> str | None:
        """config.device, where config is made by a class of the project, or is what argparse gave."""
        for binding in self.module.bindings(base):
            value = binding.value
            if isinstance(value, ast.Call):
                if isinstance(value.func, ast.Attribute) and value.func.attr in ("parse_args", "parse_known_args"):
                    return f"args:{attribute}@{self.module.name}"
                made_by = self.module.qualified(value.func)
                if made_by and not made_by.startswith("torch."):
                    return f"{made_by}.{attribute}"
            if isinstance(binding.node, ast.arg) and binding.node.annotation is not None:
                of_class = self.module.qualified(_bare(binding.node.annotation))
                if of_class and not of_class.startswith("torch."):
                    return f"{of_class}.{attribute}"
        return f"args:{attribute}@{self.module.name}" if base.id in ARGS else None


def _bare(annotation: ast.expr) -> ast.expr:
    """C of `C | None`."""
    return annotation.left if isinstance(annotation, ast.BinOp) else annotation


Climb = Generator[Use, None, ast.expr | None]
_CLIMB: dict[type, Any] = {
    ast.IfExp: Consumers._conditional, ast.BoolOp: Consumers._pass_on, ast.Starred: Consumers._pass_on,
    ast.Await: Consumers._pass_on, ast.JoinedStr: Consumers._pass_on, ast.FormattedValue: Consumers._joined,
    ast.BinOp: Consumers._operation, ast.Attribute: Consumers._attribute, ast.Subscript: Consumers._subscript,
    ast.NamedExpr: Consumers._named, ast.Assign: Consumers._assigned, ast.AnnAssign: Consumers._annotated,
    ast.AugAssign: Consumers._annotated, ast.For: Consumers._looped, ast.comprehension: Consumers._looped,
    ast.arguments: Consumers._default, ast.Return: Consumers._returned, ast.Yield: Consumers._returned,
    ast.Lambda: Consumers._pass_on, ast.List: Consumers._collected, ast.Tuple: Consumers._collected,
    ast.Set: Consumers._collected, ast.Dict: Consumers._dict, ast.Compare: Consumers._compared,
    ast.MatchValue: Consumers._matched, ast.withitem: Consumers._with, ast.keyword: Consumers._keyword,
    ast.Call: Consumers._argument,
}  # fmt: skip
