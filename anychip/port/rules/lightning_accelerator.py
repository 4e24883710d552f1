"""Lightning's Trainer and Fabric: accelerator="cuda" or "gpu" becomes "auto", which takes the accelerator that is here."""

import ast

from anychip.port.unit import Unit

NAME = "lightning-accelerator"
REASON = '"auto" takes the accelerator that is here, and on a CUDA machine that is CUDA'
_CALLS = ("Fabric", "Trainer")
_PACKAGES = ("lightning", "pytorch_lightning", "lightning_fabric", "lightning_pytorch")

VALID = ['accelerator = "gpu"\n', 'Trainer(accelerator="gpu")\n']
INVALID = [
    (
        'import lightning as L\n\nfabric = L.Fabric(accelerator="cuda", devices=2)\n',
        'fabric = L.Fabric(accelerator="auto", devices=2)\n',
        'fabric = L.Fabric(accelerator="auto", devices=2)\n',
    ),
]


def run(unit: Unit) -> None:
    for call in unit.module.calls:
        name = unit.module.qualified(call.func)
        if name is None or name.split(".")[0] not in _PACKAGES or name.split(".")[-1] not in _CALLS:
            continue
        for keyword in call.keywords:
            if (
                keyword.arg == "accelerator"
                and isinstance(keyword.value, ast.Constant)
                and keyword.value.value in ("cuda", "gpu")
            ):
                unit.replace(keyword.value, '"auto"', NAME, REASON, f'accelerator="{keyword.value.value}"')
