"""What the reference transformer is asked for a published run."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from accuracy.reading.layout import Layout, micro_batches, node_of, ranks_for, replicas_of
from accuracy.reading.tables import Unable, number, search, word
from accuracy.rows import Run
from anychip.spec import load_chip

# Options that rules and the model's entries give as they are.
GIVEN = ("norm", "position", "attention", "reduce", "adam", "dropout", "lora_rank", "lora_on", "pieces", "window", "full_every", "separate",
         "q_rank", "kv_rank", "rope_dim", "mtp", "graph", "head_dim")  # fmt: skip
SWITCHES = ("gated", "bias", "tied", "overlap", "fusion", "fused_loss", "autocast", "adds_apart", "eager_act", "eager_rope")  # fmt: skip
ROUTED = ("experts", "chosen", "shared_ffn", "dense_layers", "routed_every", "grouped", "dispatch")
# Of hybrid models.
PATTERNED = ("pattern", "mamba_heads", "mamba_head_dim", "mamba_groups", "mamba_states", "chunk", "latent", "mtp_pattern",
             "bf16_layers")  # fmt: skip


class Dtype(NamedTuple):
    """name: of products. recipe: of their scales, "" where there are none. packed: what of the weights has 4 bits."""

    name: str
    recipe: str
    packed: str | None


def dtype_of(columns: Mapping[str, str], fixed: Mapping[str, Any], chip: str) -> Dtype:
    """Raises Unable."""
    name, _, recipe = word("dtype", columns["dtype"]).partition(":")
    if recipe == "nf4" and not load_chip(chip).get("peaks.matrix.bf16"):
        name = "fp16"
    if name in ("int8", "fp32"):
        raise Unable(
            "int8 products" if name == "int8" else "products in 32 bit, which the reference transformer does not do"
        )
    packed = fixed.get("frozen_4bit") or ("layers" if recipe == "nf4" else None)
    if packed and "lora_rank" not in fixed:
        raise Unable("weights of 4 bits that are trained, or nobody says by which adapters")
    return Dtype(name, "" if recipe == "nf4" else recipe, packed)


def recompute_of(columns: Mapping[str, str], fixed: Mapping[str, Any]) -> str:
    """A word of words.toml, as the framework means it."""
    said = dict(fixed.get("recompute_words", {})).get(columns["recompute"], columns["recompute"])
    found = word("recompute", said)
    if found == "attention" and not search("(?i)att", columns["recompute"]):
        return str(fixed.get("selective", found))
    return found


def options_of(
    run: Run, chip: str, cluster: str | None, fixed: Mapping[str, Any], sizes: Mapping[str, int], layout: Layout, dtype: Dtype, recompute: str,
    weights: float,
) -> dict[str, Any]:  # fmt: skip
    """Options by name without dashes. Raises Unable."""
    columns, split, chips = layout.columns, layout.split, number(layout.columns, "chips", 1)
    is_split = split["tp"] > 1 and word("sequence_parallel", columns["sequence_parallel"]) == "yes"
    least = 0 if "lora_rank" in fixed else ranks_for(weights, chip, split)
    options: dict[str, Any] = {
        **{name: sizes[name] for name in ("layers", "hidden", "heads", "kv_heads", "ffn")},
        "vocab": padded(round(sizes["vocab"] * fixed.get("predicted", 1)), split["tp"]), "seq": sizes["seq_len"], "micro_batch": number(columns, "micro_batch"),
        "dtype": dtype.name, "recipe": fixed.get("recipe", dtype.recipe) if dtype.recipe else None, "frozen_4bit": dtype.packed,
        **recomputed(recompute, sizes["layers"], split), "sharding": word("zero_or_fsdp", columns["zero_or_fsdp"]),
        "compile": compiled(columns, fixed), "replicas": replicas_of(run, chip, chips, split, bool(fixed.get("slices")), least),
        **{name: value for name, value in split.items() if value > 1},
        **{name: fixed[name] for name in GIVEN if name in fixed}, **{name: bool(fixed.get(name)) for name in SWITCHES},
        "sequence_parallel": is_split,
    }  # fmt: skip
    if split["cp"] > 1 and "cp_comm_type" in fixed:
        options["cp_comm_type"] = fixed["cp_comm_type"]
    if fixed.get("written_out"):  # as Llama's own code writes it
        written = {"rms": "rms_ops", "rope": "rope_complex" if fixed["written_out"] == "complex" else "rope"}
        options |= {name: written.get(options[name], options[name]) for name in ("norm", "position")}
    if fixed.get("experts"):
        options |= of_experts(chip, cluster, chips, fixed, options, split)
    if fixed.get("plain") and options["sharding"] == "ddp":
        options["sharding"] = "plain"
    if options.get("window", 0) >= sizes["seq_len"]:  # sees all there is
        options["window"] = options["full_every"] = None
    if dtype.name == "fp4" or not is_split or sizes["seq_len"] // split["cp"] // split["tp"] % options.get("pieces", 1):
        options.pop("pieces", None)
    if "pattern" in fixed:
        options |= {name: fixed[name] for name in PATTERNED if name in fixed}
    options["micro_batches"] = micro_batches(layout.batch, options["micro_batch"], chips, split)
    if fixed.get("batch_per_device"):  # which counts the ranks that share a sequence too: all of a step is one batch
        options |= {"micro_batch": options["micro_batch"] * options["micro_batches"], "micro_batches": 1}
    if dtype.name == "fp16" and options.get("reduce") == "bf16":
        options["reduce"] = "fp16"
    return {name: value for name, value in options.items() if value is not None}


def of_experts(
    chip: str, cluster: str | None, chips: int, fixed: Mapping[str, Any], options: Mapping[str, Any], split: Mapping[str, int]
) -> dict[str, Any]:  # fmt: skip
    """Options of a model with experts beside its other ones. Raises Unable."""
    found = {name: fixed[name] for name in ROUTED if name in fixed}
    found["expert_ffn"] = fixed.get("expert_ffn", options["ffn"])
    if "shared_experts" in fixed:
        found["shared_ffn"] = fixed["shared_experts"] * found["expert_ffn"]
    can_split = chips // split["pp"] % (split["ep"] * split["tp"]) == 0 and found.get("dispatch") != "ranks"
    if found.get("dispatch") == "experts":  # the program's default, said by a rule after one that says "ranks"
        del found["dispatch"]
    if split["ep"] > chips // split["pp"]:
        raise Unable(f"ep {split['ep']} is more than the {chips // split['pp']} chips of a stage")
    if "dispatch" in found and split["ep"] > 1:
        found["node"] = node_of(chip, cluster, chips, split["ep"])
        found["most_nodes"] = fixed.get("most_nodes")
    found["expert_tp"] = bool(fixed.get("expert_tp")) and options["sequence_parallel"] and can_split
    return found


def recomputed(kind: str, layers: int, split: Mapping[str, int]) -> dict[str, Any]:
    """`layers:N` is N of each stage part's layers, `share:1/3` a third of them: all of them where it has no more."""
    if not kind.startswith(("layers:", "share:")):
        return {"recompute": kind}
    each = -(-layers // (split["pp"] * split["vp"]))
    part, _, whole_ = kind.partition(":")[2].partition("/")
    count = round(each * int(part) / int(whole_)) if whole_ else int(part)
    return {"recompute": "full"} if count >= each else {"recompute": "none", "recompute_layers": count}


def compiled(columns: Mapping[str, str], fixed: Mapping[str, Any]) -> str:
    """`compile` of a rule holds whatever the row says; `compiled` is what "yes" means to the framework."""
    if "compile" in fixed:
        return str(fixed["compile"])
    meant = word("compile", columns.get("compile") or "none")
    return str(fixed.get("compiled", meant)) if meant != "none" else meant


def padded(vocab: int, tp: int) -> int:
    """Rows that split evenly, each a multiple of 128, as Megatron-LM pads."""
    return -(-vocab // (128 * tp)) * 128 * tp
