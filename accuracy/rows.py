"""Published runs from CSV: one row is one metric of one run; rows that agree in all else are joined.

Columns: id, source_url, source_location, chip, chips, chips_per_node, interconnect, framework, model, params_b, layers, hidden,
heads, kv_heads, ffn, vocab, seq_len, global_batch, micro_batch, dtype, tp, pp, vp, cp, dp, ep, zero_or_fsdp,
sequence_parallel, recompute, compile, metric, value, notes. Of a run that generates text: id, source_url, source_location, chip, chips, framework, model, params_b, dtype, tp, batch,
concurrency, input_len, output_len, metric, value, notes. Blank: the source does not say.

Metrics of a run that trains, of which the first that it has gives the time of a step that is compared (`truth_of_runs`):
  step_time_s              seconds of a step (an update of the weights)
  tokens_per_s_per_chip    tokens that a chip trains on in a second
  samples_per_s            samples (sequences) a second of the whole job
  time_to_train_min        minutes of a whole training, of runs of which `conventions.toml` says how many steps that was
  tflops_per_chip          TFLOP/s of a chip, of frameworks of which `conventions.toml` says how they count
  mfu                      the same as a share of the chip's dense peak, 0.41 or 41, the same way
  memory_gib               compared beside it: the most that a chip holds at once, GiB
Metrics of a run that generates text:
  ttft_ms                  milliseconds until the first token of each request; needs batch, as a server's prompts come one by one
  tpot_ms                  milliseconds of each further token of a sequence
  output_tokens_per_s      tokens written in a second by all chips together; output_tokens_per_s_per_user: of one sequence
A metric of another name is read and compared with nothing, and the run is listed with that.
"""

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

APART = ("id", "metric", "value", "unit", "notes", "source_location")  # columns in which rows of one run may differ
NEEDED = ("chip", "metric", "value")
COUNTS = ("chips", "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "seq_len", "global_batch", "micro_batch", "tp", "pp", "vp",
          "cp", "dp", "ep", "batch", "concurrency", "input_len", "output_len")  # fmt: skip
MARKS = ("DO NOT USE", "REPEAT")
COMPARE = {"=": str.__eq__, "!=": str.__ne__, "~": lambda value, wanted: re.search(wanted, value) is not None}


@dataclass(frozen=True)
class Run:
    """One run as published. id: of its first row. ids: of all. metrics: name -> value. columns: what all rows share."""

    id: str
    ids: tuple[str, ...]
    columns: Mapping[str, str]
    metrics: Mapping[str, float]
    notes: str = ""
    marks: tuple[str, ...] = field(default=())

    def __getitem__(self, column: str) -> str:
        return self.columns.get(column, "")

    def number(self, column: str) -> float | None:
        """The column as a number; None where it is blank or words."""
        try:
            return float(self[column])
        except ValueError:
            return None

    def whole(self, column: str) -> int | None:
        value = self.number(column)
        return int(value) if value is not None and abs(value) < 1e18 else None

    @property
    def source(self) -> str:
        """Short name of where it comes from: the id without its number."""
        return self.id.rsplit("-", 1)[0]


class BadRows(Exception):
    """A file that is not one of published runs: which file, what is missing."""


def read(paths: Iterable[str | Path]) -> list[Run]:
    """All runs of the files, in order. Raises BadRows, OSError."""
    return [run for path in paths for run in _read(Path(path))]


def _read(path: Path) -> list[Run]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(file)
        missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
        if missing:
            raise BadRows(f"{path}: no column {', '.join(missing)}")
        rows = [tidy(row, f"{path.stem}-{number}") for number, row in enumerate(reader, 1)]
    return join(rows)


def tidy(row: Mapping[str | None, Any], name: str) -> dict[str, str]:
    """Cells as text without space around them, counts without commas; a row without an id is named by its place in its file."""
    found = {key.strip(): str(value or "").strip() for key, value in row.items() if key is not None}
    found |= {
        key: found[key].replace(",", "") for key in COUNTS if re.fullmatch(r"\d{1,3}(,\d{3})+", found.get(key, ""))
    }
    return {**found, "id": found.get("id") or name}


def join(rows: Iterable[Mapping[str, str]]) -> list[Run]:
    """Rows of one run stand together or apart; a metric that comes a second time begins another run."""
    runs: list[list[Mapping[str, str]]] = []
    open_runs: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    for row in rows:
        key = tuple(value or "" for name, value in row.items() if name not in APART)
        run = open_runs.get(key)
        if run is None or any(other["metric"] == row["metric"] for other in run):
            run = open_runs[key] = []
            runs.append(run)
        run.append(row)
    return [_run(members) for members in runs]


def _run(rows: list[Mapping[str, str]]) -> Run:
    first = rows[0]
    notes = " | ".join(dict.fromkeys(row.get("notes") or "" for row in rows))
    columns = {name: (value or "").strip() for name, value in first.items() if name not in ("metric", "value", "id")}
    metrics = {row["metric"]: value for row in rows if (value := positive(row["value"])) is not None}
    marks = tuple(mark for mark in MARKS if mark in notes)
    return Run(first["id"], tuple(row["id"] for row in rows), columns, metrics, notes, marks)


def positive(text: str) -> float | None:
    """The number; None where it is none, not finite or not above zero: no measurement."""
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def where(runs: Iterable[Run], conditions: Iterable[str]) -> list[Run]:
    """Runs whose columns meet every condition: `chip=H100 SXM 80GB`, `id~^dgxc-0`, `dtype!=fp8` (~ is a regular expression),
    `source=dgxc` (what stands before the number of an id). Raises BadRows."""
    found = all_runs = list(runs)
    for condition in conditions:
        match = re.match(r"(\w+)(!=|=|~)(.*)$", condition.strip(), re.DOTALL)
        if not match:
            raise BadRows(f"--where {condition!r}: write column=value, column!=value or column~pattern")
        name, how, wanted = match.groups()
        known = {"id", "source", *(column for run in all_runs for column in run.columns)}
        if name not in known:
            raise BadRows(f"--where {condition!r}: no column is called so; there are {', '.join(sorted(known))}")
        try:
            found = [run for run in found if COMPARE[how](_text(run, name), wanted)]
        except re.error as error:
            raise BadRows(f"--where {condition!r}: not a regular expression: {error}") from None
    return found


def _text(run: Run, column: str) -> str:
    return {"id": run.id, "source": run.source}.get(column) or run[column]
