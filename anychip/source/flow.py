"""Where device names come from and where they go: "cuda" in a default, an option or a constant, and each `.to(device)`.

Per file, from what is written there: values (the strings), slots (a variable, an attribute of a class, a parameter, an
option of the command line, what a function returns: "pkg.module.function.variable"), edges (what may be in a slot) and
sinks (where PyTorch takes a device). `anychip.source.project` joins the files and follows the edges. Order of statements
is not looked at: a variable may hold whatever is assigned to it anywhere.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from anychip.source.consumers import KEYWORDS, Consumers
from anychip.source.module import Module, Place
from anychip.source.scopes import parameters

CUDA_DEVICE = re.compile(r"cuda(?::\d+)?\Z")
_PREFIX = re.compile(r"cuda:(?:\{.*\}|%[ds])?\Z")
_BACKEND = re.compile(r"(?:cpu:\w+,)?(?:cuda:)?nccl\Z")
_TENSOR_TYPE = re.compile(r"torch\.cuda\.[A-Za-z]+Tensor\Z")
_DEVICEY = re.compile(r"device|\bdev\b|cuda|gpu|backend|map_loc|accel", re.IGNORECASE)
_ROUNDS = 4


@dataclass(frozen=True)
class Value:
    """A string that names a device, a backend or a tensor type. uses: the plain words for what takes it (`Consumers`).

    kind: device, backend, tensor_type. text: as it is written, without quotes. slots: where it is kept.
    """

    node: ast.expr
    kind: str
    text: str
    uses: tuple[tuple[str, str], ...]
    slots: tuple[str, ...]


@dataclass(frozen=True)
class Sink:
    """A place that takes a device and is given what is in `slot`. what: to, device=, torch.device, map_location=..."""

    place: Place
    what: str
    slot: str
    symbol: str


@dataclass(frozen=True)
class Flow:
    """values: by place. edges: slot -> slots that flow into it. sinks: given a slot, not a string."""

    values: tuple[Value, ...] = ()
    edges: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sinks: tuple[Sink, ...] = ()


def flow_of(module: Module) -> Flow:
    """Computed once per module."""
    known = module.__dict__.get("_flow")
    if known is None:
        known = module.__dict__["_flow"] = _flow(module)
    assert isinstance(known, Flow)
    return known


def _flow(module: Module) -> Flow:
    consumers = Consumers(module)
    values = [_value(module, consumers, node, kind, text) for node, kind, text in literals(module)]
    live = {slot for value in values for slot in value.slots}
    edges: dict[str, set[str]] = {}
    sinks: dict[ast.AST, list[Sink]] = {}
    done: set[ast.AST] = set()
    taken = _taken_as_devices(module)
    chains = [(node, node.id if isinstance(node, ast.Name) else node.attr) for node in module.found.chains]
    keyed = [(node, str(node.slice.value)) for node in module.found.keyed]  # type: ignore[attr-defined]
    devicey = {word for word in {word for _, word in (*chains, *keyed)} if _DEVICEY.search(word)}
    for _ in range(_ROUNDS):
        before = len(live)
        wanted = {last(slot) for slot in live} | devicey
        read = [pair for pair in chains if pair[1] in wanted or pair[0] in taken]
        calls = [
            (up, word) for node, word in read if isinstance(up := module.parent(node), ast.Call) and up.func is node
        ]
        for node, word in (*read, *calls, *(pair for pair in keyed if pair[1] in wanted)):
            slot = None if node in done else consumers.slot(node)
            if slot is not None and (slot in live or node in taken or word in devicey):
                done.add(node)
                _follow(module, consumers, node, slot, edges, sinks)
        live.update(edges)
        if len(live) == before:
            break
    for slot, from_ in _positional(module):
        edges.setdefault(slot, set()).add(from_)
    flat = [sink for node in sorted(sinks, key=_position) for sink in sinks[node]]
    return Flow(tuple(values), {slot: tuple(sorted(from_)) for slot, from_ in edges.items()}, tuple(flat))


def _taken_as_devices(module: Module) -> set[ast.expr]:
    """Names that stand where a device is taken, whatever they are called."""
    found: set[ast.expr] = set()
    for call in module.calls:
        if (
            isinstance(call.func, ast.Attribute)
            and call.func.attr in ("to", "to_empty", "device", "cuda")
            and call.args
        ):
            found.add(call.args[0])
        found.update(keyword.value for keyword in call.keywords if keyword.arg in KEYWORDS)
    return found


def _positional(module: Module) -> Iterator[tuple[str, str]]:
    """Parameters that are called like devices, and the place by which callers in other files name them: f#1."""
    for function in module.found.functions:
        scope = module.found.scope_of[function]
        path = ".".join(part for part in (module.name, scope.path) if part)
        owner = scope.parent is not None and scope.parent.kind == "class"
        for at, parameter in enumerate(parameters(function.args)):
            if _DEVICEY.search(parameter.arg):
                yield f"{path}.{parameter.arg}", f"{path}#{at - owner}"
                if owner and function.name == "__init__":
                    made = path.rpartition(".")[0]
                    yield f"{path}.{parameter.arg}", f"{made}#{at - 1}"
                    yield f"{path}.{parameter.arg}", f"{made}.{parameter.arg}"


def _position(node: ast.AST) -> tuple[int, int]:
    return node.lineno, node.col_offset  # type: ignore[attr-defined]


def _follow(
    module: Module, consumers: Consumers, node: ast.expr, slot: str,
    edges: dict[str, set[str]], sinks: dict[ast.AST, list[Sink]],
) -> None:  # fmt: skip
    for kind, detail in consumers.of(node):
        if kind == "slot" and detail != slot:
            edges.setdefault(detail, set()).add(slot)
        elif kind == "sink":
            sinks.setdefault(node, []).append(Sink(module.place(node), detail, slot, module.of(node)[:60]))


def last(slot: str) -> str:
    """The identifier by which a slot is read: the last word of its name."""
    word = slot.split("@")[0].rpartition(".")[2].rpartition(":")[2]
    if word.endswith("]"):
        return word.rpartition("[")[2][:-1]
    return word.removesuffix("()").partition("#")[0]


def _value(module: Module, consumers: Consumers, node: ast.expr, kind: str, text: str) -> Value:
    uses = tuple(dict.fromkeys(consumers.of(node)))
    return Value(node, kind, text, uses, tuple(detail for what, detail in uses if what == "slot"))


def literals(module: Module) -> Iterator[tuple[ast.expr, str, str]]:
    """Strings that name CUDA devices, NCCL or CUDA tensor types, with kind and text, by place."""
    found: list[tuple[ast.expr, str, str]] = []
    for node in module.strings:
        text = node.value
        assert isinstance(text, str)
        if len(text) > 60 or isinstance(module.parent(node), ast.JoinedStr):
            continue
        if CUDA_DEVICE.match(text) or (_PREFIX.match(text) and _is_made_up(module, node)):
            found.append((node, "device", text))
        elif _BACKEND.match(text):
            found.append((node, "backend", text))
        elif _TENSOR_TYPE.match(text):
            found.append((node, "tensor_type", text))
    for joined in module.found.joined:
        first = joined.values[0] if joined.values else None
        text = str(first.value) if isinstance(first, ast.Constant) else ""
        if text == "cuda:" or (len(joined.values) == 1 and CUDA_DEVICE.match(text)):
            found.append((joined, "device", "cuda:{}" if text == "cuda:" else text))
    return iter(sorted(found, key=lambda item: _position(item[0])))


def _is_made_up(module: Module, node: ast.expr) -> bool:
    """ "cuda:" + str(i), "cuda:%d" % i, "cuda:{}".format(i)."""
    parent = module.parent(node)
    if isinstance(parent, ast.BinOp):
        return parent.left is node
    return isinstance(parent, ast.Attribute) and parent.attr == "format"
