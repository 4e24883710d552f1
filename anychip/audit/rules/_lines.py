"""Patterns over the lines of shell scripts, configuration and build files, comments left out."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from anychip.audit.finding import Finding
from anychip.audit.reading import Plain
from anychip.source.module import Place
from anychip.source.text import MAX_LINE, lines_of

_HASH = re.compile(r"(?<![\w$\"'{\\/&#:])#(?![!{]|SBATCH\b|PBS\b|BSUB\b).*")
_FENCE = re.compile(r"^\s*(?:```|~~~)\s*([\w+-]*)|^\.\. code-block::|^\s*::\s*$")
_CODE = frozenset(
    {"", "bash", "sh", "shell", "console", "zsh", "shell-session", "dockerfile", "docker", "yaml", "yml", "cmd", "text"}
)


# Without one of these a file of settings or commands has nothing that any rule looks for; requirements list packages instead.
_WORDS = ("cuda", "nvidia", "nccl", "gpu", "nvcc", "nvte", "nvprof", "nvcr", "nsys", "ncu", "cudnn", "cublas", "triton", "install",
          "whl/", "pytorch_", "+cu1")  # fmt: skip


@dataclass(frozen=True)
class Pattern:
    """What matches is the finding's symbol, or its first group where there is one."""

    regex: re.Pattern[str]
    severity: str
    message: str
    fix: str
    need: tuple[str, str] = ("", "")


Judge = Callable[[str], tuple[str, str, tuple[str, str]] | None]


def lines(file: Plain) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, without comments; of documentation, what stands in code blocks for the shell. Once per file."""
    known = file.__dict__.get("_lines")
    if known is None:
        lower = file.text.lower()
        about = file.kind == "requirements" or any(word in lower for word in _WORDS)
        known = file.__dict__["_lines"] = list((_docs if file.kind == "docs" else _code)(file)) if about else []
    return iter(known)


def _code(file: Plain) -> Iterator[tuple[int, str]]:
    plain_json = file.path.endswith(".json")
    for number, line in enumerate(lines_of(file.text), 1):
        kept = line if plain_json or "#" not in line else _HASH.sub("", line)
        if kept and len(kept) <= MAX_LINE and not kept.isspace():
            yield number, kept


def _docs(file: Plain) -> Iterator[tuple[int, str]]:
    inside: str | None = None
    for number, line in enumerate(lines_of(file.text), 1):
        fence = _FENCE.match(line)
        if fence and line.lstrip().startswith(("```", "~~~")):
            inside = None if inside is not None else fence[1].lower()
        elif len(line) <= MAX_LINE and ((inside is not None and inside in _CODE) or line.lstrip().startswith("$ ")):
            yield number, _HASH.sub("", line) if "#" in line else line


def find_patterns(
    file: Plain, rule: str, patterns: tuple[Pattern, ...], judge: Judge | None = None
) -> Iterator[Finding]:
    """judge: severity, fix and need by the symbol, instead of the pattern's; None where it is no finding after all."""
    for number, line in lines(file):
        for pattern in patterns:
            for match in pattern.regex.finditer(line):
                symbol = match[1] if match.re.groups and match[1] else match[0]
                judged = judge(symbol) if judge else (pattern.severity, pattern.fix, pattern.need)
                if judged is None:
                    continue
                severity, fix, need = judged
                line_of_file = file.lines[number - 1] if file.lines else number
                place = Place(file.path, line_of_file, match.start() + 1, line_of_file, match.end() + 1)
                yield Finding(rule, severity, place, symbol.strip()[:80], pattern.message, fix, False, need)
