"""The table of measured collectives: its columns and what each cell may hold."""

from collections.abc import Iterator, Mapping

from anychip.spec.fields import COLLECTIVE_ALGORITHMS

COLLECTIVES_HEADER = ("collective", "algorithm", "chips", "nodes", "cluster", "dtype", "bytes", "value", "unit", "use",
                      "stack", "date", "source", "note")  # fmt: skip
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce")
COLLECTIVE_UNITS = ("us", "GB/s busbw", "GB/s algbw")
COLLECTIVE_USES = ("curve", "level", "check")
_WORDS = {"collective": COLLECTIVES, "algorithm": ("", *COLLECTIVE_ALGORITHMS), "unit": COLLECTIVE_UNITS}
_LEAST = {"chips": 2.0, "nodes": 1.0, "bytes": 1.0}


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
