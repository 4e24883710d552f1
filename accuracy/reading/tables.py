"""The tables that say what a published run's words mean (defaults/*.toml, models.toml, shapes.csv, words.toml, chips.toml and
conventions.toml), and how they are looked into."""

import csv
import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]


class Unable(Exception):
    """Why a run cannot be forecast."""


@cache
def table(name: str) -> Mapping[str, Any]:
    return tomllib.loads((HERE / name).read_text(encoding="utf-8"))


@cache
def rules() -> tuple[Mapping[str, Any], ...]:
    """All rules of defaults/*.toml, files by name."""
    paths = sorted((HERE / "defaults").glob("*.toml"))
    return tuple(rule for path in paths for rule in tomllib.loads(path.read_text(encoding="utf-8"))["rule"])


@cache
def shapes() -> tuple[Mapping[str, Any], ...]:
    """Rows of shapes.csv, public models by name, as entries of models.toml."""
    with (HERE / "shapes.csv").open(encoding="utf-8", newline="") as file:
        return tuple(map(shape_entry, csv.DictReader(file)))


def shape_entry(row: Mapping[str, str]) -> Mapping[str, Any]:
    """`name`: words that stand together or with a space, dash or underscore between them; several forms with bars."""
    forms = ("[-_ ]?".join(map(re.escape, form.split())) for form in row["name"].split("|"))
    fixed: dict[str, Any] = {name: row[name] == "yes" for name in ("gated", "bias", "tied")}
    fixed |= {name: row[name] for name in ("norm", "position")}
    if row["head_dim"]:
        fixed["head_dim"] = int(row["head_dim"])
    blank = {name: row[name] for name in ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab")}
    return {"name": rf"(?i)(?<![a-z0-9.])({'|'.join(forms)})(?![0-9.])", "set": fixed, "blank": blank}


# The `re` module keeps 512 patterns; models, chips and rules have more, and each row asks all of them.
@cache
def regex(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def search(pattern: str, text: str) -> re.Match[str] | None:
    return regex(pattern).search(text)


def refuse(entries: Iterable[Mapping[str, Any]]) -> None:
    """Raises Unable where an entry says why its runs cannot be expressed."""
    reasons = [entry["unable"] for entry in entries if "unable" in entry]
    if reasons:
        raise Unable(reasons[-1])


def is_word(column: str, text: str) -> bool:
    try:
        return bool(word(column, text))
    except Unable:
        return False


def word(column: str, text: str) -> str:
    """What a column's text means; itself where it is such a word already."""
    entries = table("words.toml")[column]
    for entry in entries:
        match = search(entry["text"], text)
        if match:
            return match.expand(entry["value"])
    if text in {re.sub(r":.*", "", entry["value"]) for entry in entries} | {entry["value"] for entry in entries}:
        return text
    raise Unable(f"column {column}: {text!r} is not in accuracy/words.toml")


def number(columns: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = columns.get(name) or ""
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        if default is None:
            raise Unable(f"the source does not say {name}") from None
        return default
