"""NVIDIA's command-line tools: nvidia-smi, nsys, ncu, nvcc, nvidia-docker.

Each vendor has its own; the platforms of the standard name the monitor.
"""

import re
from collections.abc import Iterable

from anychip.audit.finding import Finding, finding
from anychip.audit.reading import Plain
from anychip.audit.rules._lines import Pattern, find_patterns
from anychip.source.module import Module

NAME = "nvidia-tool"
KINDS = ("python", "shell", "config", "dockerfile", "docs")
VALID = ('print("smi")\n', "<shell>\n# nvidia-smi\npython train.py\n", "<config>\nname: nsystem\n")
INVALID = (
    ('import subprocess\nsubprocess.run(["nvidia-smi"])\n', ("nvidia-smi",)),
    ("<shell>\nnvidia-smi -L\nnsys profile python a.py\n", ("nvidia-smi", "nsys")),
    ('import os\nos.system("nvidia-smi -q")\n', ("nvidia-smi",)),
)
_TOOL = re.compile(
    r"(?<![\w./-])(?:/usr/bin/)?(nvidia-smi|nvidia-docker|nvidia-cuda-mps-control|nsys(?=\s+\w)|ncu(?=\s+-)|nvprof|nvcc(?=\s)|nvidia\.nsight(?:-\w+)*)(?![\w-])"
)
_IN_STRING = re.compile(r"nvidia-smi")
_FIX = "the chip's own tool: platforms name it (detect.smi)"


def find(file: Module | Plain) -> Iterable[Finding]:
    if isinstance(file, Module):
        for node in file.strings:
            if _IN_STRING.search(str(node.value)):
                yield finding(file, node, NAME, "thought", "nvidia-smi", "NVIDIA's tool", _FIX, ("smi", ""))
    else:
        yield from find_patterns(file, NAME, (Pattern(_TOOL, "thought", "NVIDIA's tool", _FIX, ("smi", "")),))
