"""Settings and questions that other accelerators pass over: torch.backends.cudnn, TF32, torch.version.cuda.

They exist in every build of PyTorch and change nothing where there is no CUDA, so they stay.
"""

from anychip.port.edits import HARMLESS
from anychip.port.unit import Unit

NAME = "settings"
_PREFIXES = ("torch.backends.cudnn", "torch.backends.cuda", "torch.version.cuda", "torch.version.hip")

VALID = [
    "import torch\n\ntorch.backends.cudnn.benchmark = True\n",
    "import torch\n\ntorch.backends.cuda.matmul.allow_tf32 = True\n",
]
INVALID: list[tuple[str, str, str]] = []


def run(unit: Unit) -> None:
    for node, name in unit.module.uses:
        if name.startswith(_PREFIXES):
            unit.leave(
                node, NAME, "there in every build of PyTorch, and without effect where there is no CUDA", HARMLESS, name
            )
