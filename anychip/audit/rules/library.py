"""Other packages with CUDA inside, or that are mostly used with it.

Which chip has one of its own, or something in its place, is in the platforms of the standard and shown with each finding.
"""

from collections.abc import Iterable

from anychip.audit.finding import Finding
from anychip.audit.rules._packages import find_imports
from anychip.source.module import Module

NAME = "library"
VALID = (
    "import numpy\n",
    "from . import triton\n",
    "from .cuda import kernels\n",
)
INVALID = (
    ("import pynvml\n", ("pynvml",)),
    ("import triton\nimport triton.language as tl\n", ("triton", "triton.language")),
    ('import importlib\nimportlib.import_module("bitsandbytes")\n', ("bitsandbytes",)),
)


def find(module: Module) -> Iterable[Finding]:
    return find_imports(module, NAME)
