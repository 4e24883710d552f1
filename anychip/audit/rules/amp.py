"""Mixed precision by CUDA's own names: torch.cuda.amp, get_autocast_gpu_dtype, apex.amp.

They name one device type. torch.amp does the same for every one, given the type of the device that is used; float16 or
bfloat16 and whether a scaler is needed depend on the chip. torch.amp.GradScaler() without a device means CUDA as well.
"""

from collections.abc import Iterable

from anychip.audit.finding import Finding, finding
from anychip.audit.rules._symbols import find_listed
from anychip.source.module import Module

NAME = "amp"
VALID = (
    'import torch\ntorch.amp.GradScaler("xpu")\ntorch.amp.GradScaler(device=kind)\ntorch.amp.GradScaler(**options)\n',
    "import torch\nwith torch.amp.autocast(device.type):\n    pass\n",
    "def autocast(enabled): ...\nautocast(True)\n",
)
INVALID = (
    ("from torch.cuda.amp import autocast as ac\nac()\n", ("torch.cuda.amp.autocast", "torch.cuda.amp.autocast")),
    ("import torch\nscaler = torch.cuda.amp.GradScaler()\n", ("torch.cuda.amp.GradScaler",)),
    ("import torch\nscaler = torch.amp.GradScaler(enabled=True)\n", ("torch.amp.GradScaler",)),
)


_SCALERS = ("torch.amp.GradScaler", "torch.amp.grad_scaler.GradScaler", "torch.GradScaler")


def find(module: Module) -> Iterable[Finding]:
    yield from find_listed(module, NAME)
    for call in module.calls:
        bare = not call.args and not any(keyword.arg in ("device", None) for keyword in call.keywords)
        if bare and module.qualified(call.func) in _SCALERS:
            yield finding(module, call, NAME, "automatic", "torch.amp.GradScaler", "means CUDA where no device is given",
                          "torch.amp.GradScaler(device.type)", ("device", ""))  # fmt: skip
