"""A source without an address can only carry estimates and sums."""

from collections.abc import Iterator

from anychip.spec.context import Context, Subject
from anychip.spec.lint._edit import replaced_in_line
from anychip.spec.problem import Problem

RULE = "no-page"
ABOUT = "A source without an address carries only `estimated` and `derived` figures."
SCHEMAS = ("chips", "platforms", "links", "clusters")


def check(subject: Subject, context: Context) -> Iterator[Problem]:
    for name, source in subject.doc.table.get("sources", {}).items():
        if "url" not in source and source["kind"] not in ("estimated", "derived"):
            path, message = f"sources.{name}.kind", f"{source['kind']} without an address"
            yield subject.problem(RULE, path, message, 'add url = "...", or kind = "estimated"', fixable=True)
    if subject.schema == "chips":
        yield from _figures(subject)


def _figures(subject: Subject) -> Iterator[Problem]:
    for path, figure in subject.figures.items():
        overridden = subject.writes(f"{path}.kind") and not figure.source.startswith("http")
        if overridden and figure.kind not in ("estimated", "derived"):
            message = f"{figure.kind} by a source without an address"
            yield subject.problem(RULE, path, message, 'kind = "estimated", or another source')


def fix(text: str, problem: Problem) -> str:
    kind = problem.message.split(" ", 1)[0]
    return replaced_in_line(text, problem, f'"{kind}"', '"estimated"')
