"""CUDA in configuration and on command lines: device: cuda, backend: nccl, accelerator: gpu, --device cuda.

What reads them decides; they change with the chip that the program runs on.
"""

import re
from collections.abc import Iterable

from anychip.audit.finding import Finding
from anychip.audit.reading import Plain
from anychip.audit.rules._lines import Pattern, find_patterns

NAME = "device-config"
KINDS = ("config", "shell", "docs", "dockerfile")
VALID = ("<config>\ndevice: cpu\n", "<config>\n# device: cuda\nname: cuda\n", "<shell>\npython train.py --device cpu\n")
INVALID = (
    ("<config>\ntrain:\n  device: cuda:0\n  dist_backend: 'nccl'\n", ("device: cuda:0", "dist_backend: 'nccl'")),
    ('<config>\n{"accelerator": "gpu"}\n', ('"accelerator": "gpu"',)),
    ("<shell>\npython train.py --device=cuda --backend nccl\n", ("--device=cuda", "--backend nccl")),
)
_KEY = r"[\w.-]*(?:device|dev|device_type|map_location|device_map)[\w.-]*"
_FIX = "the type of the device that is there, or a default that the program chooses itself"
_FIX_BACKEND = "the backend of the device: leave it out for PyTorch's own choice"
PATTERNS = (
    Pattern(re.compile(rf"""(["']?{_KEY}["']?\s*[:=]\s*["']?cuda(?::\d+)?["']?)(?=\s*(?:[,}}\]\s#;]|$))""", re.IGNORECASE),
            "automatic", "a CUDA device by name", _FIX, ("device", "")),
    Pattern(re.compile(rf"""(--{_KEY}\s+["']?cuda(?::\d+)?["']?)(?=\s|\\|$)""", re.IGNORECASE),
            "automatic", "a CUDA device by name", _FIX, ("device", "")),
    Pattern(re.compile(r"""(["']?[\w.-]*backend["']?\s*[:=]\s*["']?(?:cpu:gloo,)?(?:cuda:)?nccl["']?|--[\w.-]*backend\s+["']?nccl["']?)(?=\s*(?:[,}\]\s#;\\]|$))"""),
            "automatic", "NVIDIA's collective library by name", _FIX_BACKEND, ("collective", "nccl")),
    Pattern(re.compile(r"""(["']?accelerator["']?\s*[:=]\s*["']?(?:gpu|cuda)["']?|--accelerator\s+["']?(?:gpu|cuda)["']?)(?=\s*(?:[,}\]\s#;\\]|$))"""),
            "automatic", "GPUs by name", "auto", ("device", "")),
)  # fmt: skip


def find(file: Plain) -> Iterable[Finding]:
    return find_patterns(file, NAME, PATTERNS)
