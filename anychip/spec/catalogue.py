"""Which files are there: the standard's own, then $ANYCHIP_PATH, then packages with the entry point `anychip.chips`.

In: nothing but the folders. Out: files by id and by alias. Reads only the head of each file (all before its first
table), so that finding a chip among a hundred costs a few milliseconds. A folder on $ANYCHIP_PATH holds chip files
itself or has the layout of anychip/standard.
"""

import os
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from anychip.spec import plain_toml

STANDARD = Path(__file__).resolve().parent.parent / "standard"
ENTRY_POINT_GROUP = "anychip.chips"


@dataclass(frozen=True)
class Head:
    """The top of a file: what names it. `table` holds the fields before the first table header."""

    file: Path
    table: dict[str, Any]

    @property
    def id(self) -> str:
        return self.file.stem

    @property
    def aliases(self) -> tuple[str, ...]:
        aliases = self.table.get("aliases", ())
        return tuple(a for a in aliases if isinstance(a, str)) if isinstance(aliases, list) else ()

    def text(self, key: str) -> str | None:
        value = self.table.get(key)
        return value if isinstance(value, str) else None


def folders(kind: str) -> Iterator[Path]:
    """Folders that may hold files of `kind` ("chips", "platforms", ...), the standard's own first.

    Lazy: what is found in the tree is found without a look at the installed packages.
    """
    yield STANDARD / kind
    for roots in (_path_folders, _entry_point_folders):
        for root in roots():
            yield root / kind
            if kind == "chips":
                yield root


def is_standard(file: Path) -> bool:
    """Whether a file is one of the tree, not of somebody's own."""
    return STANDARD in file.resolve().parents


def _path_folders() -> list[Path]:
    return [Path(part).expanduser() for part in os.environ.get("ANYCHIP_PATH", "").split(os.pathsep) if part]


def absent_folders() -> list[Path]:
    """Of $ANYCHIP_PATH, mistyped or gone: chips and rates that are not read without a word."""
    return [folder for folder in _path_folders() if not folder.is_dir()]


@cache
def _entry_point_folders() -> tuple[Path, ...]:
    """The folder of each package that an installed distribution names under `anychip.chips`. Nothing is imported
    but parents of that package; one that cannot be found is left out.

    importlib.metadata costs 40 ms to import and is not needed where no distribution names the group.
    """
    if not any(_names_group(Path(place)) for place in sys.path if place):
        return ()
    from importlib.metadata import entry_points
    from importlib.util import find_spec

    found: list[Path] = []
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            spec = find_spec(point.module)
        except (ImportError, ValueError, AttributeError):
            continue
        found += [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    return tuple(found)


def _names_group(place: Path) -> bool:
    """Does a distribution that is installed at `place` name our entry point group?"""
    wanted = f"[{ENTRY_POINT_GROUP}]"
    for file in place.glob("*.dist-info/entry_points.txt"):
        try:
            if wanted in file.read_text(encoding="utf-8", errors="replace"):
                return True
        except OSError:
            continue
    return False


def files(kind: str, suffix: str = ".toml") -> list[Path]:
    """Every file of `kind`, by name; of two with one name in different folders both, the standard's first."""
    found: list[Path] = []
    for folder in folders(kind):
        try:
            found += sorted(entry for entry in folder.iterdir() if entry.suffix == suffix)
        except OSError:
            continue
    return found


def as_named(kind: str, name: str | None, by: Path) -> str | None:
    """How a file that is named in another one (by) is to be asked for: by its id, else by its path where it lies beside."""
    beside = by.parent / f"{name}.toml"
    return str(beside) if name and find(kind, name) is None and beside.is_file() and beside != by else name


def head(file: Path) -> Head:
    """The fields before the first table; the whole file where that cannot be cut off; none where it is no TOML."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return Head(file, {})
    cut = 0 if text.startswith("[") else text.find("\n[")
    for part in (text[:cut] if cut >= 0 else text, text):
        try:
            plain = plain_toml.parse(part)
            return Head(file, tomllib.loads(part) if plain is None else plain)
        except (ValueError, RecursionError):
            continue
    return Head(file, {})


def heads(kind: str) -> list[Head]:
    return [head(file) for file in files(kind)]


def find(kind: str, name: str, suffix: str = ".toml") -> Path | None:
    """The file whose id is `name`, without reading any."""
    for folder in folders(kind):
        file = folder / f"{name}{suffix}"
        if file.is_file():
            return file
    return None
