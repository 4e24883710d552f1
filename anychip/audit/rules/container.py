"""Images and schedulers that ask for NVIDIA's chips: FROM nvidia/cuda, --gpus all, nvidia.com/gpu, --gres=gpu.

Every vendor publishes images with its own stack and a resource name of its own.
"""

import re
from collections.abc import Iterable

from anychip.audit.finding import Finding
from anychip.audit.reading import Plain
from anychip.audit.rules._lines import Pattern, find_patterns

NAME = "container"
KINDS = ("shell", "config", "dockerfile", "docs")
VALID = (
    "<dockerfile>\nFROM python:3.12\n",
    "<config>\n# image: nvidia/cuda\nimage: ubuntu\n",
    "<shell>\npython train.py --gpus-per-node\n",
)
INVALID = (
    ("<dockerfile>\nFROM nvidia/cuda:12.4.1-devel-ubuntu22.04\n", ("nvidia/cuda:12.4.1-devel-ubuntu22.04",)),
    ("<config>\nresources:\n  limits:\n    nvidia.com/gpu: 8\n", ("nvidia.com/gpu",)),
    ("<shell>\ndocker run --gpus all img\n#SBATCH --gres=gpu:8\n", ("--gpus all", "--gres=gpu:8")),
)
_FIX_IMAGE = "the vendor's image for the chip, or an image without a stack and PyTorch for the chip"
_FIX_ASK = "the resource name of the chip"
PATTERNS = (
    Pattern(
        re.compile(r"(?<![\w/])((?:[\w.-]+/)*nvidia/(?:cuda|pytorch|tensorflow|driver|k8s)[\w./:${}-]*|nvcr\.io/[\w./:${}-]+)"),
        "thought", "an image with NVIDIA's stack", _FIX_IMAGE),
    Pattern(re.compile(r"(?<![\w/-])(pytorch/(?:pytorch|manylinux-cuda|manylinux2014-cuda|manylinux)[\w.-]*:[\w.${}-]*cu(?:da|dnn)?\d*[\w.${}-]*)"),
            "thought", "an image with NVIDIA's stack", _FIX_IMAGE),
    Pattern(re.compile(r"(?<!\w)(nvidia\.com/gpu(?:\.\w+)?|nvidia-container-(?:runtime|toolkit)|--runtime[= ]nvidia|runtime:\s*nvidia\b|driver:\s*nvidia\b)"),
            "thought", "a container that asks for NVIDIA's chips", _FIX_ASK),
    Pattern(re.compile(r"(?<!\S)(--gpus[= ]\S+)(?=.*)"), "thought", "a container or job that asks for GPUs", _FIX_ASK),
    Pattern(re.compile(r"(?<!\S)(--(?:gres|tres|gpus-per-(?:node|task))[= ]\S*gpu\S*|--gpus-per-(?:node|task)[= ]\S+)"),
            "thought", "a job that asks for GPUs", _FIX_ASK),
    Pattern(re.compile(r"\b(module\s+load\s+\S*(?:cuda|cudnn|nccl)\S*)", re.IGNORECASE), "thought", "a module of NVIDIA's stack", "the vendor's stack"),
)  # fmt: skip


def find(file: Plain) -> Iterable[Finding]:
    return find_patterns(file, NAME, PATTERNS)
