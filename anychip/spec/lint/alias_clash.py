"""An alias, or an id, that two files claim: a name must lead to one chip."""

from collections.abc import Iterator

from anychip.spec.context import Context, Subject
from anychip.spec.problem import Problem

RULE = "alias-clash"
ABOUT = "An alias names exactly one chip."


def check(subject: Subject, context: Context) -> Iterator[Problem]:
    here = subject.doc.file.resolve()
    own = [("id", subject.doc.file.stem), *(("aliases", alias) for alias in subject.table.get("aliases", ()))]
    for path, name in own:
        others = [file for file in context.aliases.get(name, ()) if file != here]
        if others:
            message = f"{name!r} is also claimed by {', '.join(sorted(str(o) for o in others))}"
            yield subject.problem(RULE, path, message, "choose a name that no other chip has")
    if len(set(subject.table.get("aliases", ()))) < len(subject.table.get("aliases", ())):
        yield subject.problem(RULE, "aliases", "an alias stands twice")
