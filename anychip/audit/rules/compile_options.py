"""torch.compile told how: mode="max-autotune", backend="inductor", CUDA graphs.

Other chips bring compilers of their own, and not every one knows these modes: choose them by the device, or leave them to the
plug-in's default.
"""

import ast
from collections.abc import Iterable

from anychip.audit.finding import Finding, finding
from anychip.source.module import Module

NAME = "compile-options"
VALID = (
    "import torch\nf = torch.compile(f)\n",
    'import torch\nf = torch.compile(f, backend="eager", mode="default")\n',
    'import re\nre.compile("x", mode="max-autotune")\n',
)
INVALID = (
    ('import torch\nf = torch.compile(f, mode="max-autotune")\n', ('mode="max-autotune"',)),
    ('import torch\n@torch.compile(mode="reduce-overhead")\ndef f(): ...\n', ('mode="reduce-overhead"',)),
    ('import torch as t\nt.compile(m, backend="inductor")\n', ('backend="inductor"',)),
)
_BOUND = {
    "mode": {"max-autotune", "reduce-overhead", "max-autotune-no-cudagraphs"},
    "backend": {"inductor", "cudagraphs", "nvfuser", "aot_ts_nvfuser", "tensorrt", "torch_tensorrt"},
}


def find(module: Module) -> Iterable[Finding]:
    for call in module.calls:
        if not call.keywords or module.qualified(call.func) != "torch.compile":
            continue
        for keyword in call.keywords:
            value = str(keyword.value.value) if isinstance(keyword.value, ast.Constant) else None
            if value in _BOUND.get(keyword.arg or "", ()):
                symbol = f'{keyword.arg}="{value}"'
                yield finding(module, keyword, NAME, "thought", symbol, "how CUDA's compiler is to work",
                              "the default, or a choice by device", ("compile", str(value)))  # fmt: skip
