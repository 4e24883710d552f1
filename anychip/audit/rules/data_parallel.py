"""torch.nn.DataParallel: several devices in one process.

Some plug-ins lack it, and on CUDA it is the slow way as well. One process per device with DistributedDataParallel works
everywhere.
"""

from collections.abc import Iterable

from anychip.audit.finding import Finding
from anychip.audit.rules._symbols import find_listed
from anychip.source.module import Module

NAME = "data-parallel"
VALID = (
    "from torch.nn.parallel import DistributedDataParallel as DDP\nDDP(m)\n",
    "class DataParallel: ...\nDataParallel()\n",
)
INVALID = (
    ("import torch.nn as nn\nm = nn.DataParallel(m)\n", ("torch.nn.DataParallel",)),
    ("from torch.nn import DataParallel as DP\nDP(m)\n", ("torch.nn.DataParallel", "torch.nn.DataParallel")),
)


def find(module: Module) -> Iterable[Finding]:
    return find_listed(module, NAME)
