"""A line for each quantity of each run, as the terminal shows them: what was measured, the forecast, and its error or why there is none."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from anychip import units

HEAD = ("run", "", "measured", "forecast", "error")
NAMED = {"step_time_s": "step", "memory_gib": "memory", "prompt_s": "prompt", "token_s": "token", "whole_s": "whole"}
FITTED = "a constant was fitted to it"


def table(entries: Iterable[Mapping[str, Any]], nothing: str) -> list[str]:
    """entries: as the JSON has them. nothing: said of a run without a figure to compare with."""
    rows = [HEAD, *(cells(entry, nothing) for entry in entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [f"{'  '.join(_aligned(row, widths))}  {row[4]}".rstrip() for row in rows]


def _aligned(row: tuple[str, ...], widths: list[int]) -> Iterator[str]:
    for column, width in enumerate(widths):
        yield row[column].ljust(width) if column < 2 else row[column].rjust(width)


def cells(entry: Mapping[str, Any], nothing: str) -> tuple[str, ...]:
    metric = entry["metric"]
    measured, forecast = (_shown(metric, entry[name]) for name in ("measured", "forecast"))
    if entry["error"] is not None:
        said = f"{entry['error']:+.1%}" + (f"  not counted: {why}" if (why := entry.get("not_compared")) else "")
    else:
        said = entry["reason"] or (FITTED if entry["fitted"] else nothing)
    return entry["id"], NAMED.get(metric, metric), measured, forecast, said


def _shown(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g} GiB" if metric == "memory_gib" else units.duration(value)
