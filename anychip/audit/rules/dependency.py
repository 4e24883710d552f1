"""Requirements that are bound to CUDA: flash-attn, nvidia-cudnn-cu12, torch==2.5.1+cu124, an index of CUDA builds.

Vendors publish builds or plug-ins of PyTorch of their own; packages with CUDA inside are found as the imports are.
"""

import re
from collections.abc import Iterable, Iterator

from anychip.audit.finding import Finding
from anychip.audit.packages import by_dist, plain
from anychip.audit.reading import Plain
from anychip.audit.rules._lines import lines
from anychip.source.module import Place

NAME = "dependency"
KINDS = ("requirements", "shell", "dockerfile", "docs", "config")
VALID = (
    "<requirements>\ntorch>=2.6\nnumpy\n# flash-attn\n",
    "<shell>\npip install numpy\n",
    "<config>\nname: flash-attn\n",
)
INVALID = (
    ("<requirements>\nflash-attn==2.7.2\nnvidia-cudnn-cu12\n", ("flash-attn", "nvidia-cudnn-cu12")),
    ("<requirements>\ntorch==2.5.1+cu124\n", ("torch==2.5.1+cu124",)),
    ("<shell>\npip install torch --index-url https://download.pytorch.org/whl/cu121\n", ("whl/cu121",)),
    ("<shell>\npip install -U flash-attn bitsandbytes\n", ("flash-attn", "bitsandbytes")),
    ("<requirements>\ndependencies:\n  - pytorch-cuda=12.1\n", ("pytorch-cuda",)),
)
_NAME = re.compile(r"""(?<![\w./@+-])["']?([A-Za-z][\w.-]*[A-Za-z0-9])(?=[\["'\s=<>~!;,@)\]]|$)""")
_INSTALL = re.compile(r"\b(?:pip3?|uv|conda|mamba|micromamba|poetry|pdm)\b.*?\b(?:install|add)\b(.*)")
_APT = re.compile(r"\b(?:apt|apt-get|yum|dnf|apk)\b.*?\binstall\b(.*)")
_NVIDIA = re.compile(
    r"(?:nvidia-[\w-]+-cu\d+|nvidia-(?:cuda|cudnn|nccl|cublas|cufft|dali|modelopt|ml-py3?|pyindex|cutlass)[\w-]*|pytorch-cuda|"
    r"cuda-?toolkit[\w-]*|cudatoolkit|cudnn|cuda-(?:nvcc|cudart|libraries|compiler|drivers|python|runtime|bindings|core)[\w.-]*|"
    r"libcudnn\d[\w.-]*|libnccl\d?[\w.-]*|libcu(?:blas|fft|sparse|solver|rand)[\w.-]*|tensorflow-gpu|onnxruntime-gpu|faiss-gpu[\w-]*|"
    r"jaxlib?-cuda\d*[\w-]*|paddlepaddle-gpu|cupy-cuda\w+|dgl-cu\d+|spconv-cu\d+|mxnet-cu\d+|mindspore-gpu)\Z"
)
_LOCAL = re.compile(r"(?<![\w.])((?:torch\w*|xformers|vllm|jax|jaxlib|torch-\w+)\s*==\s*[\w.]+\+cu\d+)")
_EXTRA = re.compile(r"\b((?:jax|tensorflow|vllm|jaxlib)\[[^\]]*cuda[^\]]*\])")
_INDEX = re.compile(
    r"(whl/(?:nightly/|test/)?cu\d+|pytorch-wheels/cu\d+|developer\.download\.nvidia\.com\S*|pypi\.ngc\.nvidia\.com|pypi\.nvidia\.com)"
)
_FIX_INDEX = "the index or plug-in of the chip's vendor: the platform's install.packages"


# What a project is called and said to be is no requirement of its own.
_OF_ITSELF = re.compile(r"\s*(?:name|description|keywords|authors)\s*[=:]")

# Elsewhere than in requirements, a package is one where something installs it.
_INSTALLING = ("install", "add ", "whl/", "+cu1", "nvidia.com", "cuda")


def find(file: Plain) -> Iterator[Finding]:
    if file.kind != "requirements" and not any(word in file.text for word in _INSTALLING):
        return
    for number, line in lines(file):
        for pattern, message in (
            (_INDEX, "an index of builds for CUDA"),
            (_LOCAL, "a build for CUDA"),
            (_EXTRA, "a build for CUDA"),
        ):
            for match in pattern.finditer(line):
                yield _finding(
                    file, number, match.start(1), match[1], "thought", message, _FIX_INDEX, ("library", "torch")
                )
        for start, words in _listed(file, line):
            yield from _packages(file, number, start, words)


def _listed(file: Plain, line: str) -> Iterable[tuple[int, str]]:
    """The part of a line that lists packages."""
    if file.kind == "requirements":
        if _OF_ITSELF.match(line):
            return
        if (
            not file.path.endswith((".toml", ".cfg", "Pipfile"))
            or "=" in line
            or '"' in line
            or line.startswith((" ", "\t"))
        ):
            yield 0, line
        return
    for pattern in (_INSTALL, _APT):
        match = pattern.search(line)
        if match:
            yield match.start(1), match[1]
            return


def _packages(file: Plain, number: int, start: int, words: str) -> Iterator[Finding]:
    for match in _NAME.finditer(words):
        name = plain(match[1])
        package = by_dist().get(name)
        if package is not None:
            yield _finding(
                file,
                number,
                start + match.start(1),
                match[1],
                package.severity,
                package.message,
                package.fix,
                package.need,
            )
        elif _NVIDIA.match(name):
            yield _finding(
                file,
                number,
                start + match.start(1),
                match[1],
                "automatic",
                "a part of NVIDIA's stack",
                _FIX_INDEX,
                ("library", "torch"),
            )
        if file.kind == "requirements" and not file.path.endswith((".toml", ".cfg", "Pipfile", ".yml", ".yaml")):
            return


def _finding(
    file: Plain, line: int, at: int, symbol: str, severity: str, message: str, fix: str, need: tuple[str, str]
) -> Finding:
    number = file.lines[line - 1] if file.lines else line
    place = Place(file.path, number, at + 1, number, at + 1 + len(symbol))
    return Finding(NAME, severity, place, symbol, message, fix, False, need)
