"""Tensor types of CUDA from before torch.device: torch.cuda.FloatTensor, also as strings.

No other device has them, and a shim that maps them has been seen to make float32 of DoubleTensor. A dtype and a device say
the same.
"""

import ast
import re
from collections.abc import Iterable

from anychip.audit.finding import Finding, finding
from anychip.audit.rules._symbols import find_listed, names
from anychip.source.flow import flow_of
from anychip.source.module import Module

NAME = "legacy-tensor"
VALID = (
    "import torch\ntorch.FloatTensor(3)\n",
    'name = "torch.cuda.FloatTensorish"\n',
    "import torch\ntorch.set_default_dtype(torch.float64)\n",
)
INVALID = (
    ("import torch\nx = torch.cuda.FloatTensor(3)\n", ("torch.cuda.FloatTensor",)),
    (
        'import torch\ntorch.set_default_tensor_type("torch.cuda.FloatTensor")\n',
        ("torch.set_default_tensor_type", '"torch.cuda.FloatTensor"'),
    ),
    ("from torch.cuda import HalfTensor as H\nH(3)\n", ("torch.cuda.HalfTensor", "torch.cuda.HalfTensor")),
)
TYPE = re.compile(r"torch\.cuda\.(?:sparse\.)?[A-Z][A-Za-z0-9]*(?:Tensor|Storage)\Z")
_FIX = "a dtype and a device: torch.empty(n, dtype=torch.float32, device=device), torch.set_default_device(device)"


def find(module: Module) -> Iterable[Finding]:
    yield from find_listed(module, NAME)
    for node, name in names(module):
        if name.startswith("torch.cuda.") and TYPE.match(name):
            yield _finding(module, node, name)
    for value in flow_of(module).values:
        if value.kind == "tensor_type":
            yield _finding(module, value.node, f'"{value.text}"')


def _finding(module: Module, node: ast.AST, symbol: str) -> Finding:
    return finding(module, node, NAME, "thought", symbol, "a tensor type that only CUDA has", _FIX, ("device", ""))
