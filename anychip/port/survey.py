"""What of a tree one file of it must know: read before any of them is moved, or asked what would be."""

import ast
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_OWN_STARS = re.compile(r"^\s*from\s+\S+\s+import\s+\*", re.MULTILINE)
_FRAMEWORKS = re.compile(r"^\s*from\s+(?:torch|numpy|math|typing|tkinter)\b.*import\s+\*", re.MULTILINE)


@dataclass(frozen=True)
class Project:
    """What is known of the files around one. own_cuda: class with a cuda() and no to() -> its place. stars: some file imports
    all names of another, so that names at the top of a file reach others."""

    own_cuda: Mapping[str, str] = field(default_factory=dict)
    stars: bool = False


NO_PROJECT = Project()


def survey(files: Iterable[tuple[str, str | os.PathLike[str]]]) -> Project:
    """What one file must know of the others, by their names and where they are: classes with a cuda() of their own, and imports of all
    names."""
    own: dict[str, str] = {}
    stars = False
    for name, place in files:
        if not name.endswith(".py"):
            continue
        try:
            data = Path(place).read_bytes()
        except OSError:
            continue
        if b"import *" in data:
            text = data.decode("utf-8", "replace")
            stars = stars or len(_OWN_STARS.findall(text)) > len(_FRAMEWORKS.findall(text))
        if b"def cuda(" in data:
            own.update(_own_classes(data.decode("utf-8", "replace"), name))
    return Project(own, stars)


def _own_classes(text: str, name: str) -> Iterator[tuple[str, str]]:
    """Classes that define cuda(), no to(), and inherit from nothing that could have one."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = {f.name for f in node.body if isinstance(f, ast.FunctionDef)}
            if (
                "cuda" in methods
                and "to" not in methods
                and all(isinstance(b, ast.Name) and b.id == "object" for b in node.bases)
            ):
                yield node.name, f"{node.name} ({name}:{node.lineno})"
