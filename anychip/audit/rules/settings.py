"""Switches of NVIDIA's libraries: torch.backends.cudnn, torch.backends.cuda.

They exist in every build of PyTorch and do nothing where there is no such library, so they may stay; what they were set
for (TF32, determinism, autotuning) has to be looked up for the other chip.
"""

from collections.abc import Iterable

from anychip.audit.finding import Finding
from anychip.audit.rules._symbols import find_listed
from anychip.source.module import Module

NAME = "settings"
VALID = (
    "import torch\ntorch.backends.mkldnn.enabled = True\n",
    "class torch: ...\ntorch.backends.cudnn.benchmark = True\n",
)
INVALID = (
    ("import torch\ntorch.backends.cudnn.benchmark = True\n", ("torch.backends.cudnn.benchmark",)),
    (
        "import torch.backends.cudnn as cudnn\ncudnn.enabled = False\n",
        ("torch.backends.cudnn", "torch.backends.cudnn.enabled"),
    ),
)


def find(module: Module) -> Iterable[Finding]:
    return find_listed(module, NAME)
