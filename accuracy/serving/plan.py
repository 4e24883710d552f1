"""What to forecast for a published run that generates text, or why it cannot be.

In: a `Run` of published/inference.csv, the rules of rules.toml, the models of ../models.toml and ../shapes.csv. Out: a `Plan`. Nothing
here looks at a measured value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from accuracy.plan import argv_of
from accuracy.reading.columns import check_counts
from accuracy.reading.machine import chip_entry, chip_of
from accuracy.reading.model import models_of
from accuracy.reading.tables import Unable, search, table
from accuracy.recorder import SERVING, Job
from accuracy.rows import Run
from accuracy.serving import PROMPT, TOKEN

SIZES = ("layers", "hidden", "heads", "ffn", "vocab")
TAKEN = ("head_dim", "norm", "position", "gated", "bias", "tied")  # of what a model's name says
STEPS = 4  # calls: a warm-up, one that is captured, two of the graph
DTYPES = (
    ("int8", {"dtype": "bf16", "int8": True}),
    ("(?i)fp8", {"dtype": "fp8"}),
    ("(?i)bf16|fp16", {"dtype": "bf16"}),
)
# Metric -> what it tells, as `Plan.seconds` names it, and seconds of it by the printed value.
METRICS = {"ttft_ms": PROMPT, "tpot_ms": TOKEN, "output_tokens_per_s": "whole", "output_tokens_per_s_per_user": "whole"}


@dataclass(frozen=True)
class Plan:
    """options: of `accuracy.serving.program` but for the phase. batch: sequences of all replicas, each of `replica_chips`. prompt, new:
    tokens of a sequence that are read and written; seen: of which a new one reads keys and values, on average. filled: what a rule filled."""

    run: Run
    chip: str
    replica_chips: int
    options: Mapping[str, Any]
    batch: int
    prompt: int
    new: int
    seen: int
    filled: tuple[str, ...] = ()

    def job(self, phase: str) -> Job:
        own = {"seq": self.prompt} if phase == PROMPT else {"seen": self.seen}
        return Job(argv_of({**self.options, **own, "phase": phase, "steps": STEPS}), self.replica_chips, SERVING)

    def seconds(self, prompt_s: float, token_s: float) -> Mapping[str, float]:
        """Of each phase, and of all tokens of a batch: the prompt's call writes the first."""
        return {PROMPT: prompt_s, TOKEN: token_s, "whole": prompt_s + (self.new - 1) * token_s}

    def measured(self) -> Mapping[str, float]:
        """The same, of the metrics that the source prints."""
        found = {}
        for metric, value in self.run.metrics.items():
            if metric in METRICS and not (
                metric == "ttft_ms" and not self.run["batch"]
            ):  # a server's prompts come one by one
                each = self.batch if metric == "output_tokens_per_s" else 1
                found[METRICS[metric]] = each * self.new / value if METRICS[metric] == "whole" else value / 1e3
        return found


def plan(run: Run) -> Plan:
    """Raises Unable with the reason."""
    if run.shifted:
        raise Unable(run.shifted)
    if run.marks:
        raise Unable(f"marked {run.marks[0]} by whoever collected it")
    check_counts(run)
    if search("(?<!no )(?<!no fused )speculative", run.notes):
        raise Unable("a second model drafts tokens, of which an unknown share is taken")
    told = [rule for rule in rules() if search(rule["framework"], run["framework"])]
    options: dict[str, Any] = {name: value for rule in told for name, value in rule["set"].items()}
    filled = []
    lengths = {}
    for name, column in (("prompt", "input_len"), ("new", "output_len")):
        lengths[name] = run.whole(column) or next((rule[name] for rule in reversed(told) if name in rule), 0)
        if not lengths[name]:
            raise Unable(f"the source does not say {column}")
        if not run.whole(column):
            filled.append(column)
    batch = run.whole("batch") or run.whole("concurrency") or 0
    if not batch:
        raise Unable("the source does not say how many sequences are worked on at once")
    cores, bucket = (
        next((rule[name] for rule in reversed(told) if name in rule), 1) for name in ("cores_per_chip", "bucket")
    )
    chips = run.whole("chips") or 1
    tp = max((run.whole("tp") or chips * cores) // cores, 1)
    if min(batch, chips, *lengths.values()) < 1:
        raise Unable("a size is not positive")
    replicas, left = divmod(chips, tp)
    if left or batch % replicas:
        raise Unable(f"{chips} chips or {batch} sequences do not divide into replicas of {tp} chips")
    options |= model_options(run["model"]) | dtype_options(run["dtype"])
    options["kv_heads"] = max(options["kv_heads"], cores * tp if cores > 1 else 1)
    options |= {"micro_batch": batch // replicas, **({"tp": tp} if tp > 1 else {})}
    seen = read_at(lengths["prompt"], lengths["new"], bucket)
    if "near" in chip_entry(run):
        filled.append("chip")
    return Plan(run, chip_of(run), tp, options, batch, *lengths.values(), seen, tuple(filled))


def read_at(prompt: int, new: int, bucket: int) -> int:
    """Tokens at which a cache is read for a new one, mean over all that are written: those that are there, or with buckets the next length
    of these."""
    if bucket == 1:
        return prompt + new // 2
    there = np.arange(prompt + 1, prompt + new + 1)
    return round(float(np.mean(bucket * 2 ** np.ceil(np.log2(np.maximum(there / bucket, 1))))))


@cache
def rules() -> tuple[Mapping[str, Any], ...]:
    return tuple(table("serving/rules.toml")["rule"])


def dtype_options(text: str) -> Mapping[str, Any]:
    for pattern, options in DTYPES:
        if search(pattern, text):
            return options
    raise Unable(f"dtype {text!r}" if text else "the source does not say dtype")


def model_options(model: str) -> Mapping[str, Any]:
    model = model.rpartition("/")[2]  # of a hub's name what follows its owner
    fixed: dict[str, Any] = {}
    blank: dict[str, Any] = {}
    for entry in models_of(model):
        fixed |= entry.get("set", {})
        blank |= entry.get("blank", {})
    if "pattern" in fixed:
        raise Unable("layers of several kinds keep other things than keys and values")
    if fixed.get("experts"):
        raise Unable("which experts a few tokens meet is not known, and with that how many weights are read")
    if fixed.get("kv_rank"):
        raise Unable("latents instead of keys and values in the cache")
    sizes = {name: int(blank.get(name) or 0) for name in SIZES}
    if not sizes["ffn"] and not fixed.get("gated"):
        sizes["ffn"] = 4 * sizes["hidden"]
    if missing := [name for name, size in sizes.items() if not size]:
        raise Unable(f"nobody wrote down {', '.join(missing)} of {model}")
    kv = int(blank.get("kv_heads") or sizes["heads"])
    return {**sizes, "kv_heads": kv, **{name: fixed[name] for name in TAKEN if name in fixed}}
