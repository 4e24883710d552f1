"""NCCL by name: the backend of init_process_group, tests of it, and PyTorch's classes for it.

torch.distributed.get_default_backend_for_device(device) gives the device's own; without a backend, init_process_group
takes it as well. Names are not unique (two vendors call theirs hccl): ask PyTorch, not a table.
"""

from collections.abc import Iterable

from anychip.audit.finding import Finding, finding
from anychip.audit.rules._symbols import find_listed
from anychip.source.flow import flow_of
from anychip.source.module import Module

NAME = "collective-backend"
VALID = (
    'import torch.distributed as dist\ndist.init_process_group("gloo")\n',
    'print("nccl is fast")\n',
    '"""nccl"""\n',
)
INVALID = (
    ('import torch.distributed as dist\ndist.init_process_group(backend="nccl")\n', ('"nccl"',)),
    ('if backend == "nccl":\n    pass\n', ('"nccl"',)),
    ("import torch.distributed as d\nd.is_nccl_available()\n", ("torch.distributed.is_nccl_available",)),
    ("import torch\nif b == torch.distributed.Backend.NCCL:\n    pass\n", ("torch.distributed.Backend.NCCL",)),
)
_FIX = "torch.distributed.get_default_backend_for_device(device)"


def find(module: Module) -> Iterable[Finding]:
    yield from find_listed(module, NAME)
    for value in flow_of(module).values:
        if value.kind != "backend":
            continue
        kinds = {kind for kind, _ in value.uses}
        plain = bool(kinds & {"sink", "slot", "choice"})
        message = (
            "NVIDIA's collective library by name"
            if "compare" not in kinds
            else "a test for NVIDIA's collective library"
        )
        yield finding(module, value.node, NAME, "automatic" if plain else "thought", f'"{value.text}"', message, _FIX,
                      ("collective", "nccl"))  # fmt: skip
