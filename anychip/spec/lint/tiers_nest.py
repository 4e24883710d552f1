"""Tiers of a cluster that do not lie inside one another, nodes larger than it, and tori whose shape is not that of their domain."""

from collections.abc import Iterator
from math import prod

from anychip.spec.context import Context, Subject
from anychip.spec.problem import Problem

RULE = "tiers-nest"
ABOUT = "A tier is made of whole domains of the tier inside it and is no faster; a cluster holds its nodes, a torus its domain."
SCHEMAS = ("clusters",)
_DIMS = {"ring": 1, "torus2d": 2, "torus3d": 3}


def check(subject: Subject, context: Context) -> Iterator[Problem]:
    yield from _torus(subject)
    tiers = sorted(
        subject.table.get("tiers", {}), key=lambda name: subject.value(f"tiers.{name}.chips") or float("inf")
    )
    inside, size = "scale_up.domain_chips", subject.value("scale_up.domain_chips")
    rate = subject.value("scale_out.one_way_per_chip")
    for name in tiers:
        at = f"tiers.{name}"
        chips, own = subject.value(f"{at}.chips"), subject.value(f"{at}.one_way_per_chip")
        if chips and size and chips % size:
            yield subject.problem(RULE, f"{at}.chips", f"{chips:.0f} chips are no whole number of {inside}, {size:.0f}")
        if own and rate and own > rate * 1.001:
            yield subject.problem(RULE, f"{at}.one_way_per_chip", "more than a chip can send into the tier inside it")
        inside, size = f"{at}.chips", chips
        rate = own or rate
    largest = subject.value("size.max_chips")
    for of in ("node.chips", "scale_up.domain_chips"):
        if largest and (part := subject.value(of)) and part > largest:
            yield subject.problem(RULE, of, f"{part:.0f} chips of a cluster of {largest:.0f}")
    if tiers and size and largest and largest > size:
        yield subject.problem(RULE, "size.max_chips", f"{largest:.0f} chips, but the outermost tier joins {size:.0f}")


def _torus(subject: Subject) -> Iterator[Problem]:
    table = subject.table.get("scale_up", {})
    shape, topology = table.get("shape"), table.get("topology", "unknown")
    if shape is None:
        return
    domain = subject.value("scale_up.domain_chips")
    if len(shape) != _DIMS.get(topology, 0):
        yield subject.problem(RULE, "scale_up.shape", f"{len(shape)} lengths for a {topology}")
    elif domain and prod(shape) != domain:
        text = "x".join(map(str, shape))
        yield subject.problem(RULE, "scale_up.shape", f"{text} are {prod(shape)} chips, the domain has {domain:.0f}")
