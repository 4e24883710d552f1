"""A TOML file and where in it each thing stands.

In: a path. Out: `Document` (the parsed tables and the text) and, on demand, the line of a dotted path. A file that is
not text or not TOML is a `Problem`, never an exception. tomllib keeps no positions, so a line is looked up in the
text only when something is wrong there.
"""

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anychip.spec import plain_toml
from anychip.spec.problem import Problem

_HEADER = re.compile(r"^\s*\[{1,2}\s*([^\]]+?)\s*\]{1,2}")
_KEY = re.compile(r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")
_AT_LINE = re.compile(r"at line (\d+)")
_TWICE = "Cannot overwrite a value"  # of tomllib
MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Document:
    """A file as read. `table` is empty where the file could not be parsed; `problems` then says why."""

    file: Path
    text: str
    table: dict[str, Any]
    problems: tuple[Problem, ...] = field(default=())

    def line(self, path: str) -> int | None:
        return line_of(self.text, path)

    def problem(self, path: str, message: str, fix: str | None = None, rule: str = "schema") -> Problem:
        return Problem(str(self.file), self.line(path), path, message, fix, rule)


def read(file: Path) -> Document:
    """The file's tables, or the one problem that keeps it from being read."""
    try:
        data = file.read_bytes()
    except OSError as error:
        return _unreadable(file, "", None, f"cannot be read: {error.strerror or error}")
    return parse(file, data)


def parse(file: Path, data: bytes) -> Document:
    """As `read`, from bytes in hand."""
    if len(data) > MAX_BYTES:
        return _unreadable(file, "", None, f"{len(data)} bytes; a file of the standard has at most {MAX_BYTES}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return _unreadable(file, "", line, f"byte {error.start} is not UTF-8 text")
    try:
        plain = plain_toml.parse(text)
        return Document(file, text, tomllib.loads(text) if plain is None else plain)
    except tomllib.TOMLDecodeError as error:
        found = _AT_LINE.search(str(error))
        at = int(found[1]) if found else None
        if at and _TWICE in str(error) and (key := _twin(text.splitlines()[:at])):
            return _unreadable(file, text, at, f"not TOML: {key} is given a second time, and stands once in a table")
        return _unreadable(file, text, at, f"not TOML: {error}")
    except (RecursionError, ValueError) as error:
        # tomllib lets Python's own limits through: nesting depth, digits of an integer, years of a date.
        return _unreadable(file, text, None, f"not TOML that can be read: {error}")


def _twin(lines: list[str]) -> str:
    """The key of the last line, where one before it in its table has the same."""
    last = _KEY.match(lines.pop())
    for line in reversed(lines):
        if last is None or _HEADER.match(line):
            break
        if (key := _KEY.match(line)) and key[1] == last[1]:
            return key[1]
    return ""


def _unreadable(file: Path, text: str, line: int | None, message: str) -> Document:
    return Document(file, text, {}, (Problem(str(file), line, "", message, rule="toml"),))


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


def line_of(text: str, path: str) -> int | None:
    """The 1-based line of the longest prefix of `path` that the text writes out; None where it writes none of it.

    ``peaks.matrix.bf16.unit`` inside an inline table is found as the line of ``peaks.matrix.bf16``.
    A list item (``disputed.1.why``) counts the ``[[disputed]]`` headers.
    """
    wanted = path.split(".") if path else []
    best: tuple[int, int | None] = (0, None)
    table: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        key = None if header else _KEY.match(line)
        if header:
            table = _parts(header[1])
            if line.lstrip().startswith("[["):
                table = [*table, str(seen.setdefault(header[1], 0))]
                seen[header[1]] += 1
        elif not key:
            continue
        full = table if key is None else [*table, *_parts(key[1])]
        if full == wanted[: len(full)] and len(full) > best[0]:
            best = (len(full), number)
    return best[1]
