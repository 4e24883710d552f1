"""What a lint rule looks at: one file with all that it inherits, and the names of all other files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anychip.spec import catalogue
from anychip.spec.chip import Figure, build_figures
from anychip.spec.load import joined
from anychip.spec.problem import Problem
from anychip.spec.toml import Document, read


@dataclass(frozen=True)
class Subject:
    """A valid file. table: with all that it inherits; doc.table: only what it writes itself. parent: None or the
    table that it extends. figures: of the whole table, in SI units."""

    doc: Document
    schema: str
    table: Mapping[str, Any]
    parent: Mapping[str, Any] | None
    figures: Mapping[str, Figure]

    def value(self, path: str) -> float | None:
        figure = self.figures.get(path)
        return figure.value if figure else None

    def problem(self, rule: str, path: str, message: str, fix: str | None = None, fixable: bool = False) -> Problem:
        return Problem(str(self.doc.file), self.doc.line(path), path, message, fix, rule, fixable)

    def writes(self, path: str) -> bool:
        """Does this very file write the field (rather than inherit it)?"""
        value: Any = self.doc.table
        for part in path.split("."):
            if not isinstance(value, dict) or part not in value:
                return False
            value = value[part]
        return True


@dataclass(frozen=True)
class Context:
    """Names over all files: alias -> files that claim it; kind -> ids; id of a link file -> its topologies; id of a
    platform and its vendor in small letters -> that maker's pages; id of a platform -> generation -> files that name it."""

    aliases: Mapping[str, tuple[Path, ...]]
    ids: Mapping[str, frozenset[str]]
    wires: Mapping[str, tuple[str, ...]]
    maker_pages: Mapping[tuple[str, str], tuple[str, ...]]
    generations: Mapping[str, Mapping[str, frozenset[Path]]]

    @classmethod
    def of_all(cls, files: Sequence[Path] = ()) -> "Context":
        """Of every file that can be found, and of the given ones beside."""
        chips = {head.file.resolve(): head for head in catalogue.heads("chips")}
        for file in files:
            if file.suffix == ".toml" and file.parent.name not in ("platforms", "links", "clusters"):
                chips.setdefault(file.resolve(), catalogue.head(file))
        claims: dict[str, list[Path]] = {}
        for file, head in chips.items():
            for name in {head.id, *head.aliases}:
                claims.setdefault(name, []).append(file)
        ids = {kind: frozenset(f.stem for f in catalogue.files(kind)) for kind in ("platforms", "links", "clusters")}
        ids["chips"] = frozenset(head.id for head in chips.values())
        owned = {name: tuple(owners) for name, owners in claims.items()}
        return cls(owned, ids, _wires(), _pages(), _generations(chips.values()))


def _wires() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for file in catalogue.files("links"):
        wire = read(file).table.get("wire", {})
        topologies = wire.get("topologies", []) if isinstance(wire, dict) else []
        found[file.stem] = tuple(t for t in topologies if isinstance(t, str))
    return found


def _pages() -> dict[tuple[str, str], tuple[str, ...]]:
    heads = catalogue.heads("platforms")
    lists = {(head.id, (head.text("vendor") or "").lower()): head.table.get("maker_pages", []) for head in heads}
    return {key: tuple(p for p in pages if isinstance(p, str)) for key, pages in lists.items()}


def _generations(chips: Iterable[catalogue.Head]) -> dict[str, dict[str, frozenset[Path]]]:
    """By platform: the generations that it has rows for, and those of its chips."""
    named: dict[str, dict[str, set[Path]]] = {}
    for file in catalogue.files("platforms"):
        rows = read(file).table.get("generation", {})
        named[file.stem] = {name: {file.resolve()} for name in rows} if isinstance(rows, dict) else {}
    for head in chips:
        platform, generation = head.text("platform"), head.text("generation")
        if platform and generation:
            named.setdefault(platform, {}).setdefault(generation, set()).add(head.file.resolve())
    return {platform: {name: frozenset(files) for name, files in found.items()} for platform, found in named.items()}


def subject(doc: Document, schema: str, parents: Sequence[Document] = ()) -> Subject:
    """The file with all that it inherits from those that it extends, the nearest first."""
    table = joined([doc, *parents]) if parents else doc.table
    parent = joined([*parents]) if parents else None
    return Subject(doc, schema, table, parent, build_figures(table, schema))
