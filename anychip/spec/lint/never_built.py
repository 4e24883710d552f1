"""A figure outside of everything that has been built of its kind: a slipped digit, or a unit of another size."""

from collections.abc import Iterator

from anychip.spec.context import Context, Subject
from anychip.spec.problem import Problem

RULE = "never-built"
ABOUT = "A figure lies within the range of what has been built of its kind."
SCHEMAS = ("chips", "clusters")

# Path, with * for one name -> least and most, in SI units: from the smallest CPU to a wafer, each with room for ten years.
_BUILT: dict[str, tuple[float, float]] = {
    "peaks.matrix.*": (1e10, 1e18),
    "peaks.vector.*": (1e10, 1e17),
    "memory.main.capacity": (1e8, 5e13),
    "memory.main.bandwidth": (1e10, 1e17),
    "memory.*.capacity": (1e5, 1e12),
    "engine.cores": (1, 2e6),
    "engine.peak_clock": (3e8, 7e9),
    "engine.sustained_clock": (3e8, 7e9),
    "links.scale_up.one_way": (4e9, 3e13),
    "links.scale_up.peer_one_way": (4e9, 3e13),
    "links.scale_out.one_way": (1e9, 2e12),
    "links.host.one_way": (2e9, 2e12),
    "links.*.domain_chips": (1, 20_000),
    "power.limit": (10, 50_000),
    "price.unit": (100, 1e7),
    "price.per_hour_low": (0.02, 200),
    "price.per_hour_high": (0.02, 200),
    "node.chips": (1, 576),
    "node.nics": (1, 576),
    "scale_up.domain_chips": (1, 20_000),
    "scale_up.one_way_per_chip": (4e9, 3e13),
    "scale_out.one_way_per_chip": (1e9, 2e12),
    "scale_out.levels": (1, 6),
    "tiers.*.one_way_per_chip": (1e7, 3e13),
    "tiers.*.oversubscription": (1, 1000),
    "size.max_chips": (1, 1e7),
}


def check(subject: Subject, context: Context) -> Iterator[Problem]:
    for path, figure in subject.figures.items():
        low, high = _BUILT.get(path) or _BUILT.get(_general(path)) or (0.0, float("inf"))
        if figure.value is not None and not low <= figure.value <= high:
            message = f"{figure.printed} is outside of what has been built, {low:g} to {high:g} {figure.unit}"
            yield subject.problem(RULE, path, message, "check digits and unit")


def _general(path: str) -> str:
    parts = path.split(".")
    return ".".join([*parts[:-1], "*"]) if parts[0] == "peaks" else ".".join([parts[0], "*", *parts[2:]])
