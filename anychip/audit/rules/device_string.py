"""Strings that name a CUDA device: "cuda", "cuda:0", f"cuda:{rank}", in code, defaults, options and tests.

Choose the device once (torch.accelerator.current_accelerator(), which is None on a build of PyTorch without one) and pass it
on. A string whose place does not say that it is a device needs a look: a folder may be called cuda as well.
"""

import re
from collections.abc import Iterable

from anychip.audit.finding import Finding, finding
from anychip.source.flow import Value, flow_of
from anychip.source.module import Module

NAME = "device-string"
VALID = (
    'path = "csrc/cuda/kernel.cu"\n',
    '"""Runs on cuda."""\n',
    "# device = 'cuda'\n",
    'name = f"cuda/{file}"\n',
    'x.to("cpu")\n',
)
INVALID = (
    ('import torch\ndevice = torch.device("cuda")\n', ('"cuda"',)),
    ('x = x.to(f"cuda:{rank}")\n', ('"cuda:{}"',)),
    ('parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])\n', ('"cuda"', '"cuda"')),
    ('if x.device.type == "cuda":\n    pass\n', ('"cuda"',)),
    ('from dataclasses import dataclass\n@dataclass\nclass C:\n    device: str = "cuda:0"\n', ('"cuda:0"',)),
    ('backends = {"cuda": "a", "cpu": "b"}\n', ('"cuda"',)),
)
_DEVICEY = re.compile(r"device|\bdev\b|gpu|accel|map_loc|\.type\b|place|args:", re.IGNORECASE)
_SAYS = re.compile(
    r"(?:^|\.)(?:print|log|info|warn|warning|error|debug|exception|\w*Error|skip|skipif|skipIf|write|add_scalar)$"
)
_FIX = "the device that the program chose: torch.accelerator.current_accelerator() (None on a CPU build), passed on"
_FIX_TEST = "compare with the type of the accelerator, or ask for what is needed there"


def find(module: Module) -> Iterable[Finding]:
    for value in flow_of(module).values:
        if value.kind == "device":
            severity, message, fix = _judge(value)
            yield finding(module, value.node, NAME, severity, f'"{value.text}"', message, fix, ("device", ""))


def _judge(value: Value) -> tuple[str, str, str]:
    """Severity, message and fix by what takes the string."""
    uses = dict(reversed(value.uses))
    if "sink" in uses:
        return "automatic", f"a CUDA device by name, given to {uses['sink']}", _FIX
    if "compare" in uses:
        sure = bool(_DEVICEY.search(uses["compare"]))
        return "automatic" if sure else "thought", "a test for CUDA by name", _FIX_TEST
    if "slot" in uses and any(_DEVICEY.search(slot) for slot in value.slots):
        return "automatic", f"a CUDA device by name, kept in {_short(value.slots[0])}", _FIX
    if "choice" in uses:
        return (
            "thought",
            "CUDA as one of several devices",
            "add the other devices' types, or ask PyTorch which there are",
        )
    if "argument" in uses and _SAYS.search(uses["argument"].split("(")[0]):
        return "cosmetic", "CUDA in a message", "name the device that is used"
    if uses.get("argument") in ("getattr", "hasattr", "setattr"):
        return "thought", "looks for CUDA's module by name", "torch.get_device_module(device)"
    if "key" in uses:
        return "thought", "CUDA as a key", "a key for every type of device, or the accelerator's"
    return "thought", "CUDA by name: nothing here says for certain that it is a device", _FIX


def _short(slot: str) -> str:
    return ".".join(slot.split("@")[0].split(".")[-2:])
