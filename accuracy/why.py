"""What a measured run did that its forecast does not know: for the worst rows, from accuracy/why.toml, by id."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from accuracy.score import Result

HERE = Path(__file__).parent


@cache
def entries() -> tuple[Any, ...]:
    import tomllib

    return tuple(tomllib.loads((HERE / "why.toml").read_text(encoding="utf-8"))["why"])


def is_other(result: Result) -> bool:
    """Whether the run is known to be of another program than the one forecast: no measure of how well that is forecast."""
    return any(entry.get("other") and re.search(entry["id"], result.run.id) for entry in entries())


def memory_is_other(result: Result) -> str:
    """Why the run's memory is not to be compared; "" where it is."""
    found = (entry for entry in entries() if "memory" in entry and re.search(entry["id"], result.run.id))
    return next((str(entry["memory"]) for entry in found), "")


def why(result: Result) -> str:
    """The words for this run; else which of its columns were filled, which is where to look first."""
    for entry in entries():
        if "text" in entry and re.search(entry["id"], result.run.id):
            return str(entry["text"])
    filled = ", ".join(result.plan.filled) if result.plan else ""
    return f"not looked into; columns filled by rule: {filled or 'none'}"
