"""From a name to a `Chip`: find its file, lay it over the one that it extends, check it, join it with its platform.

In: an id, an alias, or the path of a TOML file. Out: `Chip`. Reads only that chip's files. A name that nobody has is
`UnknownChip` with the nearest; a file that is wrong is `BadChipFile` with all its problems.
"""

import contextlib
import difflib
import hashlib
import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from anychip.errors import BadChipFile, UnknownChip
from anychip.spec import catalogue
from anychip.spec.chip import Chip, build_figures
from anychip.spec.inherited import PRODUCTS, has_products, inherited
from anychip.spec.platform import Platform, build_platform, merge
from anychip.spec.problem import Problem, raise_problems
from anychip.spec.toml import Document, read
from anychip.spec.validate import is_id, validate
from anychip.spec.validated import num_sources

MAX_EXTENDS = 8


@dataclass(frozen=True)
class ChipEntry:
    """A line of the list of chips."""

    id: str
    aliases: tuple[str, ...]
    vendor: str
    name: str
    platform: str
    grade: str
    file: Path


def load_chip(name: str | Path) -> Chip:
    """The chip of an id, with or without its maker, an alias or a file. Raises UnknownChip, BadChipFile."""
    file = find_chip(str(name))
    return _load(file, _stamp(file))


@cache
def _load(file: Path, stamp: tuple[int, int] | None) -> Chip:
    chain = read_chain(file)
    table = joined(chain)
    platform, platform_text = load_platform(str(table["platform"]), table.get("generation"), chain[0])
    texts = "\0".join([*(doc.text for doc in chain), platform_text])
    chip = Chip(
        id=table["id"],
        aliases=tuple(table.get("aliases", ())),
        vendor=table["vendor"],
        name=table["name"],
        platform=platform,
        generation=table.get("generation"),
        execution=table["execution"],
        figures=build_figures(table),
        digest=hashlib.sha256(texts.encode()).hexdigest(),
        file=file,
        notes=tuple(table.get("notes", ())),
        raw=table,
    )
    chip = replace(chip, inherits=inherited(chip, (_load(doc.file, _stamp(doc.file)) for doc in chain[1:])))
    return replace(chip, grade=grade(chip.runs_of, file, _lent(chip)))


def find_chip(name: str) -> Path:
    """The file of an id, with or without its maker, an alias or a path. Raises UnknownChip."""
    if name.endswith(".toml"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UnknownChip(
                f"{name}: {'a folder is no' if path.is_dir() else 'no such'} chip file. To begin one: anychip chips new --like CHIP"
            )
        return path.resolve()
    wanted = name.strip().lower()
    file = catalogue.find("chips", wanted) if is_id(wanted) else None
    return file or _by_alias(name, wanted)


def _by_alias(name: str, wanted: str) -> Path:
    heads = catalogue.heads("chips")
    aliased = [head.file for head in heads if wanted in head.aliases]
    owners = list(
        dict.fromkeys(aliased or [head.file for head in heads if wanted and wanted == without_maker(head.id)])
    )
    if len(owners) == 1:
        return owners[0]
    if owners:
        raise UnknownChip(f"{name!r} is the name of more than one chip: {', '.join(o.stem for o in owners)}")
    for head in catalogue.heads("clusters"):
        if wanted in (head.id, *head.aliases):
            raise UnknownChip(f"{name!r} is a cluster, not a chip. Show it: anychip chips clusters {name}. "
                              f"Forecast on it: --on CHIP:COUNT@{name}")  # fmt: skip
    if os.path.isfile(f"{name}.toml"):  # which takes names that no file can have, too
        raise UnknownChip(f"no chip is called {name!r}. The file here is one by its whole name: {name}.toml")
    names = {word: head.id for head in heads for word in (head.id, without_maker(head.id), *head.aliases)}
    near = difflib.get_close_matches(wanted, names, 3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(word) for word in near)}?" if near else ""
    raise UnknownChip(f"no chip is called {name!r}.{hint} See: anychip chips")


def without_maker(chip: str) -> str:
    """An id's part by which a chip is found, too."""
    return chip.partition("-")[2]


def read_chain(file: Path) -> list[Document]:
    """The file and those that it extends, itself first, each of them valid. Raises BadChipFile."""
    doc = _read_checked(file, _stamp(file))
    chain = [doc, *read_parents(doc)]
    if len(chain) > 1:
        raise_problems(joined_problems(chain), file)
    return chain


def read_parents(doc: Document) -> list[Document]:
    """The files that one extends, the nearest first. Raises BadChipFile where one is missing or wrong."""
    chain = [doc]
    while (parent := chain[-1].table.get("extends")) is not None:
        found = catalogue.find("chips", parent)
        if found is None:
            heads = catalogue.heads("chips")
            # A base is found by its id alone, without reading other files.
            near = [head.id for head in heads if parent in head.aliases]
            near = near or difflib.get_close_matches(parent, [head.id for head in heads], 1)
            fix = f"did you mean {near[0]}?" if near else "see: anychip chips"
            raise BadChipFile(f"{chain[-1].problem('extends', f'no chip file {parent}.toml', fix)}")
        if len(chain) >= MAX_EXTENDS or any(found == other.file for other in chain):
            raise BadChipFile(f"{chain[-1].problem('extends', 'extends itself, through ' + parent)}")
        chain.append(_read_checked(found, _stamp(found)))
    return chain[1:]


def _stamp(file: Path) -> tuple[int, int] | None:
    """Time and size of the file, so that a changed file is read again; None where there is none."""
    stat = file.stat() if file.is_file() else None
    return (stat.st_mtime_ns, stat.st_size) if stat else None


@cache
def _read_checked(file: Path, stamp: tuple[int, int] | None) -> Document:
    """A chip that others extend is read once for all of them."""
    doc = read(file)
    raise_problems(validate(doc, "chips"), doc.file)
    return doc


def joined_problems(chain: list[Document]) -> list[Problem]:
    """What a variant lacks even with all that it inherits."""
    whole = Document(chain[0].file, chain[0].text, joined(chain))
    return validate(whole, "chips")


def joined(chain: list[Document]) -> dict[str, Any]:
    """One table of a chain of documents. Aliases, notes and disputes about replaced figures are not inherited, nor is what can be used
    of a memory of another size."""
    table: dict[str, Any] = {}
    for doc in reversed(chain):
        own = dict(doc.table)
        own.pop("extends", None)
        kept = [d for d in table.get("disputed", ()) if not _has(own, d["figure"])]
        inherited = {k: v for k, v in table.items() if k not in ("aliases", "notes", "disputed")}
        table = merge(inherited, own)
        for name, memory in own.get("memory", {}).items():
            if "capacity" in memory and "usable" not in memory and "usable" in table["memory"][name]:
                table["memory"] |= {name: {**table["memory"][name], "usable": "unknown"}}
        table["disputed"] = kept + list(own.get("disputed", ()))
    return table


def _has(table: dict[str, Any], path: str) -> bool:
    value: Any = table
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def load_platform(name: str, generation: str | None = None, asked_by: Document | None = None) -> tuple[Platform, str]:
    """The platform of an id, and its file's text. Raises BadChipFile."""
    file = catalogue.find("platforms", name)
    if file is None and asked_by is not None:
        beside = asked_by.file.parent / f"{name}.toml"
        file = beside if beside.is_file() and beside != asked_by.file else None
    if file is None:
        known = [head.id for head in catalogue.heads("platforms")]
        near = difflib.get_close_matches(name, known, 3)
        fix = "did you mean " + " or ".join(near) + "?" if near else "platforms: " + ", ".join(sorted(known))
        place = (
            asked_by.problem("platform", f"no platform {name!r}", fix) if asked_by else f"no platform {name!r}: {fix}"
        )
        raise BadChipFile(str(place))
    doc = read_platform(file, file.stat().st_mtime_ns)
    return build_platform(doc.table, generation), doc.text


@cache
def read_platform(file: Path, stamp: int) -> Document:
    """The valid document of a platform file. Raises BadChipFile."""
    doc = read(file)
    raise_problems(validate(doc, "platforms"), file)
    return doc


def list_chips() -> list[ChipEntry]:
    """Every chip that can be found, by id; of two files with one id the standard's. Reads heads only."""
    entries: dict[str, ChipEntry] = {}
    heads = {head.id: head for head in reversed(catalogue.heads("chips")) if head.table}
    for head in heads.values():
        entries[head.id] = _entry(head, heads)
    return [entries[name] for name in sorted(entries)]


def _entry(head: catalogue.Head, heads: dict[str, catalogue.Head]) -> ChipEntry:
    def said(key: str) -> str:
        at: catalogue.Head | None = head
        for _ in range(MAX_EXTENDS):
            if at is None:
                break
            if found := at.text(key):
                return found
            at = heads.get(at.text("extends") or "")
        return "unknown"

    places = said("vendor"), said("name"), said("platform"), _grade(head)
    return ChipEntry(head.id, head.aliases, *places, head.file)


def _grade(head: catalogue.Head) -> str:
    """As its file's chip has it. Only what another chip's measurements tell needs the whole file."""
    found = grade(head.id, head.file)
    if found == "D" and head.text("extends"):
        with contextlib.suppress(BadChipFile):
            found = load_chip(head.file).grade
    return found


def grade(chip_id: str, file: Path | None = None, lent: bool = False) -> str:
    """How far forecasts on a chip can be trusted: "D" from its specification alone, "C" with measured rates of its products,
    "B" where whole runs were forecast blind and compared with one published source, "A" with more than one. chip_id: whose published
    runs are its own. lent: whether those of another chip's products are its own."""
    if sources := num_sources().get(chip_id, 0):
        return "A" if sources > 1 else "B"
    return "C" if lent or has_products(chip_id, file) else "D"


def _lent(chip: Chip) -> bool:
    """Whether products that were measured on a chip which it extends are its own."""
    return any(PRODUCTS in one.holds and has_products(one.chip, one.file) for one in chip.inherits)
