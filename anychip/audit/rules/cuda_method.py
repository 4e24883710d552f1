"""`.cuda()` of tensors and modules.

It moves to CUDA and nothing else. `.to(device)` moves to the device that the program chose; non_blocking goes with it.
"""

from collections.abc import Iterable

from anychip.audit.finding import Finding, finding
from anychip.audit.rules._attributes import is_called, of_objects
from anychip.source.module import Module

NAME = "cuda-method"
VALID = (
    "x = x.to(device)\n",
    "import numba\nnumba.cuda.jit(f)\n",
    "has = x.cuda\n",
    "import torch\ntorch.cuda.synchronize()\n",
)
INVALID = (
    ("x = x.cuda()\n", (".cuda()",)),
    ("import torch\nmodel = torch.nn.Linear(1, 1).cuda(0)\n", (".cuda()",)),
    ("batch = [t.cuda(non_blocking=True) for t in batch]\n", (".cuda()",)),
)


def find(module: Module) -> Iterable[Finding]:
    for node in of_objects(module, "cuda"):
        if is_called(module, node):
            yield finding(
                module,
                node,
                NAME,
                "automatic",
                ".cuda()",
                "moves to CUDA and nothing else",
                ".to(device)",
                ("device", ""),
            )
