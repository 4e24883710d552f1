"""`datasheet` is the maker's own page: a source of that kind needs its address, and not a third party's repository."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from anychip.spec.context import Context, Subject
from anychip.spec.lint._edit import replaced_in_line
from anychip.spec.problem import Problem

RULE = "datasheet-page"
ABOUT = "A figure of kind `datasheet` has the maker's page as its source."
SCHEMAS = ("chips",)


def check(subject: Subject, context: Context) -> Iterator[Problem]:
    vendor = subject.table.get("vendor", "the maker")
    makers = context.maker_pages.get((subject.table.get("platform", ""), vendor.lower()), ())
    for name, source in subject.doc.table.get("sources", {}).items():
        if source["kind"] == "datasheet" and not _is_makers(source.get("url", ""), makers, vendor):
            path, message = f"sources.{name}.kind", f"a data sheet that is not on a page of {vendor}"
            yield subject.problem(RULE, path, message, 'kind = "reported", or the address of the maker', fixable=True)


def _is_makers(url: str, hosts: tuple[str, ...], vendor: str) -> bool:
    """A maker whose pages no platform lists is believed if its name is in the host."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    place = f"{host}/{parts.path.lstrip('/')}"
    if not hosts:
        return vendor.lower().replace(" ", "") in host.replace("-", "")
    return any(host == h or host.endswith("." + h) or place.startswith(h + "/") for h in hosts)


def fix(text: str, problem: Problem) -> str:
    return replaced_in_line(text, problem, '"datasheet"', '"reported"')
