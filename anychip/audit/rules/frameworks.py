"""TensorFlow, JAX, MindSpore and Paddle: device names and calls that ask for a GPU.

Each has its own way to name another vendor's device; most call it by its plug-in's type.
"""

import ast
import re
from collections.abc import Iterable

from anychip.audit.finding import Finding, finding
from anychip.audit.rules._symbols import find_listed
from anychip.source.module import Module

NAME = "frameworks"
VALID = (
    'import tensorflow as tf\nwith tf.device("/CPU:0"):\n    pass\n',
    "import jax\njax.devices()\n",
    'x = "GPU"\n',
    'print("gpu")\n',
)
INVALID = (
    ('import tensorflow as tf\nwith tf.device("/GPU:0"):\n    pass\n', ('"/GPU:0"',)),
    ('import tensorflow as tf\ntf.config.list_physical_devices("GPU")\n', ('"GPU"',)),
    ('import jax\njax.devices("gpu")\n', ('"gpu"',)),
    ('import jax\nif jax.default_backend() == "gpu":\n    pass\n', ('"gpu"',)),
    ('import mindspore as ms\nms.set_context(device_target="GPU")\n', ('"GPU"',)),
    ('import paddle\npaddle.set_device("gpu:0")\n', ('"gpu:0"',)),
)
_ROOTS = frozenset({"tensorflow", "jax", "mindspore", "paddle"})
_NAME = re.compile(
    r"(?:/?(?:job:\w+/)?(?:device:|physical_device:)?(?:gpu|GPU|XLA_GPU|cuda)(?::\d+|:%d|:\{\})?|/(?:gpu|GPU):?)\Z"
)
_FIX = "the device that is there: its name comes from the framework's list of devices"


def find(module: Module) -> Iterable[Finding]:
    yield from find_listed(module, NAME)
    if not any(name.split(".")[0] in _ROOTS for _, name in module.uses):
        return
    for node in module.strings:
        text = str(node.value)
        if len(text) < 40 and _NAME.match(text) and _is_asked(module, node):
            yield finding(module, node, NAME, "automatic", f'"{text}"', "a GPU by name", _FIX)


def _is_asked(module: Module, node: ast.AST) -> bool:
    """An argument of the framework's, or compared with what it answers."""
    parent = module.parent(node)
    if isinstance(parent, ast.keyword):
        parent = module.parent(parent)
    if isinstance(parent, ast.Call):
        return (module.qualified(parent.func) or "").split(".")[0] in _ROOTS
    if isinstance(parent, ast.Compare):
        sides = [inner for side in (parent.left, *parent.comparators) for inner in ast.walk(side)]
        return any(
            (module.qualified(side) or "").split(".")[0] in _ROOTS
            for side in sides
            if isinstance(side, ast.Name | ast.Attribute)
        )
    return False
