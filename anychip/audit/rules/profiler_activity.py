"""The profiler's CUDA side: ProfilerActivity.CUDA, emit_nvtx, use_cuda, columns called cuda_time.

Plug-ins register their own activity; the columns are called device_time since torch 2.4.
"""

import ast
from collections.abc import Iterable

from anychip.audit.finding import Finding, finding
from anychip.audit.rules._symbols import find_listed
from anychip.source.module import Module

NAME = "profiler-activity"
VALID = ("from torch.profiler import ProfilerActivity\nProfilerActivity.CPU\n", "sort_by = 1\nf(sort_by='cpu_time')\n")
INVALID = (
    ("from torch.profiler import ProfilerActivity as A\nA.CUDA\n", ("torch.profiler.ProfilerActivity.CUDA",)),
    ('prof.key_averages().table(sort_by="cuda_time_total")\n', ('sort_by="cuda_time_total"',)),
    ("import torch\ntorch.autograd.profiler.profile(use_cuda=True)\n", ("use_cuda=",)),
)


def find(module: Module) -> Iterable[Finding]:
    yield from find_listed(module, NAME)
    for call in module.calls:
        for keyword in call.keywords:
            if keyword.arg == "use_cuda":
                yield _finding(
                    module, keyword, "use_cuda=", "a switch for CUDA", "a device, or use_device= of the profiler"
                )
            elif keyword.arg == "sort_by" and isinstance(keyword.value, ast.Constant):
                text = str(keyword.value.value)
                if "cuda" in text:
                    fix = text.replace("cuda", "device")
                    yield _finding(
                        module, keyword, f'sort_by="{text}"', "a column named after CUDA", f'sort_by="{fix}"'
                    )


def _finding(module: Module, node: ast.keyword, symbol: str, message: str, fix: str) -> Finding:
    severity = "thought" if symbol == "use_cuda=" else "automatic"
    return finding(module, node, NAME, severity, symbol, message, fix)
