"""Runs a script on real processes and writes the collectives of each rank: counted.py OUT script.py args..."""

import json
import os
import runpy
import sys
from typing import Any

from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What functional collectives become in c10d.
NAMES = {
    "all_reduce": "allreduce_",
    "all_gather_into_tensor": "allgather_into_tensor_coalesced_",
    "reduce_scatter_tensor": "reduce_scatter_tensor_coalesced_",
}
calls: list[tuple[str, int]] = []


class Count(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if DTensor in types:
            return NotImplemented  # it comes here again with the parts of it that communicate
        name = func._opname
        if func.namespace == "c10d":
            calls.append((name, nbytes(args[0 if name in ("allreduce_", "broadcast_") else 1])))
        elif func.namespace == "_c10d_functional" and name in NAMES:
            calls.append((NAMES[name], nbytes(args[0])))
        return func(*args, **(kwargs or {}))


def nbytes(inputs: Any) -> int:
    return sum(one.numel() * one.element_size() for one in tree_leaves(inputs))


out, sys.argv = sys.argv[1], sys.argv[2:]
with Count():
    runpy.run_path(sys.argv[0], run_name="__main__")
with open(f"{out}/{os.environ['RANK']}.json", "w") as file:
    json.dump(calls, file)
# With every count written: gloo's threads at times abort an interpreter that ends ("terminate called without an active
# exception", one run of fifteen on two busy cores), and what they do then is not what is tested.
os._exit(0)
