"""apex's fused layers and optimizers become PyTorch's own, with the defaults that apex has where the two differ."""

import ast

from anychip.port.edits import KERNEL
from anychip.port.unit import Unit

NAME = "fused"
REASON = "PyTorch's own, on every device; apex is CUDA's"
# apex name -> (torch name, keywords that both have, what apex assumes where PyTorch assumes otherwise)
EQUALS: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    "apex.normalization.FusedLayerNorm": ("nn.LayerNorm", ("normalized_shape", "eps", "elementwise_affine"), {}),
    "apex.normalization.FusedRMSNorm": ("nn.RMSNorm", ("normalized_shape", "eps", "elementwise_affine"), {"eps": "1e-5"}),
    "apex.optimizers.FusedAdam": ("optim.AdamW", ("params", "lr", "betas", "eps", "weight_decay", "amsgrad"), {"weight_decay": "0.0"}),
    "apex.optimizers.FusedSGD": ("optim.SGD", ("params", "lr", "momentum", "dampening", "weight_decay", "nesterov"), {}),
    "apex.parallel.SyncBatchNorm": ("nn.SyncBatchNorm", ("num_features", "eps", "momentum", "affine", "track_running_stats"), {}),
    "apex.parallel.convert_syncbn_model": ("nn.SyncBatchNorm.convert_sync_batchnorm", ("module", "process_group"), {}),
}  # fmt: skip
_ALIASES = {
    "apex.normalization.fused_layer_norm.": "apex.normalization.",
    "apex.optimizers.fused_adam.": "apex.optimizers.",
}
_POSITIONAL = {"apex.optimizers.FusedAdam": 2}  # lr is the last argument at the same place in both

VALID = [
    "from mine import FusedAdam\n\nFusedAdam(p)\n",
    "from apex.optimizers import FusedAdam\n\nFusedAdam(p, set_grad_none=True)\n",
]
INVALID = [
    (
        "import torch\nfrom apex.optimizers import FusedAdam\n\no = FusedAdam(p, lr=1e-3)\n",
        "import torch\n\no = torch.optim.AdamW(p, lr=1e-3, weight_decay=0.0)\n",
        "o = torch.optim.AdamW(p, lr=1e-3, weight_decay=0.0)\n",
    ),
    (
        "import torch\nfrom apex.normalization import FusedLayerNorm as LN\n\nn = LN(8, eps=1e-6)\n",
        "import torch\n\nn = torch.nn.LayerNorm(8, eps=1e-6)\n",
        "n = torch.nn.LayerNorm(8, eps=1e-6)\n",
    ),
]


def run(unit: Unit) -> None:
    for call in unit.module.calls:
        name = unit.module.qualified(call.func)
        if name is None or name.split(".")[0] != "apex":
            continue
        for long, short in _ALIASES.items():
            name = name.replace(long, short)
        if name in EQUALS:
            _port(unit, call, name)
        else:
            unit.leave(call, NAME, "PyTorch has no equal by one name: torch.amp stands for apex.amp", KERNEL, name)


def _port(unit: Unit, call: ast.Call, name: str) -> None:
    torch_name, keywords, assumed = EQUALS[name]
    given = {keyword.arg for keyword in call.keywords}
    if (
        not given <= set(keywords)
        or len(call.args) > _POSITIONAL.get(name, len(keywords))
        or not (call.args or call.keywords)
    ):
        return unit.leave(call, NAME, "with these arguments PyTorch has no equal", KERNEL, name)
    source = unit.module
    missing = [
        f"{key}={value}" for key, value in assumed.items() if key not in given and len(call.args) <= keywords.index(key)
    ]
    pieces = [(source.start(call.func), source.end(call.func), f"{unit.header.torch_name()}.{torch_name}")]
    if missing:
        last = max(source.end(node) for node in [*call.args, *call.keywords])
        pieces.append((last, last, "".join(f", {word}" for word in missing)))
    unit.change(pieces, NAME, REASON, name)
    return None
