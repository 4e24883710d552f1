"""Calls into torch.cuda: streams, events, memory, random states, graphs, properties.

Most have the same name in the module of another device, which torch.get_device_module(device) gives, or a portable one in
torch.accelerator. Capabilities, graphs, NVTX and NVML are NVIDIA's own and need a decision.
"""

from collections.abc import Iterable
from dataclasses import replace

from anychip.audit.finding import Finding
from anychip.audit.rules._symbols import find_listed
from anychip.audit.rules.legacy_tensor import TYPE
from anychip.source.module import Module

NAME = "cuda-api"
VALID = (
    "import torch\ntorch.accelerator.synchronize()\n",
    "def f(torch):\n    return torch.cuda.synchronize()\n",
    "import cuda\ncuda.synchronize()\n",
    "# torch.cuda.synchronize()\n",
    "import torch\ntorch.cuda.FloatTensor(3)\n",
)
INVALID = (
    ("import torch\ntorch.cuda.synchronize()\n", ("torch.cuda.synchronize",)),
    ("from torch import cuda as c\nc.Stream()\n", ("torch.cuda", "torch.cuda.Stream")),
    ("import torch as t\ngpu = t.cuda\n\ndef f():\n    gpu.empty_cache()\n", ("torch.cuda", "torch.cuda.empty_cache")),
    ("import torch\nif torch.cuda.get_device_capability() >= (8, 0):\n    pass\n",
     ("torch.cuda.get_device_capability",)),
)  # fmt: skip


def find(module: Module) -> Iterable[Finding]:
    for found in find_listed(module, NAME):
        if TYPE.match(found.symbol):
            continue  # another rule's, which says more of it
        if found.need[0] == "api":
            yield replace(found, need=("api", found.symbol.removeprefix("torch.cuda").removeprefix(".").split(".")[0]))
        else:
            yield found
