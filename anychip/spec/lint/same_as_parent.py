"""An override equal to what is inherited says nothing and hides what a variant changes."""

from collections.abc import Iterator, Mapping
from typing import Any

from anychip.spec.context import Context, Subject
from anychip.spec.lint._edit import without_line
from anychip.spec.problem import Problem

RULE = "same-as-parent"
ABOUT = "A variant writes only what differs from the chip that it extends."
_ALWAYS = ("schema_version", "id", "aliases", "extends", "notes", "disputed", "sources")


def check(subject: Subject, context: Context) -> Iterator[Problem]:
    if subject.parent is not None:
        for key, value in subject.doc.table.items():
            if key not in _ALWAYS:
                yield from _same(subject, value, subject.parent.get(key), key)


def _same(subject: Subject, own: Any, inherited: Any, path: str) -> Iterator[Problem]:
    if isinstance(own, dict) and "value" not in own and isinstance(inherited, Mapping):
        for key, value in own.items():
            if key in inherited:
                yield from _same(subject, value, inherited[key], f"{path}.{key}")
    elif own == inherited:
        yield subject.problem(RULE, path, "the same as in the chip that it extends", "leave the line out", fixable=True)


def fix(text: str, problem: Problem) -> str:
    return without_line(text, problem)
