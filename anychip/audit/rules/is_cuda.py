"""`tensor.is_cuda`: a test for one vendor's device.

Code that asks it means "on the accelerator" nearly always: compare the type of the device instead.
"""

from collections.abc import Iterable

from anychip.audit.finding import Finding, finding
from anychip.audit.rules._attributes import of_objects
from anychip.source.module import Module

NAME = "is-cuda"
VALID = ("x.device.type\n", "is_cuda = True\nprint(is_cuda)\n")
INVALID = (("if x.is_cuda:\n    pass\n", (".is_cuda",)), ("assert a.is_cuda and not b.is_cpu\n", (".is_cuda",)))
_FIX = "x.device.type != 'cpu', or compare with the type of the accelerator"


def find(module: Module) -> Iterable[Finding]:
    for node in of_objects(module, "is_cuda"):
        yield finding(module, node, NAME, "automatic", ".is_cuda", "false on every other chip", _FIX, ("device", ""))
