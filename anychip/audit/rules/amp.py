"""Mixed precision by CUDA's own names: torch.cuda.amp, get_autocast_gpu_dtype, apex.amp.

They name one device type. torch.amp does the same for every one, given the type of the device that is used; float16 or
bfloat16 and whether a scaler is needed depend on the chip.
"""

from collections.abc import Iterable

from anychip.audit.finding import Finding
from anychip.audit.rules._symbols import find_listed
from anychip.source.module import Module

NAME = "amp"
VALID = (
    "import torch\nwith torch.amp.autocast(device.type):\n    pass\n",
    "def autocast(enabled): ...\nautocast(True)\n",
)
INVALID = (
    ("from torch.cuda.amp import autocast as ac\nac()\n", ("torch.cuda.amp.autocast", "torch.cuda.amp.autocast")),
    ("import torch\nscaler = torch.cuda.amp.GradScaler()\n", ("torch.cuda.amp.GradScaler",)),
)


def find(module: Module) -> Iterable[Finding]:
    return find_listed(module, NAME)
