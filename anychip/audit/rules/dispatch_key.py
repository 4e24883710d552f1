"""PyTorch's dispatch key "CUDA": operators that are registered for one vendor's devices.

Register the plain version as CompositeExplicitAutograd or for the key of the other device (PrivateUse1 for most plug-ins).
"""

from collections.abc import Iterable

from anychip.audit.finding import Finding, finding
from anychip.source.module import Module

NAME = "dispatch-key"
VALID = ('lib.impl("op", f, "CPU")\n', 'print("CUDA is fast")\n', '"""CUDA"""\n')
INVALID = (('lib.impl("op", f, "CUDA")\n', ('"CUDA"',)), ('dispatch_key = "AutogradCUDA"\n', ('"AutogradCUDA"',)))
_KEYS = frozenset(
    {"CUDA", "AutogradCUDA", "AutocastCUDA", "SparseCUDA", "SparseCsrCUDA", "QuantizedCUDA", "NestedTensorCUDA"}
)
_FIX = "the key of the device that is there, or CompositeExplicitAutograd for what works everywhere"


def find(module: Module) -> Iterable[Finding]:
    for node in module.strings:
        if node.value in _KEYS:
            yield finding(
                module, node, NAME, "thought", f'"{node.value}"', "a key for CUDA devices only", _FIX, ("device", "")
            )
