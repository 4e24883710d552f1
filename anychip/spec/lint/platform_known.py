"""A chip whose platform, or a cluster whose chips, have no file."""

import difflib
from collections.abc import Iterator

from anychip.spec.context import Context, Subject
from anychip.spec.problem import Problem

RULE = "name-known"
ABOUT = "A chip names a platform that has a file; a cluster names chips that have one."
SCHEMAS = ("chips", "clusters")


def check(subject: Subject, context: Context) -> Iterator[Problem]:
    if subject.schema == "chips":
        yield from _known(subject, "platform", subject.table["platform"], "platforms", context)
    for chip in subject.table.get("chips", ()):
        yield from _known(subject, "chips", chip, "chips", context)


def _known(subject: Subject, path: str, name: str, kind: str, context: Context) -> Iterator[Problem]:
    ids = context.ids[kind]
    beside = (subject.doc.file.parent / f"{name}.toml").is_file()
    if name not in ids and not beside:
        near = difflib.get_close_matches(name, ids, 1)
        yield subject.problem(RULE, path, f"no file {kind}/{name}.toml", f"did you mean {near[0]}?" if near else None)
