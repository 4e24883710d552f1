"""ProfilerActivity.CUDA records NVIDIA's kernels. Portable code names the accelerator's activity, PrivateUse1 for plug-ins."""

import ast

from anychip.port.unit import Unit

NAME = "profiler-activity"
REASON = "the activity of the accelerator that is here; plug-ins record under PrivateUse1"
_NAMES = ("torch.profiler.ProfilerActivity.CUDA", "torch.autograd.ProfilerActivity.CUDA")

VALID = ["import torch\n\na = torch.profiler.ProfilerActivity.CPU\n", "a = ProfilerActivity.CUDA\n"]
INVALID = [
    (
        "from torch.profiler import ProfilerActivity\n\na = [ProfilerActivity.CPU, ProfilerActivity.CUDA]\n",
        "a = [ProfilerActivity.CPU, getattr(ProfilerActivity, ACCELERATOR.upper(), ProfilerActivity.PrivateUse1)]\n",
        'a = [ProfilerActivity.CPU, getattr(ProfilerActivity, "NPU", ProfilerActivity.PrivateUse1)]\n',
    ),
]


def run(unit: Unit) -> None:
    for node, name in unit.module.uses:
        if isinstance(node, ast.Attribute) and name in _NAMES:
            activity = unit.module.of(node.value)
            kind = (
                f"{unit.header.accelerator()}.upper()"
                if unit.target.portable
                else f'"{unit.target.device_type.upper()}"'
            )
            unit.replace(
                node, f"getattr({activity}, {kind}, {activity}.PrivateUse1)", NAME, REASON, "ProfilerActivity.CUDA"
            )
