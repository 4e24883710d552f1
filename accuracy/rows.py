"""Published runs from CSV: one row is one metric of one run; rows that agree in all else are joined.

Columns: id, source_url, source_location, chip, chips, chips_per_node, interconnect, framework, model, params_b, layers, hidden,
heads, kv_heads, ffn, vocab, seq_len, global_batch, micro_batch, dtype, tp, pp, vp, cp, dp, ep, zero_or_fsdp,
sequence_parallel, recompute, compile, metric, value, notes. Of a run that generates text: id, source_url, source_location, chip, chips, framework, model, params_b, dtype, tp, batch,
concurrency, input_len, output_len, metric, value, notes. Blank: the source does not say.

Metrics of a run that trains, of which the first that it has gives the time of a step that is compared (`truth_of_runs`):
  step_time_s              seconds of a step (an update of the weights)
  tokens_per_s_per_chip    tokens that a chip trains on in a second
  samples_per_s            samples (sequences) a second of the whole job
  time_to_train_min        minutes of a whole training, of runs of which `conventions.toml` says how many steps that was, or the notes of
                           how many tokens or steps
  chip_hours               the same, times chips, in hours
  tflops_per_chip          TFLOP/s of a chip, of frameworks of which `conventions.toml` says how they count
  mfu                      the same as a share of the chip's dense peak, 0.41 or 41, the same way
  memory_gib               compared beside it: the most that a chip holds at once, GiB
Metrics of a run that generates text:
  ttft_ms                  milliseconds until the first token of each request; needs batch, as a server's prompts come one by one
  tpot_ms                  milliseconds of each further token of a sequence
  output_tokens_per_s      tokens written in a second by all chips together; output_tokens_per_s_per_user: of one sequence
  total_tokens_per_s       the same with those that are read
  requests_per_s           sequences that are done in a second by all chips together
  latency_ms               milliseconds that a batch takes, where output_len says how many tokens it writes
  prefill_tokens_per_s     tokens of prompts that are read in a second, of the reading alone; decode_tokens_per_s: written, of the writing alone
Other names that say the same (`tokens/s/GPU`, `iteration time (ms)`; a column `unit` is read with them) are known by metrics.toml, values
by `measures.positive`. A metric of another name is read and compared with nothing, and the run is listed with that.
"""

import csv
import io
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from accuracy.measures import generates, measured, of_chip

APART = ("id", "metric", "value", "unit", "notes", "source_location")  # columns in which rows of one run may differ
NEEDED = ("chip", "metric", "value")
COUNTS = ("chips", "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "seq_len", "global_batch", "micro_batch", "tp", "pp", "vp",
          "cp", "dp", "ep", "batch", "concurrency", "input_len", "output_len")  # fmt: skip
DEGREES = ("tp", "pp", "vp", "cp", "dp", "ep")
# What people write where a source does not say; in these columns it is text.
BLANK = {"-", "--", "\u2013", "\u2014", "?", "n/a", "na", "n.a.", "null", "nil", "tbd", "unknown", "unspecified", "not specified", "not stated",
         "not given", "not reported", "not disclosed"}  # fmt: skip
LENGTHS = ("seq_len", "input_len", "output_len")
COUNTED = r"(gpu|chip|tpu|npu|hpu|device|accelerator|sequence|seq|sample|layer|head|rank|way|stage|expert)s?"
MAKES = r"(?i:nvidia|amd|intel|google|aws|huawei|ascend|tesla|tpu|trainium|gaudi|gb?\d00|gh\d|[abhv]\d{2,3}0s?\b|mi\d|rtx|l4|[dh]gx\b)"  # not the rest of a name: 4090 D
SEVERAL = rf"(\d+)( ?[x\u00d7*] ?(?=[A-Za-z])| (?={MAKES}))"
FREE = ("id", "metric", "value", "unit", "notes", "source_url", "source_location")
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
    unread: tuple[str, ...] = ()  # metrics whose value is no number above zero
    shifted: str = ""  # why its cells are not to be trusted
    spelled: tuple[str, ...] = ()  # metrics that have another name in the file

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
    text = decoded(path.read_bytes())
    if not_closed(text):
        raise BadRows(f"{path}: a quote is opened and never closed: all that follows it would be one cell")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter(text.partition("\n")[0]))
    try:
        names = [heading(name) for name in reader.fieldnames or ()]
        reader.fieldnames = names
        missing = [name for name in NEEDED if name not in names]
        if missing:
            raise BadRows(f"{path}: no column {', '.join(missing)}")
        twice = sorted({name for name in names if name and names.count(name) > 1})
        if twice:
            raise BadRows(f"{path}: column {', '.join(twice)} stands there twice")
        rows = [tidy(row, f"{path.stem}-{number}") for number, row in enumerate(reader, 1)]
    except csv.Error as error:
        raise BadRows(f"{path}: line {reader.line_num}: {error}") from None
    return join(row for row in rows if any(value for name, value in row.items() if name != "id"))


def not_closed(text: str) -> bool:
    try:
        list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter(text.partition("\n")[0]), strict=True))
    except csv.Error as error:
        return "end of data" in str(error)
    return False


def decoded(data: bytes) -> str:
    """As spreadsheets write it: UTF-8 or UTF-16, with a mark in front or without."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8-sig", errors="replace").replace("\0", "")


def delimiter(head: str) -> str:
    """Of a first line: comma, or where there are more of them, semicolon or tabulator."""
    return max(",;\t", key=head.count)


def heading(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def tidy(row: Mapping[str | None, Any], name: str) -> dict[str, str]:
    """Cells as text without space around them, counts without commas and what they count; words for `not said` are blank; a row without
    an id is named by its place in its file."""
    found = {key.strip(): str(value or "").strip() for key, value in row.items() if key is not None}
    found = {key: "" if key not in FREE and value.lower() in BLANK else value for key, value in found.items()}
    found |= {key: count(key, found[key]) for key in COUNTS if found.get(key)}
    nodes = re.fullmatch(
        r"(?i)(\d+) ?(?:(?:nodes?|hosts?|servers?) ?(?:[x\u00d7*] ?(\d+))?|[x\u00d7*] ?(\d+))( ?gpus?| ?chips?)?",
        found.get("chips", ""),
    )
    if nodes and (each := nodes[2] or nodes[3] or found.get("chips_per_node") or "").isdecimal():
        found["chips"] = str(int(nodes[1]) * int(each))
    several = re.match(SEVERAL, found.get("chip", ""))
    if several:
        found["chip"] = found["chip"][several.end() :]
        found["chips"] = found.get("chips") or str(int(several[1]) * (in_one(found["chip"]) or 1))
    boxes = re.match(SEVERAL, found.get("chips", ""))
    if boxes and (each := in_one(found["chips"][boxes.end() :])):
        found["chip"] = f"{found['chip']} {found['chips'][boxes.end() :]}"
        found["chips"] = str(int(boxes[1]) * each)
    if any(cell.strip() for cell in row.get(None) or ()):
        found["shifted"] = "it has more cells than its file has columns: is there a comma outside of quotes?"
    return {**found, "id": found.get("id") or name}


@cache
def boxes() -> Mapping[str, Any]:
    return tomllib.loads((Path(__file__).parent / "chips.toml").read_text(encoding="utf-8"))


def slice_of(name: str) -> int:
    """Chips of a slice of that name; 0 where it is none."""
    found = ((match, entry) for entry in boxes()["slice"] if (match := re.search(entry["name"], name)))
    return next((int(match[2]) // int(entry["cores"]) for match, entry in found), 0)


def in_one(name: str) -> int:
    """Chips of a slice or of a machine of that name; 0 where it is neither."""
    if chips := slice_of(name):
        return chips
    return next((int(entry["chips"]) for entry in boxes()["machine"] if re.search(entry["name"], name)), 0)


# In front of a count, what it counts (`TP=8`, `GBS 512`), and behind one, by column.
LABELS = {
    **{name: rf"{name}p?|{name}[-_ ]?size" for name in DEGREES}, "global_batch": r"gbs|g?bs|(global[-_ ]?)?batch([-_ ]?size)?",
    "micro_batch": r"mbs|bs|(micro[-_ ]?)?batch([-_ ]?size)?", "seq_len": r"(seq(uence)?[-_ ]?)?len(gth)?|seq|ctx|context",
}  # fmt: skip
BEHIND = {
    "micro_batch": r"(per|/) ?(gpu|chip|device|npu|rank|card)s?", "chips_per_node": rf"({COUNTED} ?)?(per|/|a|in a) ?(node|host|server|machine)",
    **dict.fromkeys(DEGREES, r"way\b( [a-z-]+)*"), "chips": rf"(?:[x\u00d7] ?)?(?!.*(?:\bv\d\w*-\d|dgx|hgx|node|pod|slice)){MAKES}[\w -]*",
}  # fmt: skip


def count(column: str, text: str) -> str:
    """`1,024`, `64 GPUs`, `64 (8 nodes)`, `TP=8`, `8-way tensor parallel` and `8k` tokens as a number; what is none, or counts something else, as
    it is."""
    text = re.sub(r"^~?\d{1,3}(,\d{3})+(?![\d,])", lambda found: found[0].replace(",", ""), text).removeprefix("~")
    if text.lower() in ("none", "no", "off") and column in DEGREES:
        return "1"
    if text.lower() in ("single", "one") and column == "chips":
        return "1"
    if column in LABELS:
        text = re.sub(rf"(?i)^({LABELS[column]})[-_ =:]*(?=\d)", "", text)
    if column in BEHIND:
        text = re.sub(rf"(?i)(?<=\d)[- ]?({BEHIND[column]})$", "", text)
    if column in (*LENGTHS, "vocab"):
        large = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKM])(?: ?(?:tok(?:en)?s?|context))?", text)
        if (
            large
            and (
                size := float(large[1]) * (1000 if column == "vocab" else 1024) ** (2 if large[2] == "M" else 1)
            ).is_integer()
        ):
            return str(int(size))
    if column == "global_batch" and (large := re.fullmatch(r"(\d+) ?[kK]( (seq(uence)?s?|samples?))?", text)):
        return str(int(large[1]) * 1024)
    counted = rf"{COUNTED}|tok(en)?s?" if column in LENGTHS else COUNTED
    match = re.fullmatch(rf"(?i)(\d+)[- ]?({counted}|\((?!x|\u00d7|tok(en)?s?\)|.*\b(per|each)\b).*\))", text)
    return match[1] if match else text


def join(rows: Iterable[Mapping[str, str]]) -> list[Run]:
    """Rows of one run stand together or apart; a metric that comes a second time begins another run."""
    runs: list[list[Mapping[str, str]]] = []
    open_runs: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    for row in rows:
        key = tuple(value or "" for name, value in row.items() if name not in APART)
        run = open_runs.get(key)
        if run is None or any(_measured(other)[0] == _measured(row)[0] for other in run):
            run = open_runs[key] = []
            runs.append(run)
        run.append(row)
    return [_run(members) for members in runs]


def _run(rows: list[Mapping[str, str]]) -> Run:
    first = rows[0]
    notes = " | ".join(dict.fromkeys(row.get("notes") or "" for row in rows))
    columns = {name: (value or "").strip() for name, value in first.items() if name not in ("metric", "value", "id")}
    found = {name: (value, row) for row in rows for name, value in [_measured(row)]}
    metrics = {name: value for name, (value, _) in found.items() if value is not None}
    unread = tuple(f"{name} {row['value']!r}" for name, (value, row) in found.items() if value is None and row["value"])
    marks = tuple(mark for mark in MARKS if mark in notes)
    ids = tuple(row["id"] for row in rows)
    spelled = tuple(
        f"metric {row['metric']!r} is read as {name}"
        for name, (value, row) in found.items()
        if value and name != row["metric"].lower()
    )
    return Run(first["id"], ids, columns, metrics, notes, marks, unread, columns.get("shifted", ""), spelled)


def _measured(row: Mapping[str, str]) -> tuple[str, float | None]:
    chips, node = (
        int(text) if text.isdecimal() else None for text in (row.get("chips") or "", row.get("chips_per_node") or "")
    )
    if not row.get("chips"):
        chips = slice_of(row.get("chip") or "") or None
    return measured(
        row["metric"] or "", row.get("unit") or "", row["value"] or "", chips, node, generates(row), of_chip(row)
    )


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
