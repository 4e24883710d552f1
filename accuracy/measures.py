"""What a published row measures: metrics and values as people write them, as those of `rows`.

In: a row's cells. Out: the metric's name and its value as a number. Words are in metrics.toml.
"""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

# As rows.py says what each is; taken as they stand.
TRAINED = ("step_time_s", "tokens_per_s_per_chip", "samples_per_s", "time_to_train_min", "chip_hours", "tflops_per_chip", "mfu", "hfu", "memory_gib")  # fmt: skip
SHARES = ("mfu", "hfu")  # of a peak, which may be printed in percent
SERVED = (
    "ttft_ms",
    "tpot_ms",
    "output_tokens_per_s",
    "output_tokens_per_s_per_user",
    "total_tokens_per_s",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "requests_per_s",
    "latency_ms",
)
# Columns that only a run that generates text has, and those that only one that trains has.
GENERATED = ("input_len", "output_len", "concurrency")
SEEN = ("seq_len", "global_batch", "micro_batch")
UNITS = r"s|sec|seconds?|ms|min|%|x|tflops?|tflop/s|tflops/s|tokens?/s|tok/s|tokens?/s/(gpu|chip)|samples?/s|gib|gb|gpus?|chips?"
LARGE = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9}
LARGE_WORDS = re.compile(r"(?i)(?<=[\d.]) ?(?:(thousand)|(million)|(billion))\b")
VALUE = re.compile(
    rf"(?i)^[~≈]?\s*(?P<number>[+]?[\d.,]+(e[-+]?\d+)?)\s*(?P<large>(?-i:[kKMB]?))(\s*(±|\+/-)\s*[\d.,]+)?\s*(?P<unit>{UNITS})?$"
)
RANGE = re.compile(
    r"[~≈]?\s*(?P<low>[\d.,]+)\s*(?P<large>[kKMB]?)%?\s*(-|\u2013|\u2014|to|\.\.)\s*(?P<high>[\d.,]+\s*(?P<of_high>[kKMB]?).*)"
)
WIDEST = 1.5  # high over low of what varies; further apart they are a count, or two things
# Behind a metric, of what it is: nothing of how it is counted.
ASIDE = re.compile(
    r"(?i)\s*\((?![^)]*\b(m?s|sec\w*|min\w*|h|hours?|days?|k|thousand|gi?b|mi?b|per|total|all)\b|[^)]*[%/])[^)]*\)$"
)
REMARK = re.compile(
    r"(?i)\s*\((avg|average|mean|median|approx\w*|about|peak|best|measured|reported|steady state)\.?\)$"
)


# In notes: the rate of a chip, without a figure in front, which would be another than the row's.
OF_CHIP = re.compile(
    r"(?i)(?<![\d.,])(?<![\d.,][kKM ])(tok(en)?s?|samples?|seq(uence)?s?) ?(/|per) ?s(ec(ond)?)?,? ?(/|per) ?(gpu|chip|device|npu|hpu|card|gcd|accelerator)"
    r"|\b(per|each)[- ](gpu|chip|device|npu|hpu|card|gcd)[- ](throughput|rate|tps|tok)|\bthroughput (is )?(per|of (a|one|each)) (gpu|chip|device|npu|hpu|card|gcd)\b"
)
OF_ALL = r"\b(total|global|overall|aggregate|cluster|flops|tflops|per day|m|million)\b"


def of_chip(row: Mapping[str, Any]) -> bool:
    """Whether a row's notes say that a rate is of one chip, or its framework prints none but those."""
    found = re.search(OF_CHIP, str(row.get("notes") or ""))
    logs = re.fullmatch(r"(?i)\W*(tps|wps)\W*", str(row.get("metric") or ""))
    return found is not None or bool(logs and re.search("(?i)torchtitan|torchtune", str(row.get("framework") or "")))


@cache
def words() -> Mapping[str, Any]:
    return tomllib.loads((Path(__file__).parent / "metrics.toml").read_text(encoding="utf-8"))


def generates(row: Mapping[str, Any]) -> bool:
    """Whether a row is of a run that writes text, by its columns: lengths of what is read and written, a batch that is no step's, or a framework
    that does nothing else."""
    if any(row.get(name) for name in GENERATED):
        return True
    engine = any(re.search(one["text"], str(row.get("framework") or "")) for one in words()["engine"])
    return not any(row.get(name) for name in SEEN) and bool(row.get("batch") or engine)


@cache
def spelled(metric: str, unit: str = "") -> str:
    """In plain words: `Tokens/sec/GPU` and `tokens_per_second_per_gpu` are `tokens per s per chip`."""
    text = f"{metric} {unit}".lower()
    for word in words()["word"]:
        text = re.sub(word["text"], word["value"], text)
    return " ".join(text.split())


def measured(
    metric: str,
    unit: str,
    text: str,
    chips: float | None,
    node: float | None = None,
    is_served: bool = False,
    of_chip: bool = False,
) -> tuple[str, float | None]:
    """(metric as rows.py has it, its value): the metric itself where nobody knows it or the number of chips, of all or of a node, is needed
    and not there; no value where the text is none above zero. is_served: of a run that generates text, whose tokens are written. of_chip: rates
    that say no more are of one chip."""
    name = metric.strip()
    value = positive(text)
    told = spelled(name, unit)
    if is_served and (of_text := served(name, unit, value, chips)):
        return of_text
    if name == "step_time_s" and value is not None and text.strip().lower().endswith("ms"):
        return name, value / 1000
    if name in TRAINED or name in SERVED:
        return name, in_its_unit(name, value, "%" if name in SHARES and "%" in text else unit)
    entry = next((entry for entry in words()["metric"] if re.search(entry["text"], told)), None)
    if entry is None and (bare := ASIDE.sub("", name)) != name:
        return (found[0], found[1]) if (found := measured(bare, unit, text, chips, node))[0] != bare else (name, value)
    if entry is not None and of_chip and entry.get("per") == "over" and not re.search(OF_ALL, told):
        entry = {**entry, "per": None}
    if entry is None or (entry.get("per") and not (node if entry["per"] == "node" else chips)):
        return name, value
    if entry["name"] in SHARES:
        return entry["name"], in_its_unit("mfu", value, "%" if "percent" in told or "%" in text else "")
    if value is not None:
        value = (1 / value if entry.get("inverse") else value) * entry.get("factor", 1)
        if entry["name"] == "step_time_s" and text.strip().lower().endswith("ms") and "ms" not in told.split():
            value /= 1000
        value *= {None: 1.0, "over": 1 / (chips or 1), "times": chips or 1, "node": 1 / (node or 1)}[entry.get("per")]
    return str(entry["name"]), value


def served(metric: str, unit: str, value: float | None, chips: float | None) -> tuple[str, float | None] | None:
    """Of a run that generates text; None where its metric is no such."""
    told = spelled(metric) if metric in SERVED else spelled(metric, unit)
    entry = next((entry for entry in words()["served"] if re.search(entry["text"], told)), None)
    if metric in SERVED and (entry is None or not re.search(r" per chip\b", spelled(unit))):
        return metric, in_its_unit(metric, value, unit)
    if entry is None:
        return None
    of_chip = re.search(r" per chip\b", f"{told} {spelled(unit)}") is not None
    if of_chip and not chips:
        return metric, value
    return str(entry["name"]), value and value * entry.get("factor", 1) * ((chips or 1) if of_chip else 1)


def in_its_unit(name: str, value: float | None, unit: str) -> float | None:
    """As rows.py says the metric is, whose column of units may say another."""
    said = spelled(unit)
    factor = next((one["factor"] for one in words()["unit"] if one["name"] == name and re.search(one["text"], said)), 1)
    return value if value is None else value * factor


def positive(text: str) -> float | None:
    """The number, with thousands apart, a decimal comma, a unit or what it varies by, or the middle of a narrow range; None where it is none,
    not finite or not above zero: no measurement."""
    text = REMARK.sub("", text.strip())
    text = LARGE_WORDS.sub(lambda found: "KMB"[found.lastindex - 1] if found.lastindex else "", text)
    if between := RANGE.fullmatch(text):
        low = positive(between["low"] + (between["large"] or between["of_high"]))
        high = positive(between["high"])
        return (low + high) / 2 if low and high and low < high <= WIDEST * low else None
    match = VALUE.match(text)
    if match is None:
        return None
    digits = match["number"]
    if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", digits):
        digits = digits.replace(",", "")
    elif re.fullmatch(r"\d+,\d{1,2}", digits):
        digits = digits.replace(",", ".")
    try:
        value = float(digits) * LARGE[match["large"]]
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None
