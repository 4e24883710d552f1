"""torch.version.cuda and torch.version.hip: code that asks which vendor's build this is.

They are None elsewhere. Ask for the feature that is needed, or for the type of the device.
"""

from collections.abc import Iterable

from anychip.audit.finding import Finding
from anychip.audit.rules._symbols import find_listed
from anychip.source.module import Module

NAME = "version"
VALID = (
    "import torch\nprint(torch.__version__)\n",
    "import sys\nsys.version\n",
)
INVALID = (
    ("import torch\nif torch.version.cuda:\n    pass\n", ("torch.version.cuda",)),
    ("from torch import version as v\nv.hip is not None\n", ("torch.version.hip",)),
)


def find(module: Module) -> Iterable[Finding]:
    return find_listed(module, NAME)
