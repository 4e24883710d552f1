"""What is not Python: launch scripts, Dockerfiles, requirements, settings, READMEs, and CUDA C++.

Line by line, by what is certain: a variable that a script sets, the value of an option called --device, a key called device.
A chip's form edits these; portable code needs them as they are on CUDA. What is left of them the audit finds. Prose is never edited.
"""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from anychip.audit.rules.environment import TWINS
from anychip.port import writing
from anychip.port.edits import Edit, apply
from anychip.port.engine import Ported
from anychip.port.target import Target
from anychip.port.unit import Change
from anychip.source.files import kind_of
from anychip.source.ignores import Ignores, ignores
from anychip.source.text import MAX_LINE, Text
from anychip.temporary import temporary

KERNELS = (".cu", ".cuh")
CXX = (".cpp", ".cc", ".cxx", ".c", ".h", ".hpp", ".hh", ".inl")

_NAME = re.compile(r"(?<![A-Za-z0-9_])([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?![A-Za-z0-9_])")
_OPTION = re.compile(r"(--(?:[a-z]+[-_])?device(?:[-_]type)?[= ]\s*)(['\"]?)cuda(?=(:\d+)?\2(?:\s|$|\\))")
_BACKEND = re.compile(r"(--(?:[a-z]+[-_])*backend[= ]\s*)(['\"]?)nccl(?=\2(?:\s|$|\\))")
_KEY = re.compile(r"^(\s*(?:- )?[\"']?(?:\w+[-_])?device[\"']?\s*[:=]\s*)(['\"]?)cuda(?=(:\d+)?\2\s*(?:,?\s*$|,?\s*#))")
_SYMBOL = re.compile(
    r"\b(cuda[A-Z]\w+|cublas(?:Lt)?[A-Z]\w+|cudnn[A-Z]\w+|cufft[A-Z]\w+|cusparse[A-Z]\w+|curand\w+|cusolver\w+|nccl[A-Z]\w+)\b"
)
_EDITED = ("shell", "dockerfile", "config")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


def is_of_interest(name: str) -> bool:
    return kind_of(name) in ("shell", "config", "docs", "dockerfile", "requirements", "cmake")


def port_text(name: str, text: str, target: Target) -> Ported:
    """A file that is no Python, ported line by line: for a chip with names of its own, and never prose."""
    kind = kind_of(name) or ""
    if target.portable or target.masked or not target.has_device or kind not in _EDITED:
        return Ported(Text(text), text)
    found = _Lines(Text(text), target, kind, ignores(text))
    found.read()
    edits = [piece for change in found.changes for piece in change.pieces]
    return Ported(found.source, apply(found.source, edits), tuple(found.changes))


@dataclass
class _Lines:
    """One pass over the lines of a file; what is edited."""

    source: Text
    target: Target
    kind: str
    ignores: Ignores
    changes: list[Change] = field(default_factory=list)

    def read(self) -> None:
        for number, start in enumerate(self.source.starts, 1):
            if start >= len(self.source.data):
                break
            line = self.source.line(number)
            if len(line) <= MAX_LINE and not line.lstrip().startswith(("#", "//")):
                self._line(line, start)

    def _line(self, line: str, start: int) -> None:
        if self.kind == "config":
            self._words(_KEY, line, start, "device-config", "cuda", self.target.device_type)
        else:
            self._variables(line, start)
            self._words(_OPTION, line, start, "device-config", "cuda", self.target.device_type)
            self._words(_BACKEND, line, start, "device-config", "nccl", self.target.backend)

    def _variables(self, line: str, start: int) -> None:
        for match in _NAME.finditer(line):
            name = match[1]
            twin = self.target.env.get(TWINS.get(name, ""))
            if twin and twin != name and self._is_variable(line, match):
                self._edit(line, start, match.start(1), match.end(1), twin, "environment", name)

    @staticmethod
    def _is_variable(line: str, match: re.Match[str]) -> bool:
        before, after = line[: match.start(1)], line[match.end(1) :]
        return (
            after.startswith("=")
            or before.endswith(("$", "${"))
            or bool(re.search(r"\b(export|unset|ENV|ARG)\s+$", before))
        )

    def _words(self, pattern: re.Pattern[str], line: str, start: int, rule: str, old: str, new: str) -> None:
        for match in pattern.finditer(line) if new else ():
            self._edit(line, start, match.end() - len(old), match.end(), new, rule, match[0].strip())

    def _edit(self, line: str, start: int, first: int, last: int, text: str, rule: str, symbol: str) -> None:
        if self.ignores.covers(self.source.line_of(start), rule):
            return
        begin, end = (start + len(line[:at].encode("utf-8", "surrogateescape")) for at in (first, last))
        reason = f"{self.target.platform}'s own name for it"
        self.changes.append(Change(rule, symbol, reason, (Edit(begin, end, text, rule, reason),)))


# ---------------------------------------------------------------- CUDA C++


@dataclass(frozen=True)
class KernelFile:
    """A file of CUDA C++: how often it names CUDA's functions and libraries, how much of that a table translates, and what
    became of it. mapped: None where no public table says."""

    path: str
    lines: int
    symbols: int
    mapped: int | None
    unmapped: tuple[str, ...]
    outcome: str


def kernel_files(
    base: Path, paths: list[str], target: Target, translated: dict[str, str] | None = None
) -> list[KernelFile]:
    """Every .cu and .cuh, and C++ that calls CUDA, with its symbols counted."""
    found = {path: _symbols(base / path) for path in paths if path.endswith(KERNELS + CXX)}
    found = {path: value for path, value in found.items() if value[0] or path.endswith(KERNELS)}
    if not found or (target.masked and target.kernel_language != "HIP"):
        return []
    names = sorted({name for counts, _ in found.values() for name in counts})
    table = _hip_table(names) if target.portable or target.kernel_language == "HIP" else None
    return [_kernel_file(path, *value, table, target, (translated or {}).get(path)) for path, value in found.items()]


def _kernel_file(
    path: str, counts: Counter[str], lines: int, table: set[str] | None, target: Target, made: str | None
) -> KernelFile:
    language = target.kernel_language or "HIP by hipify, another language for other chips"
    outcome = (
        made or f"left: to be written again in {language}"
        if not target.portable
        else "left: kernels stay CUDA C++ in portable code"
    )
    unmapped = () if table is None else tuple(name for name, _ in counts.most_common() if name not in table)
    mapped = None if table is None else sum(n for name, n in counts.items() if name in table)
    return KernelFile(path, lines, sum(counts.values()), mapped, unmapped, outcome)


def _symbols(path: Path) -> tuple[Counter[str], int]:
    """How often each CUDA function, type and library symbol is named outside comments; lines of the file."""
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return Counter(), 0
    if not re.search(r"\bcu[a-z]+[A-Z]|\bnccl[A-Z]|__global__", text):
        return Counter(), 0
    return Counter(_SYMBOL.findall(_COMMENT.sub("", text))), text.count("\n") + 1


def _hip_table(names: list[str]) -> set[str] | None:
    """Which of the names PyTorch's own hipify translates; None where no PyTorch is at hand. It runs in another process."""
    code = (
        "import json, sys\n"
        "from torch.utils.hipify.cuda_to_hip_mappings import CUDA_TO_HIP_MAPPINGS as tables\n"
        "known = {name for table in tables for name in table}\n"
        "print(json.dumps([name for name in json.load(sys.stdin) if name in known]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(names), capture_output=True, text=True)
    return set(json.loads(done.stdout)) if done.returncode == 0 else None


# Run in a process of its own, since nothing here imports torch: argv is a folder with copies, stdout one JSON object.
_HIPIFY = """
import json, sys, contextlib, io
from torch.utils.hipify import hipify_python
with contextlib.redirect_stdout(io.StringIO()):
    done = hipify_python.hipify(project_directory=sys.argv[1], output_directory=sys.argv[1], includes=["*"],
                                show_detailed=False, show_progress=False, is_pytorch_extension=True)
print(json.dumps({name: one.hipified_path for name, one in done.items() if one.hipified_path}))
"""


def hipify(base: Path, paths: list[str], out: Path, target: Target) -> list[KernelFile]:
    """For chips whose kernels are HIP: each CUDA source translated by PyTorch's own hipify, beside the original in `out`."""
    sources = [path for path in paths if path.endswith(KERNELS + CXX)]
    if target.kernel_language != "HIP" or not any(path.endswith(KERNELS) for path in sources):
        return kernel_files(base, paths, target)
    return kernel_files(base, paths, target, dict(_translate(base, sources, out)))


def _translate(base: Path, sources: list[str], out: Path) -> Iterator[tuple[str, str]]:
    """(source, what became of it). hipify works in a folder of copies; only what it made new is taken from there."""
    with temporary("hipify-") as folder:
        copies = folder.resolve()
        for path in sources:
            (copies / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base / path, copies / path)
        done = subprocess.run([sys.executable, "-c", _HIPIFY, str(copies)], capture_output=True, text=True)
        made = json.loads(done.stdout) if done.returncode == 0 else {}
        for path in sources:
            new = made.get(str(copies / path))
            if new is None or new == str(copies / path):
                if done.returncode and path.endswith(KERNELS):
                    yield path, "left: PyTorch's hipify is not at hand or failed"
                continue
            name = Path(new).relative_to(copies).as_posix()
            writing.write_whole(out / name, Path(new).read_bytes(), like=base / path)
            yield path, f"translated to {name} by PyTorch's hipify: compile it, and read what it could not know"
