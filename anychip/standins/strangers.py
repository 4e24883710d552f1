"""Operators of an installed library that was built without a chip's kernels, as a CPU build of fbgemm: recorded, not run.

What torch calls for an operator without a kernel for the chip. In: the operator and its arguments. Out: results as the library's own
shape function makes them (its kernel for torch's meta device), by one op that is priced by the bytes of its tensors. torch's own
operators are refused in torch's words.
"""

from typing import Any

import torch

from anychip.standins.extensions import Operator
from anychip.standins.registered import keep_library


class Stranger(Operator):
    """One such operator; nobody has its source."""

    unclear = "is of a library without kernels for a chip, and without a shape function for torch's meta device that tells what it returns"

    def __init__(self, namespace: str, name: str) -> None:
        super().__init__(namespace, name, name, "")


def install(runtime: Any) -> None:
    """Answer for operators that torch does not define itself. Call once, before any library is loaded."""
    from anychip.device.insides._torch_tensors import DISPATCH_KEYS

    key = DISPATCH_KEYS[runtime.device_type]
    own = frozenset(name.partition("::")[0] for name in torch._C._dispatch_get_all_op_names())

    def answer(op: Any, *args: Any, **kwargs: Any) -> Any:
        name = op.name()  # namespace::operator, with an overload after a dot
        namespace, _, rest = name.partition("::")
        if namespace in own:
            raise NotImplementedError(f"Could not run '{name}' with arguments from the '{key}' backend.")
        runtime.recorder.warn(
            f"{namespace} is installed without kernels for a chip: its operators are recorded, not run, and priced by their bytes"
        )
        return Stranger(namespace, rest)(*args, **kwargs)

    keep_library("_", "IMPL").fallback(answer, key)
