"""Is this CSV of apis/, ops/ or collectives/ what it should be? All problems at once, each with its line."""

import csv
from collections.abc import Iterator
from pathlib import Path

from anychip.spec.measured import COLLECTIVE_USES, COLLECTIVES_HEADER, wrong_cells
from anychip.spec.problem import Problem
from anychip.spec.software import APIS_HEADER, OPS_HEADER, STATUSES, VERDICTS

# Kind of table: its columns, those that together name a row, the column of answers, the answers, what else must be there.
_FORMS = {
    "apis": (APIS_HEADER, ("symbol",), "status", STATUSES, ("source",)),
    "ops": (OPS_HEADER, ("op", "dtype"), "verdict", VERDICTS, ("source", "licence")),
    "collectives": (COLLECTIVES_HEADER, ("collective", "algorithm", "chips", "nodes", "cluster", "bytes", "stack", "use", "note"),
                    "use", COLLECTIVE_USES, ("source",)),
}  # fmt: skip
KINDS = tuple(_FORMS)
RULE = "table"


def check_table(file: Path) -> list[Problem]:
    """Every problem of the file; its folder's name says which form it has."""
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
    header, names, answer, answers, needed = _FORMS[file.parent.name]
    if not lines or tuple(lines[0]) != header:
        yield Problem(str(file), 1, "", "the columns are not those of this table", f"{','.join(header)}", RULE)
        return
    seen: set[tuple[str, ...]] = set()
    for number, cells in enumerate(lines[1:], start=2):
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
        if file.parent.name == "collectives":
            yield from (Problem(str(file), number, column, what, None, RULE) for column, what in wrong_cells(row))
        if name in seen:
            yield Problem(str(file), number, names[0], f"{' '.join(name).strip()} stands twice", None, RULE)
        seen.add(name)
