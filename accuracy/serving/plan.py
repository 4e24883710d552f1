"""What to forecast for a published run that generates text, or why it cannot be.

In: a `Run` of published/inference.csv, the rules of rules.toml, the models of ../models.toml and ../shapes.csv. Out: a `Plan`. Nothing
here looks at a measured value.
"""

import re
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
from accuracy.recorder import ROUTED, SERVING, Job
from accuracy.rows import Run
from accuracy.serving import PROMPT, TOKEN
from anychip.spec import load_chip

SIZES = ("layers", "hidden", "heads", "ffn", "vocab")
TAKEN = ("head_dim", "norm", "position", "gated", "bias", "tied")  # of what a model's name says
ROUTED_BY = ("experts", "chosen", "expert_ffn", "shared_ffn", "dense_layers", "routed_every")
STEPS = 4  # calls: a warm-up, one that is captured, two of the graph
DTYPES = (
    ("(?i)w8a8(?!.*fp8)|smooth-?quant", None),
    (r"(?i)int-?8|w8a16|8[- ]?bit weight|\bq8", {"dtype": "bf16", "int8": True}),
    ("(?i)fp8|float8|e4m3", {"dtype": "fp8"}),
    ("(?i)[mn][vx]fp4|fp4", None),
    (r"(?i)[ui]nt-?4|w4a16|(?<!\d)4[- ]?bit|\bawq|gptq|\bq4", {"dtype": "bf16", "int4": True}),
    (r"(?i)w4a|\bq\d_|nf4", None),
    ("(?i)b?(fp|float|f)16|\\bhalf\\b|16[- ]?bit|w16a16", {"dtype": "bf16"}),
    ("(?i)^8[- ]?bit", {"dtype": "bf16", "int8": True}),
)
# Of what a cache holds, not of weights and products.
CACHED = r"(?i)\b(fp|int)8[- _]*(e4m3|e5m2)?[- _]*kv([- _]?cache)?|\bkv([- _]?cache)?[- _:=(]*(in |is )?(fp|int)8\)?"
# Metric -> what it tells, as `Plan.seconds` names it, and seconds of it by the printed value.
METRICS = {
    "ttft_ms": PROMPT, "tpot_ms": TOKEN, "output_tokens_per_s": "whole", "output_tokens_per_s_per_user": "whole", "prefill_tokens_per_s": PROMPT,
    "decode_tokens_per_s": TOKEN, "requests_per_s": "whole", "total_tokens_per_s": "whole", "latency_ms": "whole",
}  # fmt: skip
# Of which one that comes first here is the one that is compared, where a source prints several.
FIRST = ("output_tokens_per_s", "output_tokens_per_s_per_user", "requests_per_s", "total_tokens_per_s", "latency_ms")


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
        if "experts" in self.options:
            tokens = self.options["micro_batch"] * (self.prompt if phase == PROMPT else 1)
            own["experts"] = met(self.options["experts"], self.options["chosen"], tokens)
        program = ROUTED if {"experts", "int4"} & self.options.keys() else SERVING
        return Job(argv_of({**self.options, **own, "phase": phase, "steps": STEPS}), self.replica_chips, program)

    def seconds(self, prompt_s: float, token_s: float) -> Mapping[str, float]:
        """Of each phase, and of all tokens of a batch: the prompt's call writes the first."""
        return {PROMPT: prompt_s, TOKEN: token_s, "whole": prompt_s + (self.new - 1) * token_s}

    def measured(self) -> Mapping[str, float]:
        """The same, of the metrics that the source prints."""
        metrics, batch = self.run.metrics, self.batch
        tokens = {
            "output_tokens_per_s": batch * self.new, "output_tokens_per_s_per_user": self.new, "requests_per_s": batch,
            "total_tokens_per_s": batch * (self.prompt + self.new), "prefill_tokens_per_s": batch * self.prompt, "decode_tokens_per_s": batch,
        }  # fmt: skip
        seconds = {
            name: tokens[name] / value if name in tokens else value / 1e3
            for name, value in metrics.items()
            if name in METRICS and self.is_told(name)
        }
        order = sorted(seconds, key=lambda name: FIRST.index(name) if name in FIRST else -1, reverse=True)
        return {METRICS[name]: seconds[name] for name in order}

    def is_told(self, metric: str) -> bool:
        """Whether a metric says how long something takes: of a server, whose prompts come one by one, not the time to a first token."""
        if metric == "ttft_ms":
            return bool(self.run["batch"]) or self.run["concurrency"] == "1"
        return metric != "latency_ms" or bool(self.run["output_len"])


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
    # Tokens that are written matter only where these take a part of what is printed.
    printed = {METRICS[name] for name in run.metrics if name in METRICS}
    unread = {"new": 1} if printed and "whole" not in printed else {}
    for name, column in (("prompt", "input_len"), ("new", "output_len")):
        usual = next((rule[name] for rule in reversed(told) if name in rule), unread.get(name, 0))
        lengths[name] = run.whole(column) or usual
        if not lengths[name]:
            raise Unable(f"the source does not say {column}")
        if not run.whole(column) and name not in unread:
            filled.append(column)
    batch = run.whole("batch") or run.whole("concurrency") or 0
    if not batch and (batch := next((rule["batch"] for rule in reversed(told) if "batch" in rule), 0)):
        filled.append("batch")
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
    if left:
        raise Unable(f"{chips} chips do not divide into replicas of {tp} chips")
    chip = chip_of(run)
    dtype = run["dtype"]
    if dtype.lower() in UNSAID:
        dtype = run["model"] if CASTS.search(run["model"]) else ""
    if not dtype and (dtype := next((rule["dtype"] for rule in reversed(told) if "dtype" in rule), "")):
        filled.append("dtype")
    options |= model_options(run["model"]) | dtype_options(dtype, chip)
    options["kv_heads"] = max(options["kv_heads"], cores * tp if cores > 1 else 1)
    if "experts" in options:
        if reasons := [rule["experts"] for rule in told if "experts" in rule]:
            raise Unable(reasons[-1])
        if options.get("int4") or options.get("int8"):
            raise Unable("weights of experts that are stored in fewer bits than they are multiplied in")
        options["expert_ffn"] = -(-options["expert_ffn"] // (16 * tp)) * 16
        filled.append("experts")  # which of them a few tokens meet is not known
    options |= {"micro_batch": -(-batch // replicas), **({"tp": tp} if tp > 1 else {})}
    seen = read_at(lengths["prompt"], lengths["new"], bucket)
    if "near" in chip_entry(run):
        filled.append("chip")
    return Plan(run, chip, tp, options, batch, *lengths.values(), seen, tuple(filled))


def met(experts: int, chosen: int, tokens: int) -> int:
    """How many experts so many tokens meet, where each takes `chosen` of them at random: the others' weights are not read."""
    return max(round(experts * (1 - (1 - chosen / experts) ** tokens)), chosen)


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


UNSAID = ("", "auto", "default", "native", "original")
CASTS = re.compile("|".join(pattern for pattern, _ in DTYPES).replace("(?i)", ""), re.IGNORECASE)


def dtype_options(text: str, chip: str) -> Mapping[str, Any]:
    """Of what the source says of weights and products, on a chip: weights of 8 bit are multiplied in 16 where it has no FP8, in FP16 where
    no bfloat16. Raises Unable."""
    has = load_chip(chip).get
    for pattern, options in DTYPES:
        if search(pattern, re.sub(CACHED, "", text) or text):
            if options is None:
                break
            if options["dtype"] == "fp8" and has("peaks.matrix.bf16") and not has("peaks.matrix.fp8"):
                options = {"dtype": "bf16", "int8": True}
            if options["dtype"] == "bf16" and has("peaks.matrix.fp16") and not has("peaks.matrix.bf16"):
                return {**options, "dtype": "fp16"}
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
    if fixed.get("kv_rank"):
        raise Unable("latents instead of keys and values in the cache")
    sizes = {name: int(blank.get(name) or 0) for name in SIZES}
    if not sizes["ffn"] and not fixed.get("gated"):
        sizes["ffn"] = 4 * sizes["hidden"]
    if missing := [name for name, size in sizes.items() if not size]:
        raise Unable(f"nobody wrote down {', '.join(missing)} of {model}")
    kv = int(blank.get("kv_heads") or sizes["heads"])
    found = {**sizes, "kv_heads": kv, **{name: fixed[name] for name in TAKEN if name in fixed}}
    if fixed.get("experts"):
        found |= {name: fixed[name] for name in ROUTED_BY if name in fixed} | {"grouped": True}
        found.setdefault("expert_ffn", sizes["ffn"])
        if "shared_experts" in fixed:
            found["shared_ffn"] = fixed["shared_experts"] * found["expert_ffn"]
    return found
