"""Packages of attention kernels for CUDA: flash_attn, xformers, flashinfer.

torch.nn.functional.scaled_dot_product_attention computes the same and picks the chip's own kernel; some vendors have a
package of the same interface.
"""

from collections.abc import Iterable

from anychip.audit.finding import Finding
from anychip.audit.rules._packages import find_imports
from anychip.source.module import Module

NAME = "attention"
VALID = (
    "import torch.nn.functional as F\nF.scaled_dot_product_attention(q, k, v)\n",
    "from .flash_attn import flash_attn_func\n",
)
INVALID = (
    ("from flash_attn import flash_attn_func\n", ("flash_attn",)),
    ("import xformers.ops as xops\n", ("xformers.ops",)),
)


def find(module: Module) -> Iterable[Finding]:
    return find_imports(module, NAME)
