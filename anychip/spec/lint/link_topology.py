"""A link whose figures do not fit the way that its chips are joined."""

from collections.abc import Iterator

from anychip.spec.context import Context, Subject
from anychip.spec.problem import Problem

RULE = "link-topology"
ABOUT = (
    "A switch gives one pair the whole rate, a mesh a share of it; a wire is used in topologies that it is built in."
)


def check(subject: Subject, context: Context) -> Iterator[Problem]:
    for role, link in subject.table.get("links", {}).items():
        at, topology = f"links.{role}", link.get("topology", "unknown")
        yield from _wire(subject, context, f"{at}.wire", link.get("wire"), topology)
        whole, pair = subject.value(f"{at}.one_way"), subject.value(f"{at}.peer_one_way")
        chips = subject.value(f"{at}.domain_chips")
        if topology == "mesh" and whole and pair and chips and chips > 2 and pair * (chips - 1) > whole * 1.02:
            message = f"a full mesh of {chips:.0f} chips cannot give each pair {subject.figures[f'{at}.peer_one_way']}"
            yield subject.problem(RULE, f"{at}.peer_one_way", message, "the whole rate is shared by the peers")
        if topology == "switch" and whole and pair and pair < whole:
            yield subject.problem(RULE, f"{at}.peer_one_way", "a switch gives one pair the whole rate")
        if topology == "none" and whole:
            yield subject.problem(RULE, f"{at}.topology", "a rate, but no topology", "write how the chips are joined")


def _wire(subject: Subject, context: Context, path: str, wire: str | None, topology: str) -> Iterator[Problem]:
    topologies = context.wires.get(wire or "", ())
    if topologies and topology not in ("unknown", *topologies):
        yield subject.problem(RULE, path, f"{wire} is built as {', '.join(topologies)}, not as {topology}")
