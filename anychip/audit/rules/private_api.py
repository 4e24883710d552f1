"""Private parts of PyTorch that only its CUDA side has, or that its compiler has for GPUs.

They change without notice and other chips' plug-ins do not bring them.
"""

from collections.abc import Iterable

from anychip.audit.finding import Finding
from anychip.audit.rules._symbols import find_listed
from anychip.source.module import Module

NAME = "private-api"
VALID = (
    "import torch\ntorch._C._get_tracing_state()\n",
    "import torch\ntorch.compile(f)\n",
)
INVALID = (
    ("import torch\ntorch._C._cuda_setDevice(0)\n", ("torch._C._cuda_setDevice",)),
    (
        "import torch._inductor.config as c\nc.max_autotune = True\n",
        ("torch._inductor.config", "torch._inductor.config.max_autotune"),
    ),
)


def find(module: Module) -> Iterable[Finding]:
    return find_listed(module, NAME)
