"""Two figures whose ratio nobody has built: where one of them has slipped by a digit or a unit."""

from collections.abc import Iterator

from anychip.spec.context import Context, Subject
from anychip.spec.problem import Problem

RULE = "odd-ratio"
ABOUT = "Figures of one chip keep to ratios that have been built: arithmetic to power, dtype to dtype, two ways to one."

# Other figure -> least and most of the first figure for one of the other. HALF: the 16-bit peak. Limits lie around all that the standard
# has, a factor of up to four off: a test holds them there, so that a slip by a digit is met on either side of most.
_HALF = {
    # Operations per joule: 1.6e11 on TPU v2, 2.3e12 on MI350X.
    "power.limit": (5e10, 5e12),
    # Operations per byte from memory: 0.4 on a wafer whose memory is SRAM, 750 on a CPU with DDR5.
    "memory.main.bandwidth": (0.2, 1500.0),
    "peaks.matrix.fp16": (0.4, 4.0),
}
# Figure -> least and most for one of the 16-bit peak.
_TO_HALF = {
    **dict.fromkeys(("peaks.matrix.fp8", "peaks.matrix.int8"), (0.5, 4.0)),
    **dict.fromkeys(("peaks.matrix.fp6", "peaks.matrix.fp4", "peaks.matrix.int4"), (1.0, 8.0)),
    "peaks.matrix.tf32": (0.2, 1.0),
    "peaks.matrix.fp32": (0.06, 1.0),
    # Those beside the matrix units: 1/117 on Gaudi 3.
    **dict.fromkeys(("peaks.vector.fp32", "peaks.vector.fp16", "peaks.vector.bf16"), (0.005, 1.0)),
    # A token on some chips: 1/1900 on GB300.
    **dict.fromkeys(("peaks.matrix.fp64", "peaks.vector.fp64"), (4e-4, 0.5)),
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
            yield from _ratio(subject, path, path.replace("_sparse", ""), 1.2, 4.1)


def _ratio(subject: Subject, path: str, other: str, low: float, high: float) -> Iterator[Problem]:
    value, base = subject.value(path), subject.value(other)
    if value and base and path != other and not low * 0.99 <= value / base <= high * 1.01:
        message = f"{value / base:.3g} times {other}; what has been built is {low:g} to {high:g}"
        yield subject.problem(RULE, path, message, "check digits and units of both")
