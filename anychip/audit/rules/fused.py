"""Packages of fused kernels for CUDA: apex, transformer_engine, liger_kernel.

PyTorch has the same layers and optimizers unfused, torch.compile fuses them for the chip; the numbers may differ in the last
bits.
"""

from collections.abc import Iterable

from anychip.audit.finding import Finding
from anychip.audit.rules._packages import find_imports
from anychip.source.module import Module

NAME = "fused"
VALID = (
    "import torch.nn as nn\nnn.LayerNorm(3)\n",
    "from apexpy import Apex\n",
)
INVALID = (
    ("from apex.optimizers import FusedAdam\n", ("apex.optimizers",)),
    (
        "try:\n    import transformer_engine.pytorch as te\nexcept ImportError:\n    te = None\n",
        ("transformer_engine.pytorch",),
    ),
)


def find(module: Module) -> Iterable[Finding]:
    return find_imports(module, NAME)
