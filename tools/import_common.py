"""What the importers share: reading a public repository (a git directory or a folder) and writing a sorted CSV.

The importers keep facts only (names, dtypes, verdicts) with the repository, commit and path that state them; never the
text of a list. One command per list and release; each prints what it wrote.
"""

import csv
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

STANDARD = Path(__file__).resolve().parent.parent / "anychip" / "standard"
OPS_HEADER = ("op", "dtype", "verdict", "source", "licence")
APIS_HEADER = ("symbol", "status", "target", "since", "until", "source", "note")
_FUNC = re.compile(r"^\s*-\s+func:\s*([A-Za-z0-9_.]+)")


@dataclass(frozen=True)
class Tree:
    """A repository: `owner/name`, and where a copy of it lies."""

    name: str
    place: Path

    @property
    def is_git(self) -> bool:
        return (self.place / "HEAD").is_file() or (self.place / ".git").exists()

    @property
    def commit(self) -> str:
        """Short commit of a git copy, "" of a plain folder."""
        return self._git("rev-parse", "--short=12", "HEAD").strip() if self.is_git else ""

    def text(self, path: str) -> str | None:
        """The file's text, None where the repository has no such file."""
        if self.is_git:
            done = self._run("show", f"HEAD:{path}")
            return done.stdout if done.returncode == 0 else None
        file = self.place / path
        return file.read_text(encoding="utf-8") if file.is_file() else None

    def need(self, path: str) -> str:
        text = self.text(path)
        if text is None:
            raise SystemExit(f"{self.name} has no {path}: the list has moved, or this is another repository")
        return text

    def source(self, path: str) -> str:
        """`owner/name@commit:path`: what stands in the source column; THIRD_PARTY.md has the addresses."""
        return f"{self.name}@{self.commit}:{path}" if self.commit else f"{self.name}:{path}"

    def _git(self, *args: str) -> str:
        return self._run(*args, check=True).stdout

    def _run(self, *args: str, check: bool = False) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["git", "-C", str(self.place), *args], capture_output=True, text=True, check=check)


def func_names(text: str, section: str | None = None) -> Iterator[str]:
    """Names after `- func:` of a YAML list of schemas; section: only those below this top-level key."""
    inside = section is None
    for line in text.splitlines():
        if section is not None and re.match(r"[A-Za-z_]\w*:", line):
            inside = line.split(":", 1)[0] == section
        found = _FUNC.match(line)
        if inside and found:
            yield found[1].rstrip(".")


def op_rows(names: Iterable[str], verdict: str, source: str, licence: str, dtype: str = "") -> list[tuple[str, ...]]:
    return [(name, dtype, verdict, source, licence) for name in names]


def write(file: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """The rows, each once, sorted, with the header; prints the count."""
    unique = sorted({tuple(row) for row in rows})
    if not unique:
        raise SystemExit(f"nothing was found for {file}: the list's format has changed")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(unique)
    print(f"{file}: {len(unique)} rows")


def unlisted(verdict: str, source: str, licence: str) -> list[tuple[str, ...]]:
    """The row that says what holds for every op that the list does not name: missing, fallback or unknown."""
    return op_rows(["*"], verdict, source, licence)


def write_ops(name: str, rows: Iterable[Sequence[str]], out: Path = STANDARD) -> None:
    write(out / "ops" / f"{name}.csv", OPS_HEADER, rows)
