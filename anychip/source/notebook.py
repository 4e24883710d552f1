"""Notebooks: the code of their cells as one Python text, and where each of its lines stands in the file.

IPython's own lines (%magic, !command, ?help) become `pass` of the same indentation; shell commands among them are kept,
for they are read as shell is. A cell of another language (%%bash, %%html) is no Python.
"""

import json
import re
from dataclasses import dataclass

from anychip.source.text import Unreadable

MAGIC = re.compile(r"^(\s*)(?:[!%?]|[\w.]+\?\??\s*$|\w+\s*=\s*[!%])(.*)")
FOREIGN = re.compile(r"\s*%%(?!time|timeit|capture|prun|memit|mprun|python|py)(\w+)")


def is_shell(line: str, foreign: re.Match[str] | None) -> bool:
    """Whether a line is given to a shell. foreign: what FOREIGN finds in its cell."""
    return bool((MAGIC.match(line) and "!" in line) or (foreign and foreign[1] in ("bash", "sh", "script")))


@dataclass(frozen=True)
class Cell:
    """number: from 1, among all cells of the notebook. first: its first line in `Notebook.code`, from 1."""

    number: int
    first: int
    num_lines: int


@dataclass(frozen=True)
class Notebook:
    """code: Python. lines: for each of its lines, the line of the file. shell: (line of the file, command)."""

    code: str
    lines: tuple[int, ...]
    cells: tuple[Cell, ...]
    shell: tuple[tuple[int, str], ...]


def read_notebook(text: str) -> Notebook:
    """Raises Unreadable for what is no notebook of format 3 or later."""
    try:
        whole = json.loads(text)
        sheets = [whole, *whole.get("worksheets", ())]
        raw = [cell for sheet in sheets for cell in sheet.get("cells", ())]
        sources = [(n, _source(cell)) for n, cell in enumerate(raw, 1) if cell.get("cell_type") == "code"]
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise Unreadable(f"no notebook: {str(error)[:100]}") from None
    finder = _Finder(text)
    code: list[str] = []
    lines: list[int] = []
    cells: list[Cell] = []
    shell: list[tuple[int, str]] = []
    for number, source in sources:
        foreign = FOREIGN.match(source)
        first = len(code) + 1
        for line in source.split("\n"):
            at = finder.line_of(line)
            magic = MAGIC.match(line)
            if foreign or magic:
                if is_shell(line, foreign):
                    shell.append((at, line))
                line = f"{magic[1]}pass" if magic and not foreign else ""
            code.append(line)
            lines.append(at)
        cells.append(Cell(number, first, len(code) + 1 - first))
    return Notebook("\n".join(code) + "\n", tuple(lines), tuple(cells), tuple(shell))


def _source(cell: dict[str, object]) -> str:
    source = cell.get("source", cell.get("input", ""))
    return "".join(source) if isinstance(source, list) else str(source)


class _Finder:
    """The line of the file on which a source line stands: they come in order, as JSON strings."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.line = text, 0, 1

    def line_of(self, line: str) -> int:
        for ascii_only in (False, True):
            found = self.text.find(json.dumps(line, ensure_ascii=ascii_only)[1:-1], self.at) if line.strip() else -1
            if found >= 0:
                self.line += self.text.count("\n", self.at, found)
                self.at = found + 1
                break
        return self.line
