"""The tables of measurements, rates of a chip and collectives: their columns and what each cell may hold."""

from collections.abc import Iterator, Mapping

from anychip.spec.fields import COLLECTIVE_ALGORITHMS

COLLECTIVES_HEADER = ("collective", "algorithm", "chips", "nodes", "cluster", "dtype", "bytes", "value", "unit", "use",
                      "stack", "date", "source", "note")  # fmt: skip
RATES_HEADER = ("op", "dtype", "shape", "value", "unit", "kind", "stack", "date", "source", "note")
RATE_UNITS = {"TFLOP/s": 1e12, "TOP/s": 1e12, "GB/s": 1e9, "TB/s": 1e12, "us": 1e-6, "ms": 1e-3, "s": 1.0, "ratio": 1.0,
              "elements": 1.0, "tokens": 1.0, "": 1.0}  # fmt: skip
RATE_KINDS = ("measured", "derived", "assumed")
WITHOUT_VALUE = ("borrow", "same_die")  # rows that name another chip
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce")
COLLECTIVE_UNITS = ("us", "GB/s busbw", "GB/s algbw")
COLLECTIVE_USES = ("curve", "level", "check")
_WORDS = {"collective": COLLECTIVES, "algorithm": ("", *COLLECTIVE_ALGORITHMS), "unit": COLLECTIVE_UNITS}
_LEAST = {"chips": 2.0, "nodes": 1.0, "bytes": 1.0}


def wrong_rate(row: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(column, what is wrong) of one row of rates."""
    if row["unit"] not in RATE_UNITS:
        yield "unit", f"{row['unit']!r} is none of {', '.join(filter(None, RATE_UNITS))}"
    try:
        value = float(row["value"] or 0)
    except ValueError:
        yield "value", f"{row['value']!r} is not a number"
        return
    if not 0 <= value * RATE_UNITS.get(row["unit"], 1.0) < 1e21 or (value == 0 and row["op"] not in WITHOUT_VALUE):
        yield "value", f"{row['value']!r} is not a number above 0 that a chip could have"


def wrong_cells(row: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(column, what is wrong) of one row."""
    for column, words in _WORDS.items():
        if row[column] not in words:
            yield column, f"{row[column]!r} is none of {', '.join(filter(None, words))}"
    for column, least in _LEAST.items():
        if not row[column].isdecimal() or len(row[column]) > 18 or int(row[column]) < least:
            yield column, f"{row[column]!r} is not a whole number from {least:.0f}"
    try:
        value = float(row["value"])
    except ValueError:
        value = 0.0
    if not 0 < value < 1e12:
        yield "value", f"{row['value']!r} is not a number above 0"
    if row["nodes"] not in ("1", "") and not row["cluster"]:
        yield "cluster", "measured over more than one node, but not in which cluster"
