"""What to forecast for a published run: options of the reference transformer, chip, number of chips; or why it cannot be.

In: a `Run` and what its columns mean (`columns`). Out: a `Plan`. A blank column is filled by rule and named in `filled`;
nothing here looks at a measured value.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from accuracy import megatron
from accuracy.reading.columns import (
    PER_TOKEN,
    check_counts,
    convention,
    fill,
    forms_of,
    in_sequences,
    matches,
    with_degrees,
)
from accuracy.reading.layout import layout_of, one_degree, parameters, ranks_for
from accuracy.reading.machine import by_slice, chip_entry, chip_of, counted, in_dies, network_of
from accuracy.reading.model import (
    as_wide_as_others,
    by_its_sizes,
    counted_layers,
    counted_width,
    models_of,
    noted,
    parameters_of,
    resized,
)
from accuracy.reading.options import dtype_of, options_of, recompute_of
from accuracy.reading.tables import Unable, number, refuse, rules, search, table
from accuracy.recorder import CHIPS_PER_NODE, GATHERED, GRAPHED, HOLDING, HYBRID, MEGATRON
from accuracy.rows import Run
from anychip.spec import load_chip
from anychip.spec.validated import DENSE, EXPERTS, OWN_PRODUCTS

FAULTY = {
    "nemo-0(19|2[0-6])$": "sizes as printed do not multiply to the number of chips",
}


@dataclass(frozen=True)
class Plan:
    """chip: of the standard. options: of `accuracy.reference`, by name without dashes. filled: columns that a rule
    filled. layers, micro_batches: of the whole run; options hold them too."""

    run: Run
    chip: str
    num_chips: int
    options: Mapping[str, Any]
    filled: tuple[str, ...]
    program: str = "accuracy.reference"
    library: str = ""  # the release of Transformer Engine whose time megatron-core's program takes
    rules: tuple[str, ...] = field(default=())
    offloads: bool = False  # what does not fit goes to the host's memory
    memory: str = "allocated"  # what the source prints of memory: `held.counted`
    allocator: str = ""  # PYTORCH_CUDA_ALLOC_CONF of the source's program
    context_bytes: int = 0  # of the driver, beside the allocator's
    holds: Mapping[str, Any] = field(default_factory=dict)  # options of `accuracy.holding`, and steps until it was read
    instead: str = ""  # why another program than the source's runs
    cluster: str | None = None  # of the standard; None: the chip's usual one

    @property
    def argv(self) -> tuple[str, ...]:
        return argv_of({**self.options, **self.own})

    @property
    def own(self) -> Mapping[str, Any]:
        """Options that its program alone takes."""
        return {"te": self.library} if self.library and self.program == MEGATRON else {}

    @property
    def layers(self) -> str:
        """As `anychip.figures.layers_of` tells them of the recording."""
        return OWN_PRODUCTS if self.program == HYBRID else EXPERTS if self.options.get("experts") else DENSE


def argv_of(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Options as a command line: flags by name only, in alphabetical order so that equal plans are equal."""
    words: list[str] = []
    for name, value in sorted(options.items()):
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is not False and value is not None:
            words += [flag, str(value)]
    return tuple(words)


@cache
def fit_ids() -> frozenset[str]:
    """Runs that a constant was fitted to."""
    return frozenset(name for entry in table("fit.toml")["fit"] for name in entry["ids"])


def plan(run: Run) -> Plan:
    """Raises Unable with the reason."""
    for pattern, reason in FAULTY.items():
        if search(pattern, run.id):
            raise Unable(reason)
    if run.shifted:
        raise Unable(run.shifted)
    if run.marks:
        raise Unable(f"marked {run.marks[0]} by whoever collected it")
    run = by_slice(in_sequences(run, context_of(run)))
    check_counts(run)
    run = in_pairs(with_degrees(run))
    run, assumed = counted(run)
    run = in_dies(run)
    chip = chip_of(run)
    if assumed and run["chips"] == "1" and (enough := chips_for(run, chip)) > 1:
        run = replace(run, columns={**run.columns, "chips": str(enough)})
    cluster, networked = network_of(run, chip)
    models = models_of(run["model"])
    models = [*models, *by_its_sizes(run, models)]
    told, is_known, fixed, blank = ruled(run, models)
    degree = one_degree(run, fixed)
    if degree:  # rules may go by it
        run = replace(run, columns={**run.columns, **degree})
        told, is_known, fixed, blank = ruled(run, models)
    if "lora_rank" in fixed and (
        said := search(table("words.toml")["rank"][0]["text"], f"{run['model']} | {run.notes}")
    ):
        fixed["lora_rank"] = int(said[1] or said[2])
    named = "layers" in blank
    fixed |= noted(run.notes, named)
    if fixed.get("attention") == "flash" and (run.whole("cp") or 1) == 1:
        fixed["attention"] = fixed.get("flash", "flash")
    if not named:
        blank = {**as_wide_as_others(run, fixed), **blank}
    columns, filled = fill(run, blank | resized(run, blank), bool(fixed.get("tuned")))
    if not columns.get("vocab"):
        width = next(entry for entry in table("models.toml")["width"] if entry["gated"] == bool(fixed.get("gated")))
        columns["vocab"] = str(width["vocab"])
        filled.append("vocab")
    if not columns.get("layers") and (run["hidden"] or not named) and (layers := counted_layers(run, columns, fixed)):
        columns["layers"] = str(layers)
        filled.append("layers")
    if not columns.get("ffn") and fixed.get("gated") and (inside := counted_width(run, columns, fixed)):
        columns["ffn"] = str(inside)
        filled.append("ffn")
    missing = [name for name in ("layers", "hidden", "heads") if not columns.get(name)]
    if missing and not named:
        who = f"model {run['model']!r} is in no table of public models" if run["model"] else "no model is named"
        raise Unable(f"{who}, and the source does not say {', '.join(missing)}")
    filled += [*assumed, *degree, *networked]
    if "near" in chip_entry(run):
        filled.append("chip")
    if not is_known:
        filled.append("framework")
    if (way := convention(run)) is not None and way.get("usual"):
        filled.append("flop")
    names = tuple(rule.get("name", rule["source"]) for rule in told)
    return programmed(assemble(run, chip, cluster, columns, fixed, filled, names), told)


def in_pairs(run: Run) -> Run:
    """With sequences for pairs of texts, of a run that learns which of two is better."""
    if not is_told_of_pairs(run, 0):
        return run
    counts = {name: str(2 * count) for name in ("global_batch", "micro_batch") if (count := run.whole(name))}
    metrics = {name: value * (2 if name == "samples_per_s" else 1) for name, value in run.metrics.items()}
    return replace(run, columns={**run.columns, **counts}, metrics=metrics)


def is_told_of_pairs(run: Run, which: int) -> bool:
    return (
        search(table("words.toml")["pairs"][which]["text"], f"{run['model']} | {run['framework']} | {run.notes}")
        is not None
    )


ADAPTED = "(?i)lora|adapter|4-?bit|int4|nf4|quantiz"


def chips_for(run: Run, chip: str) -> int:
    """Of a rate of one chip, where nobody says how many there are: whole nodes whose memory holds what is trained, where one's does not."""
    words = " | ".join((run.notes, *(run[name] for name in ("model", "framework", "dtype"))))
    if "step_time_s" in run.metrics or not any(name in run.metrics for name in PER_TOKEN) or search(ADAPTED, words):
        return 1
    needed = ranks_for(parameters_of(run), chip, {"tp": 1, "pp": 1})
    return CHIPS_PER_NODE * 2 ** max(math.ceil(math.log2(needed / CHIPS_PER_NODE)), 0) if needed > 1 else 1


def context_of(run: Run) -> int:
    """How long sequences are that the source says nothing of, where its batch is of tokens: what the model was trained on; else 0."""
    if run["seq_len"] or not search("(?i)tok|m$", run["global_batch"]):
        return 0
    found = [entry["blank"]["context"] for entry in models_of(run["model"]) if "context" in entry.get("blank", {})]
    return int(found[-1]) if found else 0


def ruled(
    run: Run, models: Sequence[Mapping[str, Any]]
) -> tuple[list[Mapping[str, Any]], bool, dict[str, Any], dict[str, Any]]:
    """The rules that match, whether one of them knows the framework, what they and the model's entries fix, and what they say where the
    source says nothing: later ones over earlier. What rules say of some part of an unknown framework comes over what most do. Raises Unable."""
    forms = forms_of(run)
    told = [rule for rule in rules() if not rule.get("fallback") and matches(rule, forms)]
    is_known = any("recompute" in rule.get("blank", {}) for rule in told)
    usual = [rule for rule in rules() if rule.get("fallback") and matches(rule, forms)]
    told = told if is_known else [*usual, *told]
    refuse(told)
    fixed: dict[str, Any] = {}
    blank: dict[str, Any] = {}
    for rule in usual:  # what a rule that knows the framework leaves out, too
        blank |= rule.get("blank", {})
    for entry in [*models, *told]:
        fixed |= entry.get("set", {})
        blank |= entry.get("blank", {})
    return told, is_known, fixed, blank


def programmed(found: Plan, told: list[Mapping[str, Any]]) -> Plan:
    """By the program that the rules name, where it can express the run and is here."""
    if found.program == HYBRID:
        return replace(found, instead="it trains layers of one kind each")
    wanted = [rule["program"] for rule in told if "program" in rule][-1:]
    if not wanted or wanted == [found.program]:
        return found
    reason = megatron.unable(found.options) or ("" if megatron.installed() else "megatron-core is not installed")
    if reason:
        return replace(found, instead="; ".join(filter(None, (reason, found.instead))))
    library = [rule["library"] for rule in told if "library" in rule][-1:]
    return replace(found, program=wanted[0], library="".join(library))


def assemble(run: Run, chip: str, cluster: str | None, columns: Mapping[str, str], fixed: Mapping[str, Any],
             filled: Sequence[str], names: tuple[str, ...]) -> Plan:  # fmt: skip
    """Choose what nobody says of the layout, check that sizes go together, and write the options."""
    chips, sizes = number(columns, "chips", 1), sizes_of(columns, fixed)
    recompute = recompute_of(columns, fixed)
    reads_twice = is_told_of_pairs(run, 1) and recompute == "none"
    recompute = "full" if reads_twice else recompute
    weights = parameters({**sizes, **fixed, "ep": number(columns, "ep", 1)})
    layout = layout_of(run, chip, columns, fixed, filled, sizes, recompute, weights)
    dtype = dtype_of(layout.columns, fixed, chip)
    options = options_of(run, chip, cluster, fixed, sizes, layout, dtype, recompute, weights)
    check(options, chips)
    instead = "a forward for the model that is compared with, as a recomputation" if reads_twice else ""
    if options["dtype"] == "fp16" and options["sharding"] == "fsdp" and not load_chip(chip).get("peaks.matrix.bf16"):
        # The reference's FSDP casts to bfloat16, which this chip would compute in 32 bit.
        options["sharding"] = "gradients"
        instead = "FSDP as ZeRO-2: the reference's gathers bfloat16, which the chip does not have"
    programs = {HYBRID: "pattern" in options, HOLDING: "frozen_4bit" in options, GRAPHED: fixed.get("layer_graphs"),
                GATHERED: fixed.get("each_parameter")}  # fmt: skip
    program = next((name for name, holds in programs.items() if holds), Plan.program)
    found = tuple(sorted({*filled, *layout.filled}))
    return Plan(run, chip, chips, options, found, program, instead=instead, rules=names, offloads=bool(fixed.get("offloads")), cluster=cluster,
                memory=str(fixed.get("memory", "allocated")), allocator=str(fixed.get("allocator", "")),
                context_bytes=int(fixed.get("context_mib", 0)) << 20,
                holds={name: fixed[name] for name in HOLDS if name in fixed})  # fmt: skip


# Of rules: what a run holds in memory beside its layers.
HOLDS = ("steps", "loss_chunks", "kept_logits", "deepspeed", "torchao", "mingpt", "late_moments")


def sizes_of(columns: Mapping[str, str], fixed: Mapping[str, Any]) -> dict[str, int]:
    """Of the model and its sequences. Raises Unable."""
    sizes = {name: number(columns, name) for name in ("layers", "hidden", "heads", "seq_len")}
    counts = {name: number(columns, name, 1) for name in ("chips", "tp", "pp", "cp", "ep")}
    if any(value < 1 for value in (*sizes.values(), *counts.values(), number(columns, "micro_batch"))):
        raise Unable("a size is not positive")
    ffn = number(columns, "ffn", 0) or (0 if fixed.get("gated") else 4 * sizes["hidden"])
    if not ffn:
        raise Unable("the source does not say ffn")
    kv_heads = number(columns, "kv_heads", sizes["heads"])
    return {**sizes, "kv_heads": kv_heads, "ffn": ffn, "vocab": number(columns, "vocab")}


def check(options: Mapping[str, Any], chips: int) -> None:
    tp, pp, vp = options.get("tp", 1), options.get("pp", 1), options.get("vp", 1)
    if options["heads"] % tp:
        raise Unable(f"{options['heads']} heads do not divide by tp {tp}")
    if options["layers"] + 2 < pp * vp:
        raise Unable(f"{options['layers']} layers are fewer than {pp} stages of {vp} parts")
    if vp > 1 and options["micro_batches"] % pp:
        raise Unable(f"{options['micro_batches']} micro-batches do not divide by {pp} interleaved stages")
    if options.get("lora_rank") and options.get("kv_rank"):
        raise Unable("adapters on latent attention")
    if options.get("experts") and options["experts"] % options.get("ep", 1):
        raise Unable(f"{options['experts']} experts do not divide by ep {options.get('ep', 1)}")
