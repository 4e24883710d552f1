"""Notebooks: their code cells are one program, ported as such; the rest of the file stays, byte by byte.

A notebook is rewritten only where writing it in its own layout gives back exactly the file that was read.
"""

import json
from typing import Any

from anychip.port.edits import Edit, apply
from anychip.port.engine import Ported, port_source
from anychip.port.survey import Project
from anychip.port.target import Target
from anychip.source.notebook import FOREIGN, MAGIC, is_shell
from anychip.source.text import Text


def port_notebook(text: str, target: Target, project: Project) -> Ported:
    """The notebook with its code ported. Lines of the report are lines of all code cells, one after the other."""
    found = _read(text)
    if found is None:
        return Ported(Text(text), text, problem="no notebook of version 4")
    book, cells, sources = found
    layout = _layout(text, book)
    code = "\n".join(sources)
    plain = "\n".join(_python_of(source) for source in sources)
    ported = port_source(plain, target, project)
    if ported.text == plain or ported.problem:
        return Ported(ported.source, text, left=ported.left, problem=ported.problem)
    if layout is None:
        return Ported(
            ported.source, text, left=ported.left, problem="its JSON is laid out in a way that could not be kept"
        )
    for cell, new in zip(cells, _split(code, sources, ported.edits), strict=True):
        cell["source"] = new.splitlines(keepends=True) if isinstance(cell["source"], list) else new
    return Ported(ported.source, _write(book, *layout), ported.changes, ported.left, ported.header)


def shell_of(text: str) -> str:
    """The shell commands of the code that is ported, where they stand in it; all else is blank."""
    _, _, sources = _read(text) or (None, [], [])
    return "\n".join(map(_shell_of, sources))


def _read(text: str) -> tuple[Any, list[Any], list[str]] | None:
    """The notebook, its code cells and the code in each; None of what is no notebook of version 4."""
    try:
        book = json.loads(text)
        cells = [cell for cell in book["cells"] if cell.get("cell_type") == "code"]
        return book, cells, ["".join(cell["source"]) for cell in cells]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _shell_of(source: str) -> str:
    foreign = FOREIGN.match(source)
    return "\n".join(line if is_shell(line, foreign) else "" for line in source.split("\n"))


def _python_of(source: str) -> str:
    """A cell with IPython's own lines, or the whole cell of another language, as statements that do nothing, of the same bytes."""
    foreign = FOREIGN.match(source)
    return "\n".join(_nothing(line) if foreign or MAGIC.match(line) else line for line in source.split("\n"))


def _nothing(line: str) -> str:
    indent = line[: len(line) - len(line.lstrip())]
    size = len(line.encode("utf-8", "surrogateescape")) - len(indent)
    return indent + ("pass" + " " * (size - 4) if size >= 4 else "0".ljust(size) if size else "")


def _split(code: str, sources: list[str], edits: list[Edit]) -> list[str]:
    """The edited text of each cell."""
    new, start = [], 0
    for text in sources:
        end = start + len(text.encode("utf-8", "surrogateescape"))
        own = [
            Edit(e.start - start, e.end - start, e.text, e.rule, e.reason)
            for e in edits
            if start <= e.start and e.end <= end
        ]
        new.append(apply(Text(text), own))
        start = end + 1
    return new


def _layout(text: str, book: Any) -> tuple[int | None, bool, str] | None:
    """(indent, only ASCII, end of file) with which the file writes itself; None if there is none."""
    end = text[len(text.rstrip("\n")) :]
    for indent in (1, 2, 4, None):
        for ascii_only in (False, True):
            if _write(book, indent, ascii_only, end) == text:
                return indent, ascii_only, end
    return None


def _write(book: Any, indent: int | None, ascii_only: bool, end: str) -> str:
    return json.dumps(book, indent=indent, ensure_ascii=ascii_only) + end
