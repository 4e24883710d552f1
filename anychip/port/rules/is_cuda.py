"""`x.is_cuda` asks whether a tensor is on CUDA. Portable code asks for the type of the accelerator.

On a build of PyTorch without an accelerator the answer stays False, as it was.
"""

import ast

from anychip.port.edits import THOUGHT
from anychip.port.unit import Unit

NAME = "is-cuda"
REASON = "is_cuda is False on every other accelerator"
# Where `a == b` needs no parentheses around it.
_LOOSE = (ast.If, ast.While, ast.Assert, ast.BoolOp, ast.IfExp, ast.Assign, ast.Return, ast.keyword, ast.comprehension)

VALID = [
    "config.is_cuda_enabled\n",
    "is_cuda = True\n",
    "x.is_cuda = False\n",
    "class A:\n    def __init__(self):\n        self.is_cuda = True\n        f(self.is_cuda)\n",
]
INVALID = [
    ("import torch\n\nassert x.is_cuda\n", "assert x.device.type == ACCELERATOR\n", 'assert x.device.type == "npu"\n'),
    (
        "import torch\n\nif not x.is_cuda:\n    pass\n",
        "if x.device.type != ACCELERATOR:\n    pass\n",
        'if x.device.type != "npu":\n    pass\n',
    ),
    (
        "import torch\n\ny = f(x.is_cuda is True)\n",
        "y = f((x.device.type == ACCELERATOR) is True)\n",
        'y = f((x.device.type == "npu") is True)\n',
    ),
]


def run(unit: Unit) -> None:
    own = any(function.name == "is_cuda" for function in unit.module.found.functions) or _is_set(unit)
    for node in unit.module.found.chains:
        if isinstance(node, ast.Attribute) and node.attr == "is_cuda" and isinstance(node.ctx, ast.Load):
            if own:
                unit.leave(node, NAME, "a class of this file has an is_cuda of its own", THOUGHT, ".is_cuda")
            else:
                _port(unit, node)


def _is_set(unit: Unit) -> bool:
    """Whether the file assigns to an attribute of that name: no tensor's can be."""
    stored = (n for n in unit.module.found.chains if isinstance(n, ast.Attribute) and n.attr == "is_cuda")
    return any(isinstance(node.ctx, ast.Store) for node in stored)


def _port(unit: Unit, node: ast.Attribute) -> None:
    if unit.f_string(node) is not None or unit.scripted(node):
        unit.unsure(node, NAME)
        return
    source, parent = unit.module, unit.module.parent(node)
    said, end = unit.header.accelerator(), source.end(node)
    word = end - len("is_cuda")
    if isinstance(parent, ast.UnaryOp) and isinstance(parent.op, ast.Not):
        start = source.start(parent)
        pieces = [(start, source.start(node), ""), (word, end, f"device.type != {said}")]
        if (
            not isinstance(unit.module.parent(parent), _LOOSE)
            or source.slice(start, source.start(node)).strip() != "not"
        ):
            pieces = [(word, end, f"device.type == {said}")]  # `not a == b` is not (a == b)
    elif isinstance(parent, _LOOSE) or (isinstance(parent, ast.Call) and parent.func is not node):
        pieces = [(word, end, f"device.type == {said}")]
    else:
        pieces = [(source.start(node), source.start(node), "("), (word, end, f"device.type == {said})")]
    unit.change(pieces, NAME, REASON, ".is_cuda")
