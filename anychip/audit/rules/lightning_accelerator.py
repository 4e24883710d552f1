"""GPUs by number or name in the arguments of trainers and schedulers: accelerator="gpu", gpus=4, num_gpus=1.

Lightning takes accelerator="auto"; Ray counts other chips as named resources.
"""

import ast
from collections.abc import Iterable

from anychip.audit.finding import Finding, finding
from anychip.source.module import Module

NAME = "lightning-accelerator"
VALID = ('Trainer(accelerator="auto", devices=2)\n', "f(num_cpus=2)\n", "gpus = 2\n")
INVALID = (
    ('Trainer(accelerator="gpu", devices=2)\n', ('accelerator="gpu"',)),
    ("Trainer(gpus=2)\n", ("gpus=",)),
    ("distances(rows, num_gpus=n)\n", ("num_gpus=",)),
    ("@ray.remote(num_gpus=1)\ndef f(): ...\n", ("num_gpus=",)),
)
_COUNTS = frozenset(["gpus", "num_gpus", "n_gpus", "ngpus", "gpus_per_node", "num_gpus_per_node"])
# Who takes such counts: Lightning's and others' trainers, Ray, launchers. A program's own function passes its own number on.
_TAKERS = frozenset(["Trainer", "Fabric", "remote", "options", "init", "ScalingConfig", "Resources", "LightningCLI", "with_resources",
                     "from_argparse_args", "ActorPoolStrategy", "RunConfig", "PyTorch", "Executor", "executor", "update_parameters"])  # fmt: skip
_FIX = {"accelerator": 'accelerator="auto"', "gpus": 'devices=, with accelerator="auto"'}


def find(module: Module) -> Iterable[Finding]:
    for call in module.calls:
        for keyword in call.keywords:
            if keyword.arg in _COUNTS:
                fix = _FIX.get(keyword.arg, "a count of devices of whatever kind")
                taken = _called(call) in _TAKERS
                severity, fix = ("thought", fix) if taken else ("flow", "nothing here: the number comes from elsewhere")
                yield finding(module, keyword, NAME, severity, f"{keyword.arg}=", "counts GPUs", fix, ("device", ""))
            elif (
                keyword.arg == "accelerator"
                and isinstance(keyword.value, ast.Constant)
                and keyword.value.value in ("gpu", "cuda")
            ):
                symbol = f'accelerator="{keyword.value.value}"'
                message = "Lightning's name for CUDA and MPS only"
                yield finding(module, keyword, NAME, "automatic", symbol, message, _FIX["accelerator"], ("device", ""))


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
