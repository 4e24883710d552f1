"""Which pointer parameters of a Triton kernel are read and which are written, and how much of them at most, from its source alone."""

import ast
import functools
import inspect
import textwrap
from typing import Any

LOADS = {"load", "atomic_add", "atomic_max", "atomic_min", "atomic_and", "atomic_or", "atomic_xor", "atomic_cas"}
STORES = {"store", "atomic_xchg"} | (LOADS - {"load"})
POINTER_ARGUMENTS = ("pointer", "ptr", "desc")


def roles(function: Any) -> dict[str, tuple[bool, bool]]:
    """Parameter -> (read, written). Parameters that no load or store names are left out; {} without source."""
    source = definition(function)
    if source is None:
        return {}
    every = source.args
    parameters = {one.arg for one in (*every.posonlyargs, *every.args, *every.kwonlyargs)}
    origins = _origins(source, parameters)
    found: dict[str, tuple[bool, bool]] = {}
    for call in (one for one in ast.walk(source) if isinstance(one, ast.Call)):
        name = _called(call)
        pointer = _pointer(call)
        if name not in LOADS | STORES or pointer is None:
            continue
        for parameter in _from(pointer, origins):
            read, written = found.get(parameter, (False, False))
            found[parameter] = read or name in LOADS, written or name in STORES
    return found


def block(function: Any, bound: dict[str, Any]) -> int | None:
    """The most elements of a tensor that one program of a kernel reads or writes; None where the source does not tell. It does where
    nothing is repeated and blocks have one dimension: each line gets at as many as its addresses' range has. bound: its parameters."""
    source = definition(function)
    parts = [one for line in source.body for one in ast.walk(line)] if source is not None else []
    calls = [one for one in parts if isinstance(one, ast.Call)]
    # What a function of the program's own does is not seen, nor how large the tiles of a descriptor are.
    seen = all(isinstance(one.func, ast.Attribute) and getattr(one.func.value, "id", "") in LANGUAGE for one in calls)
    if not seen or any(
        isinstance(one, ast.For | ast.While | ast.Subscript) or _called(one) in RESHAPE for one in parts
    ):
        return None
    longest, lines = 1, sum(_called(one) in LOADS | STORES for one in calls)
    for ends in (one.args for one in calls if _called(one) == "arange"):
        end = ends[1] if len(ends) == 2 else None
        size = end.value if isinstance(end, ast.Constant) else bound.get(end.id) if isinstance(end, ast.Name) else None
        if not isinstance(size, int):
            return None
        longest = max(longest, size)
    return longest * lines or None


LANGUAGE = ("tl", "triton", "language")
# What gives a block another dimension, and what reads one of more.
RESHAPE = {
    "expand_dims",
    "reshape",
    "view",
    "broadcast_to",
    "make_block_ptr",
    "make_tensor_descriptor",
    "join",
    "static_range",
}


@functools.cache
def defaults(function: Any) -> dict[str, Any]:
    """What parameters are where a call does not give them."""
    parameters = inspect.signature(function).parameters
    return {name: one.default for name, one in parameters.items() if one.default is not one.empty}


@functools.cache
def definition(function: Any) -> ast.FunctionDef | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    return next((one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)), None)


def _called(call: ast.AST) -> str:
    function = getattr(call, "func", None)
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _pointer(call: ast.Call) -> ast.expr | None:
    """The address argument: the first one, or the object of a descriptor's method (`desc.load(...)`)."""
    if isinstance(call.func, ast.Attribute) and not (
        isinstance(call.func.value, ast.Name) and call.func.value.id in LANGUAGE
    ):
        return call.func.value
    if call.args:
        return call.args[0]
    return next((one.value for one in call.keywords if one.arg in POINTER_ARGUMENTS), None)


def _origins(definition: ast.FunctionDef, parameters: set[str]) -> dict[str, set[str]]:
    """Variable -> the parameters that its address can come from. Three passes reach through loops."""
    origins = {name: {name} for name in parameters}
    for _ in range(3):
        for node in ast.walk(definition):
            if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                source = _from(node.value, origins)
                for target in targets:
                    for name in (one.id for one in ast.walk(target) if isinstance(one, ast.Name)):
                        origins.setdefault(name, set()).update(source)
    return origins


def _from(expression: ast.expr, origins: dict[str, set[str]]) -> set[str]:
    """Parameters in an address; what a load returned is data, and no address of the tensor it came from."""
    if isinstance(expression, ast.Call) and _called(expression) in LOADS | {"program_id", "arange"}:
        return set()
    if isinstance(expression, ast.Name):
        return set(origins.get(expression.id, ()))
    found: set[str] = set()
    for child in ast.iter_child_nodes(expression):
        if isinstance(child, ast.expr):
            found |= _from(child, origins)
        elif isinstance(child, ast.keyword):
            found |= _from(child.value, origins)
    return found
