"""A chip whose platform, cluster or device, or a cluster whose chips or wires, have no file."""

import difflib
from collections.abc import Iterator

from anychip.spec.context import Context, Subject
from anychip.spec.problem import Problem

RULE = "name-known"
ABOUT = (
    "A chip names a platform, a cluster and a device that have files; a cluster names chips and wires that have them."
)
SCHEMAS = ("chips", "clusters")


def check(subject: Subject, context: Context) -> Iterator[Problem]:
    if subject.schema == "chips":
        yield from _known(subject, "platform", subject.table["platform"], "platforms", context)
        if "cluster" in subject.table:
            yield from _known(subject, "cluster", subject.table["cluster"], "clusters", context)
        if device := subject.table.get("engine", {}).get("device"):
            yield from _known(subject, "engine.device", device, "chips", context)
    for name, tier in subject.table.get("tiers", {}).items():
        if "wire" in tier:
            yield from _known(subject, f"tiers.{name}.wire", tier["wire"], "links", context)
    for chip in subject.table.get("chips", ()):
        yield from _known(subject, "chips", chip, "chips", context)


def _known(subject: Subject, path: str, name: str, kind: str, context: Context) -> Iterator[Problem]:
    ids = context.ids[kind]
    beside = (subject.doc.file.parent / f"{name}.toml").is_file()
    if name not in ids and not beside:
        near = difflib.get_close_matches(name, ids, 1)
        yield subject.problem(RULE, path, f"no file {kind}/{name}.toml", f"did you mean {near[0]}?" if near else None)
