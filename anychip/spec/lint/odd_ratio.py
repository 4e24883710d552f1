"""Two figures whose ratio nobody has built: where one of them has slipped by a digit or a unit."""

from collections.abc import Iterator

from anychip.spec.context import Context, Subject
from anychip.spec.problem import Problem

RULE = "odd-ratio"
ABOUT = "Figures of one chip keep to ratios that have been built: arithmetic to power, dtype to dtype, two ways to one."

# Other figure -> least and most of the first figure for one of the other. HALF: the 16-bit peak.
_HALF = {
    # Operations per joule: a server CPU does 1e10, the best wafer and GPU of 2026 a few 1e12.
    "power.limit": (3e9, 2e13),
    # Operations per byte from memory: under 1 on a wafer whose memory is SRAM, about 1000 on a chip with GDDR.
    "memory.main.bandwidth": (0.1, 4e3),
    "peaks.matrix.fp16": (0.1, 10.0),
}
# Figure -> least and most for one of the 16-bit peak. A narrower dtype may be emulated, fp64 is a token on some chips.
_TO_HALF = {
    **dict.fromkeys(("peaks.matrix.fp8", "peaks.matrix.fp6", "peaks.matrix.fp4", "peaks.matrix.int8"), (0.25, 10.0)),
    "peaks.matrix.int4": (0.25, 10.0),
    "peaks.matrix.tf32": (0.05, 1.0),
    "peaks.matrix.fp32": (1e-3, 1.0),
    "peaks.vector.fp32": (1e-3, 1.0),
    "peaks.vector.fp16": (1e-3, 1.0),
    "peaks.vector.bf16": (1e-3, 1.0),
    "peaks.matrix.fp64": (2e-4, 1.0),
    "peaks.vector.fp64": (2e-4, 1.0),
}
_PAIRS = (
    ("links.scale_up.bidirectional", "links.scale_up.one_way", 1.9, 2.1),
    ("links.scale_out.bidirectional", "links.scale_out.one_way", 1.9, 2.1),
    ("links.host.bidirectional", "links.host.one_way", 1.9, 2.1),
    ("links.scale_up.one_way", "links.scale_up.peer_one_way", 1.0, 64.0),
    ("memory.main.usable", "memory.main.capacity", 0.5, 1.0),
    ("memory.l2.capacity", "memory.main.capacity", 1e-5, 0.05),
    ("memory.l3.capacity", "memory.main.capacity", 1e-5, 0.05),
    ("price.per_hour_high", "price.per_hour_low", 1.0, 20.0),
)


def check(subject: Subject, context: Context) -> Iterator[Problem]:
    place = next((p for p in ("peaks.matrix.bf16", "peaks.matrix.fp16") if subject.value(p)), None)
    if place:
        for other, (low, high) in _HALF.items():
            yield from _ratio(subject, place, other, low, high)
        for path, (low, high) in _TO_HALF.items():
            yield from _ratio(subject, path, place, low, high)
    for path, other, low, high in _PAIRS:
        yield from _ratio(subject, path, other, low, high)
    for path in subject.figures:
        if path.startswith("peaks.matrix_sparse."):
            yield from _ratio(subject, path, path.replace("_sparse", ""), 1.2, 8.1)


def _ratio(subject: Subject, path: str, other: str, low: float, high: float) -> Iterator[Problem]:
    value, base = subject.value(path), subject.value(other)
    if value and base and path != other and not low * 0.99 <= value / base <= high * 1.01:
        message = f"{value / base:.3g} times {other}; what has been built is {low:g} to {high:g}"
        yield subject.problem(RULE, path, message, "check digits and units of both")
