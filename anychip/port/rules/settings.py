"""Settings that other accelerators pass over: torch.backends.cudnn, TF32. Versions of CUDA are for a person.

The settings exist in every build of PyTorch and change nothing where there is no CUDA, so they stay. torch.version.cuda and
the like are None there: comparing one with a version fails, and what stands behind a test of it is passed over.
"""

from anychip.port.edits import HARMLESS, THOUGHT
from anychip.port.unit import Unit

NAME = "settings"
_PREFIXES = ("torch.backends.cudnn", "torch.backends.cuda")
_NONE_ELSEWHERE = ("torch.version.cuda", "torch.version.hip", "torch.backends.cudnn.version")
_OTHER_CHIPS = "it is None on other chips, so a comparison with it fails there: ask for the feature that is needed"

VALID = [
    "import torch\n\ntorch.backends.cudnn.benchmark = True\n",
    "import torch\n\ntorch.backends.cuda.matmul.allow_tf32 = True\n",
    'import torch\n\nif torch.version.cuda >= "12.0":\n    pass\n',
]
INVALID: list[tuple[str, str, str]] = []


def run(unit: Unit) -> None:
    for node, name in unit.module.uses:
        if name.startswith(_NONE_ELSEWHERE):
            unit.leave(node, NAME, _OTHER_CHIPS, THOUGHT, name)
        elif name.startswith(_PREFIXES):
            unit.leave(
                node, NAME, "there in every build of PyTorch, and without effect where there is no CUDA", HARMLESS, name
            )
