"""C++ and CUDA C++ without comments, line by line numbers kept, and patterns over it."""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from anychip.audit.finding import Finding
from anychip.audit.reading import Plain
from anychip.source.module import Place

KINDS = ("cuda", "cxx")
_COMMENT = re.compile(r'//[^\n]*|/\*.*?(?:\*/|\Z)|"(?:\\.|[^"\\\n])*"', re.DOTALL)
# Without one of these words a C++ file has nothing to do with CUDA.
_WORDS = re.compile(
    r"cuda|CUDA|cublas|cudnn|nccl|nvml|nvtx|__device__|__global__|\bcu[A-Z]|cutlass|cute::|thrust::|cub::|cufft|cusparse|curand|cusolver|wmma|nvrtc"
)

_HIP = re.compile(r"hip/hip_|__HIP_PLATFORM|\bhip(?:Error|Stream|Event|Texture|Malloc|Memcpy|Launch|Device)\w*")
_CUDA = re.compile(
    r"\bcuda[A-Z]\w+|\bcuda\w*\.h\b|(?:at|c10|torch)::cuda|cu(?:blas|dnn|fft|sparse|rand|solver)|\bCUDA_?[A-Z]\w*"
)


@dataclass(frozen=True)
class Construct:
    """What matches is the symbol, or its first group where there is one; `symbol` instead where it is given."""

    regex: re.Pattern[str]
    severity: str
    message: str
    fix: str
    symbol: str = ""


def code(file: Plain) -> str | None:
    """The text with comments blanked, characters and lines where they were; None if it is not about CUDA. Once per file."""
    if "_code" not in file.__dict__:
        about = (file.kind == "cuda" or _WORDS.search(file.text)) and not _is_hip(file)
        file.__dict__["_code"] = _COMMENT.sub(_blank, file.text) if about else None
    found: str | None = file.__dict__["_code"]
    return found


def _is_hip(file: Plain) -> bool:
    """Whether a file is AMD's already: it names HIP and nothing of CUDA, and is not called CUDA's (.cu may be for both)."""
    if file.path.endswith((".cu", ".cuh")):
        return False
    return _HIP.search(file.text) is not None and _CUDA.search(file.text) is None


def _blank(match: re.Match[str]) -> str:
    text = match[0]
    return text if text[0] == '"' else re.sub(r"[^\n]", " ", text)


def _line_ends(file: Plain) -> list[int]:
    if "_ends" not in file.__dict__:
        file.__dict__["_ends"] = [match.start() for match in re.finditer("\n", file.text)]
    ends: list[int] = file.__dict__["_ends"]
    return ends


def place(file: Plain, start: int, end: int) -> Place:
    """Of a match, by characters."""
    ends = _line_ends(file)
    line = bisect_right(ends, start - 1)
    begin = ends[line - 1] + 1 if line else 0
    return Place(file.path, line + 1, start - begin + 1, line + 1, end - begin + 1)


def find_constructs(
    file: Plain, rule: str, constructs: tuple[Construct, ...], need: Callable[[str], tuple[str, str]]
) -> Iterator[Finding]:
    text = code(file)
    if text is None:
        return
    for construct in constructs:
        for match in construct.regex.finditer(text):
            at = 1 if construct.regex.groups and match[1] else 0
            symbol = construct.symbol or match[at]
            where = place(file, match.start(at), match.end(at))
            yield Finding(
                rule, construct.severity, where, symbol, construct.message, construct.fix, False, need(match[at])
            )
