"""Which edits of a port a proof has run: those whose line some run of the ported program reaches.

In: the places of the edits. `ask` writes down which lines are looked for, the runners (`runners/reached.py`) which of them they
reach. Out: the places that no run has reached; what is no Python is not run at all.
"""

import json
import os
import warnings
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

Line = tuple[str, int]


@dataclass(frozen=True)
class Place:
    """Of an edit. line: in the original; ported_line: in the port."""

    file: str
    line: int
    ported_line: int


def ask(after: Path, edits: Collection[Place], asked: Path, out: Path) -> dict[Place, Line]:
    """Write for the runners which lines to look for. By place the line that stands for it: its own, or where that has no code (an
    argument that the compiler has folded) the last before it that has."""
    coded: dict[str, list[int]] = {}
    found: dict[Place, Line] = {}
    lines: dict[str, list[int]] = {}
    for place in edits:
        file = os.path.realpath(after / place.file)
        if file not in coded:
            coded[file] = _lines_with_code(file)
        before = bisect_right(coded[file], place.ported_line)
        if before:
            found[place] = file, coded[file][before - 1]
            lines.setdefault(file, []).append(coded[file][before - 1])
    asked.write_text(json.dumps({"lines": lines, "out": str(out)}), encoding="utf-8")
    return found


def unreached(edits: Collection[Place], lines: dict[Place, Line], out: Path) -> tuple[Place, ...]:
    """lines: what `ask` has given for them."""
    said = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    reached = {(file, line) for file, line in map(json.loads, said)}
    return tuple(place for place in edits if lines.get(place) not in reached)


def _lines_with_code(file: str) -> list[int]:
    """In order; none where the file is no Python that runs (one with a `return` outside of functions is read and does not)."""
    if not file.endswith(".py"):
        return []
    with warnings.catch_warnings(), open(file, "rb") as source:
        warnings.simplefilter("ignore")
        try:
            codes: list[CodeType] = [compile(source.read(), file, "exec")]
        except (SyntaxError, ValueError):
            return []
    found: set[int] = set()
    while codes:
        code = codes.pop()
        found.update(line for *_, line in code.co_lines() if line)
        codes += [one for one in code.co_consts if isinstance(one, CodeType)]
    return sorted(found)
