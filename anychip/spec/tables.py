"""Is this CSV of apis/, ops/, collectives/ or rates/ what it should be? All problems at once, each with its line."""

import csv
from collections.abc import Iterator
from pathlib import Path

from anychip.spec.measured import COLLECTIVE_USES, COLLECTIVES_HEADER, RATE_KINDS, RATES_HEADER, wrong_cells, wrong_rate
from anychip.spec.problem import Problem
from anychip.spec.software import APIS_HEADER, OPS_HEADER, STATUSES, VERDICTS

# Kind of table: its columns, those that together name a row, the column of answers, the answers, what else must be there.
_FORMS = {
    "apis": (APIS_HEADER, ("symbol",), "status", STATUSES, ("source",)),
    "ops": (OPS_HEADER, ("op", "dtype"), "verdict", VERDICTS, ("source", "licence")),
    "collectives": (COLLECTIVES_HEADER, ("collective", "algorithm", "chips", "nodes", "cluster", "bytes", "stack", "use", "note"),
                    "use", COLLECTIVE_USES, ("source",)),
    "rates": (RATES_HEADER, ("op", "dtype", "shape", "stack", "source", "note"), "kind", RATE_KINDS, ("source",)),
}  # fmt: skip
KINDS = tuple(_FORMS)
RULE = "table"
_WRONG = {"collectives": wrong_cells, "rates": wrong_rate}


def kind_of(file: Path) -> str | None:
    """Which kind of table a CSV is: by its folder, else by its columns; None where it is none."""
    if file.suffix != ".csv" or file.parent.name in KINDS:
        return file.parent.name if file.suffix == ".csv" else None
    try:
        with file.open(encoding="utf-8", newline="") as text:
            head = tuple(next(csv.reader(text), ()))
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    return next((kind for kind, form in _FORMS.items() if form[0] == head), None)


def check_table(file: Path) -> list[Problem]:
    """Every problem of the file; its folder's name says which form it has, outside of such a folder its columns."""
    try:
        text = file.read_bytes().decode("utf-8")
    except OSError as error:
        return [Problem(str(file), None, "", f"cannot be read: {error.strerror or error}", rule=RULE)]
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return [Problem(str(file), line, "", f"byte {error.start} is not UTF-8 text", rule=RULE)]
    try:
        return list(_problems(file, list(csv.reader(text.splitlines()))))
    except csv.Error as error:
        return [Problem(str(file), 1, "", f"not CSV: {error}", rule=RULE)]


def _problems(file: Path, lines: list[list[str]]) -> Iterator[Problem]:
    kind = kind_of(file)
    assert kind is not None, "only tables are checked as tables"
    header, names, answer, answers, needed = _FORMS[kind]
    if not lines or tuple(lines[0]) != header:
        yield Problem(str(file), 1, "", "the columns are not those of this table", f"{','.join(header)}", RULE)
        return
    seen: set[tuple[str, ...]] = set()
    for number, cells in enumerate(lines[1:], start=2):
        if kind == "rates" and (not cells or cells[0].startswith("#")):
            continue
        if len(cells) != len(header):
            yield Problem(str(file), number, "", f"{len(cells)} columns instead of {len(header)}", None, RULE)
            continue
        row = dict(zip(header, cells, strict=True))
        name = tuple(row[key] for key in names)
        if row[answer] not in answers:
            yield Problem(str(file), number, answer, f"{row[answer]!r} is none of {', '.join(answers)}", None, RULE)
        elif row[answer] != "unknown" and not all(row[key] for key in needed):
            lacking = next(key for key in needed if not row[key])
            yield Problem(str(file), number, lacking, f"{' '.join(name).strip()} without a {lacking}", None, RULE)
        if kind in _WRONG:
            yield from (Problem(str(file), number, column, what, None, RULE) for column, what in _WRONG[kind](row))
        if name in seen:
            yield Problem(str(file), number, names[0], f"{' '.join(name).strip()} stands twice", None, RULE)
        seen.add(name)
