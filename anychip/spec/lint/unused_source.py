"""A source that no figure names: either a figure lost it, or it can go."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from anychip.spec.context import Context, Subject
from anychip.spec.problem import Problem

RULE = "unused-source"
ABOUT = "Every source is named by something."
SCHEMAS = ("chips", "platforms", "links", "clusters")
WRITTEN = True  # what names a source may be what the schema refuses


def check(subject: Subject, context: Context) -> Iterator[Problem]:
    own = subject.doc.table
    used = set(_names({key: value for key, value in own.items() if key != "sources"}))
    sources = own.get("sources", {})
    if not isinstance(sources, dict):
        return
    misspelt = used.difference(sources)  # told where they stand, with the name that is meant
    for name in sources:
        if name not in used and not get_close_matches(name, misspelt, 1):
            message = f"no figure names the source {name!r}"
            yield subject.problem(RULE, f"sources.{name}", message, "name it, or leave it out", fixable=True)


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("src", "library_src", "algorithms_src") and isinstance(item, str):
                yield item
            else:
                yield from _names(item)
    elif isinstance(value, list):
        for item in value:
            yield from _names(item)


def fix(text: str, problem: Problem) -> str:
    """Without the whole [sources.X] table."""
    lines = text.splitlines(keepends=True)
    if problem.line is None:
        return text
    start = problem.line - 1
    end = next((i for i in range(start + 1, len(lines)) if lines[i].startswith("[")), len(lines))
    return "".join(lines[:start] + lines[end:])
