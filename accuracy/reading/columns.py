"""What the columns of a published run mean, and what its rules go by. Nothing here looks at a measured value."""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from accuracy.reading.machine import chip_of
from accuracy.reading.tables import Unable, is_word, number, regex, search, table, word
from accuracy.rows import COUNTS, Run
from anychip.spec import load_chip

MATCHED = (
    "framework",
    "chip",
    "model",
    "recompute",
    "dtype",
    "pp",
    "zero_or_fsdp",
    "sequence_parallel",
    "notes",
    "source_location",
    "published",
)


Forms = Mapping[str, tuple[str, ...]]


def forms_of(run: Run) -> Forms:
    """What rules look for their patterns in, by column: the source's words; of a framework as rules spell it, of a chip the standard's own
    name, too."""
    texts = {name: run.notes if name == "notes" else run[name] for name in MATCHED if name != "published"}
    forms = {
        **{name: (text,) for name, text in texts.items()},
        "framework": (framework_of(run),),
        "published": (published(run),),
    }
    if not run["source_location"] and (release := search(RELEASE, run["framework"])):
        forms["source_location"] = (f"{release[1]} ",)
    with suppress(Unable):
        forms["chip"] += (load_chip(chip_of(run)).name,)
    return forms


RELEASE = r"(?i)^(?!.*\brelease\b).*(?:bridge|nemo|megatron[- ]?core)\D*(2\d\.\d\d(?:\.\d\d)?)\b"  # where a table is named by it


def published(run: Run) -> str:
    """Year and month of the paper that a row is from, by its number (arXiv's); nothing where it has none."""
    found = search(
        r"(?i)arxiv[^|]{0,16}?\b(\d\d)(0[1-9]|1[0-2])\.\d{4,5}(?!\d)", f"{run['source_url']} {run['source_location']}"
    )
    return f"20{found[1]}-{found[2]}" if found else ""


def matches(rule: Mapping[str, Any], forms: Forms) -> bool:
    """Whether every pattern that the rule has is found in a form of its column; one that says what there must not be, in all."""

    def found(name: str) -> bool:
        each = all if rule[name].startswith("^(?!") else any
        return each(search(rule[name], form) for form in forms[name])

    return all(found(name) for name in MATCHED if name in rule)


def framework_of(run: Run) -> str:
    """As rules spell it."""
    text = without_stack(run["framework"])
    found = next((entry for entry in table("words.toml")["framework"] if search(entry["text"], text)), None)
    return regex(found["text"]).sub(found["value"], text, count=1) if found else text


def without_stack(text: str) -> str:
    """A framework's name without what it runs on (CUDA, ROCm, a container), where that is not all that the source says."""
    words = table("words.toml")["stack"][0]
    found = regex(words["text"]).sub("", text)
    is_all = not re.search("[A-Za-z]", found) or search(words["unless"], found)
    return text if found == text or is_all else found.strip(" ,;(/")


DIRECT = ("step_time_s", "tokens_per_s_per_chip", "samples_per_s")


BY_FLOP = ("tflops_per_chip", "mfu", "hfu")


PER_TOKEN = ("tokens_per_s_per_chip", *BY_FLOP)


def convention(run: Run) -> Mapping[str, Any] | None:
    """How the source counts FLOP, where a rate of them is all that it prints of a step's time: of conventions.toml."""
    metric = next((name for name in BY_FLOP if name in run.metrics), None)
    if metric is None or any(name in run.metrics for name in DIRECT):
        return None
    entries = table("conventions.toml")["flop"]
    forms = forms_of(run)
    return next(entry for entry in entries if entry["metric"] == metric and matches(entry, forms))


TOO_MANY = 2**28  # tokens of a step that nobody trains on: what is printed as a batch is of tokens


def in_sequences(run: Run, context: int = 0) -> Run:
    """With a batch of so many tokens ("4M tokens") as sequences: of 2^20 to a million where that is whole, else of those within what was
    rounded that the replicas share evenly what has most factors of two ("3.15M" of 2,048 are 1,536). context: how long they are where the row does not say."""
    told = search(r"(?i)^~?([\d,.]+) ?(k|m|million)? ?tok(?:en)?s?$|^~?([\d.]+) ?(m)$", run["global_batch"])
    length = run.whole("seq_len") or context
    if length < 1:
        return run
    if not told:
        batch = run.whole("global_batch") or 0
        if batch % length or batch * length <= TOO_MANY:
            return run
        return replace(run, columns={**run.columns, "global_batch": str(batch // length)})
    text, size = told[1] or told[3], (told[2] or told[4] or "").lower()[:1]
    with suppress(ValueError):
        value = float(text.replace(",", ""))
        digits = len(text.partition(".")[2])
        units = [base ** {"": 0, "k": 1, "m": 2}[size] / length for base in (1000, 1024)]
        kinds = [value * unit for unit in units]
        inner = math.prod(run.whole(name) or 1 for name in ("tp", "pp", "cp"))
        step = max((run.whole("chips") or 1) // inner, 1) * (run.whole("micro_batch") or 1)
        near = [
            (size & -size, -abs(size / kind - 1), size)
            for kind, unit in zip(kinds, units, strict=True)
            for size in multiples(kind, 0.5 * 10**-digits * unit, step)
        ]
        exact = [kind for kind in kinds if kind.is_integer()]  # of two, what more of the chips can share
        found = (
            max(exact, key=lambda kind: math.gcd(int(kind), step)) if exact else max(near)[-1] if near else kinds[-1]
        )
        return replace(run, columns={**run.columns, "global_batch": str(max(round(found), 1))})
    return run


def multiples(value: float, within: float, step: int) -> range:
    """Of a step, so near to a value."""
    return range(max(math.ceil((value - within) / step), 1) * step, math.floor(value + within) + 1, step)


def check_counts(run: Run) -> None:
    """Raises Unable where a count is given and is none: taken for blank, a rule would fill it in."""
    for name in COUNTS:
        value = run.number(name)
        if run[name] and (value is None or not value.is_integer()):
            raise Unable(f"column {name}: {run[name]!r} is no whole number")


def with_degrees(run: Run) -> Run:
    """With degrees of parallelism that stand in other columns than their own; Ulysses' is of ranks that share a sequence."""
    text, ulysses = (entry["text"] for entry in table("words.toml")["degree"])
    alone = [part for part in re.split(r"[;,.|]", run.notes) if not regex(text).sub("", part).strip(" +&/x\u00d7")]
    found: dict[str, str] = {}
    for where in (run["zero_or_fsdp"], run["framework"], *alone):
        for match in regex(text).finditer(where):
            found.setdefault(match[1].lower(), match[2])
    for where in (run["sequence_parallel"], run["zero_or_fsdp"], run["framework"]):
        if told_by := search(ulysses, where):
            found.setdefault("cp", told_by[1])
    if not run["tp"] and (degree := search(r"^(?:SP ?=? ?)?([2-9]|[1-9]\d+)$", run["sequence_parallel"])):
        found.setdefault("cp", degree[1])  # Megatron's has no degree of its own
    told = {name: value for name, value in found.items() if not run[name]}
    return replace(run, columns={**run.columns, **told}) if told else run


# Columns in words of which a rule's value stands in where nobody has seen the words.
WORDS = ("recompute", "zero_or_fsdp", "sequence_parallel", "compile")


def fill(run: Run, blank: Mapping[str, Any], is_tuned: bool = False) -> tuple[dict[str, str], list[str]]:
    """(columns with blanks filled, names of those that were filled and matter for this run). is_tuned: samples are as long as they are,
    whatever the model's context."""
    columns = dict(run.columns)
    filled = []
    for name, value in blank.items():
        if name != "context" and not columns.get(name):
            columns[name] = str(value)
            if name not in ("cp", "pp") and not (name == "compile" and value == "none"):
                filled.append(name)
    split = {name: number(columns, name, 1) for name in ("tp", "pp", "cp")}
    chips = run.whole("chips") or 1
    alone = chips // max(split["tp"] * split["pp"] * split["cp"], 1) <= 1
    without = {"sequence_parallel": split["tp"] == 1, "vp": split["pp"] == 1, "zero_or_fsdp": alone, "tp": chips == 1}
    if (
        "dtype" in blank
        and columns.get("dtype")
        and is_word("dtype", columns["dtype"])
        and word("dtype", columns["dtype"]) == "any"
    ):
        columns["dtype"] = str(blank["dtype"])
        filled.append("dtype")
    for name in WORDS:
        usual = blank.get(name, "none" if name == "compile" and columns.get(name) else None)
        if usual is not None and not is_word(name, columns.get(name) or ""):
            columns[name] = str(usual)
            filled.append(name)
    decides_little = any(name in run.metrics for name in PER_TOKEN) and "step_time_s" not in run.metrics
    if not columns.get("seq_len") and "context" in blank and (decides_little or not is_tuned):
        columns["seq_len"] = str(blank["context"])
        filled.append("seq_len")
    return columns, [name for name in filled if not without.get(name, False)]


SIZES = {
    "": 1.0,
    "k": 1e3,
    "thousand": 1e3,
    "m": 1e6,
    "million": 1e6,
    "b": 1e9,
    "billion": 1e9,
    "t": 1e12,
    "trillion": 1e12,
}


def whole(what: str, notes: str) -> float:
    """How many `tokens` or `steps` a whole training has, by what a source's notes say of it; 0 where they do not."""
    found = next((match for entry in table("words.toml")[what] if (match := search(entry["text"], notes))), None)
    return float((found[1] or "1").replace(",", "")) * SIZES[(found[2] or "").lower()] if found else 0.0
