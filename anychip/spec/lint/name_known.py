"""A chip whose platform, cluster, device or wires, or a cluster whose chips or wires, have no file; a generation that is nearly
one of the platform's."""

import difflib
from collections.abc import Collection, Iterator

from anychip.spec.catalogue import as_named, is_standard
from anychip.spec.context import Context, Subject
from anychip.spec.problem import Problem

RULE = "name-known"
ABOUT = (
    "A chip names a platform, a cluster, a device and wires that have files, and no generation that is nearly one of the "
    "platform's; a cluster names chips and wires that have files."
)
SCHEMAS = ("chips", "clusters")
ALIKE, NEARLY = 0.6, 0.85  # as difflib counts: cdna33 and cdna3 are 0.91 alike, gaudi2 and gaudi3 0.83


def check(subject: Subject, context: Context) -> Iterator[Problem]:
    if subject.schema == "chips":
        if "platform" in subject.table:
            yield from _known(subject, "platform", subject.table["platform"], "platforms", context)
            yield from _generation(subject, context)
        if "cluster" in subject.table:
            yield from _known(subject, "cluster", subject.table["cluster"], "clusters", context)
        if device := subject.table.get("engine", {}).get("device"):
            yield from _known(subject, "engine.device", device, "chips", context)
    for table in ("links", "tiers"):
        for name, way in subject.table.get(table, {}).items():
            if "wire" in way:
                yield from _known(subject, f"{table}.{name}.wire", way["wire"], "links", context)
    for chip in subject.table.get("chips", ()):
        yield from _known(subject, "chips", chip, "chips", context)


def _generation(subject: Subject, context: Context) -> Iterator[Problem]:
    """A generation that no other file names may be new; one that is nearly another's is that other's, misspelt. In the standard,
    where gaudi2 stands beside gaudi3, nearly is by a letter too many or too few."""
    own, platform = subject.doc.file.resolve(), subject.table["platform"]
    name = subject.doc.table.get("generation")
    others = [other for other, files in context.generations.get(platform, {}).items() if files - {own}]
    if name and name not in others:
        among_kin = is_standard(own)
        if near := difflib.get_close_matches(name, others, 1, NEARLY if among_kin else ALIKE):
            fix = f"did you mean {near[0]}? One that no file of {platform} names changes nothing, and can be left out"
            yield subject.problem(RULE, "generation", f"no generation of {platform} is called {name}", fix)


def _known(subject: Subject, path: str, name: str, kind: str, context: Context) -> Iterator[Problem]:
    ids = context.ids[kind]
    if name not in ids and as_named(kind, name, subject.doc.file) == name:
        near = difflib.get_close_matches(name, ids, 1)
        fix = f"did you mean {near[0]}?" if near else _elsewhere(name, kind, ids)
        yield subject.problem(RULE, path, f"no file {kind}/{name}.toml", fix)


def _elsewhere(name: str, kind: str, ids: Collection[str]) -> str:
    """Where to look for what no file's name is near to."""
    beside = f"or a file of your own beside this one: {name}.toml"
    if kind == "platforms":
        return f"one of {', '.join(sorted(ids))}, {beside}"
    see = f"see: anychip chips{'' if kind == 'chips' else f' {kind}'}"
    return f"{see}, {beside}" if kind == "links" else see
