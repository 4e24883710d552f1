"""What to forecast for a published run: options of the reference transformer, chip, number of chips; or why it cannot be.

In: a `Run` and what its columns mean (`columns`). Out: a `Plan`. A blank column is filled by rule and named in `filled`;
nothing here looks at a measured value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import gcd, prod
from typing import Any

from accuracy import megatron
from accuracy.columns import (
    PER_TOKEN,
    Unable,
    as_wide_as_others,
    by_its_sizes,
    by_slice,
    check_counts,
    chip_entry,
    chip_of,
    convention,
    counted,
    counted_layers,
    counted_width,
    fill,
    forms_of,
    in_dies,
    in_sequences,
    matches,
    models_of,
    network_of,
    noted,
    number,
    refuse,
    resized,
    rules,
    search,
    table,
    whole,
    with_degrees,
    word,
)
from accuracy.recorder import CHIPS_PER_NODE, GATHERED, GRAPHED, HOLDING, HYBRID, MEGATRON
from accuracy.rows import Run
from anychip.network import Fabric
from anychip.spec import load_chip
from anychip.spec.validated import DENSE, EXPERTS, OWN_PRODUCTS

# Columns that decide what runs: those of them that a source leaves blank are counted.
SHAPE = ("layers", "hidden", "heads", "seq_len", "global_batch")
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
    run = by_slice(in_sequences(run))
    check_counts(run)
    run = with_degrees(run)
    run, assumed = counted(run)
    run = in_dies(run)
    chip = chip_of(run)
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


def one_degree(run: Run, fixed: Mapping[str, Any]) -> dict[str, str]:
    """The one of the degrees of parallelism that is blank where the others, of data parallelism too, and the chips leave no other; nothing
    where replicas are of another kind: slices, cores, what FSDP splits."""
    if (
        any(name in fixed for name in ("slices", "cores_per_chip"))
        or search("(?i)fsdp|zero-?3|shard", run["zero_or_fsdp"])
        or not run["dp"]
    ):
        return {}
    blank = [name for name in ("tp", "pp", "cp") if not run[name]]
    given = prod(run.whole(name) or 1 for name in ("tp", "pp", "cp", "dp"))
    left, rest = divmod(run.whole("chips") or 1, given)
    if blank == ["pp", "cp"]:
        blank = ["pp"]
    return {blank[0]: str(left)} if len(blank) == 1 and not rest and left > 1 else {}


def programmed(found: Plan, told: list[Mapping[str, Any]]) -> Plan:
    """By the program that the rules name, where it can express the run and is here."""
    if found.program == HYBRID:
        return replace(found, instead="it trains layers of one kind each")
    wanted = [rule["program"] for rule in told if "program" in rule][-1:]
    if not wanted or wanted == [found.program]:
        return found
    reason = megatron.unable(found.options) or ("" if megatron.installed() else "megatron-core is not installed")
    if reason:
        return replace(found, instead=reason)
    library = [rule["library"] for rule in told if "library" in rule][-1:]
    return replace(found, program=wanted[0], library="".join(library))


def assemble(run: Run, chip: str, cluster: str | None, columns: Mapping[str, str], fixed: Mapping[str, Any],
             filled: list[str], names: tuple[str, ...]) -> Plan:  # fmt: skip
    """Check that sizes go together, and write the options."""
    sizes = {name: number(columns, name) for name in SHAPE if name != "global_batch"}
    chips = number(columns, "chips", 1)
    split = {name: number(columns, name, 1) for name in ("tp", "pp", "cp", "ep")}
    if any(value < 1 for value in (chips, number(columns, "micro_batch"), *sizes.values(), *split.values())):
        raise Unable("a size is not positive")
    kv = number(columns, "kv_heads", sizes["heads"])
    gated = bool(fixed.get("gated"))
    ffn = number(columns, "ffn", 0) or (None if gated else 4 * sizes["hidden"])
    if ffn is None:
        raise Unable("the source does not say ffn")
    weights = parameters(
        {**sizes, "kv_heads": kv, "ffn": ffn, "vocab": number(columns, "vocab"), **fixed, "ep": split["ep"]}
    )
    if (
        "splits" in fixed
        and "stated" not in fixed
        and "lora_rank" not in fixed
        and not any(run[name] for name in ("tp", "pp"))
        and ("zero_or_fsdp" in filled or not run["zero_or_fsdp"])
    ):
        room = ROOM * load_chip(chip).memory_bytes
        is_shared = word("zero_or_fsdp", columns["zero_or_fsdp"]) != "ddp"
        if fixed["splits"] == "layers":
            split |= divided(weights, room, chips, sizes, chip, is_shared)
            filled = [*filled, *(name for name in ("tp", "pp") if split[name] > 1)]
        elif chips > 1 and weights * held_per_weight(chips if is_shared else 1) > room:
            columns = {**columns, "zero_or_fsdp": "fsdp"}
    recompute = word(
        "recompute", dict(fixed.get("recompute_words", {})).get(columns["recompute"], columns["recompute"])
    )
    if recompute == "attention" and not search("(?i)att", columns["recompute"]):
        recompute = fixed.get("selective", recompute)
    is_unsaid = not (run["global_batch"] or run["micro_batch"])
    is_gathered = word("zero_or_fsdp", columns["zero_or_fsdp"]) == "fsdp" and recompute == "full"
    if is_gathered and "micro_batch" in filled and ("framework" in filled or is_unsaid):
        # Each micro-batch gathers all weights again: nobody takes many for nothing.
        most = max(number(columns, "micro_batch"), TOGETHER // sizes["seq_len"])
        columns = {**columns, "micro_batch": str(most)}
    sizes["global_batch"] = batch_of(run, columns, fixed, chips, split)
    if not run["global_batch"]:
        filled = [*filled, "global_batch"]
    if not run["cp"] and (wide := spread_out(sizes["global_batch"], chips, split)) > 1:
        split["cp"] = wide
        filled = [*filled, "cp"]
    split["vp"] = number(columns, "vp", 1) if split["pp"] > 1 else 1
    if fixed.get("interleaved") and "vp" in filled and sizes["layers"] % split["pp"] == 0:
        split["vp"] = sizes["layers"] // split["pp"]
    cores = int(fixed.get("cores_per_chip", 1))
    split["tp"] = max(split["tp"] // cores, 1)
    dtype, _, recipe = word("dtype", columns["dtype"]).partition(":")
    if recipe == "nf4" and not load_chip(chip).get("peaks.matrix.bf16"):
        dtype = "fp16"
    if dtype in ("int8", "fp32"):
        raise Unable(
            "int8 products" if dtype == "int8" else "products in 32 bit, which the reference transformer does not do"
        )
    packed = fixed.get("frozen_4bit") or ("layers" if recipe == "nf4" else None)
    if packed and "lora_rank" not in fixed:
        raise Unable("weights of 4 bits that are trained, or nobody says by which adapters")
    if fixed.get("local_batch") and run["micro_batch"] and split["pp"] > 1:
        columns = {
            **columns,
            "micro_batch": str(cut(number(columns, "micro_batch"), sizes["global_batch"], chips, split)),
        }
    if "micro_batch" in filled:
        columns = {
            **columns,
            "micro_batch": str(dividing(number(columns, "micro_batch"), sizes["global_batch"], chips, split)),
        }
    room = ROOM * (load_chip(chip).get("memory.main.capacity") or 0) * split["tp"] * split["pp"]
    least = 0 if "lora_rank" in fixed or not room else HELD_BY_FSDP * weights / room
    options: dict[str, Any] = {
        "layers": sizes["layers"], "hidden": sizes["hidden"], "heads": sizes["heads"], "kv_heads": kv, "ffn": ffn,
        "vocab": padded(number(columns, "vocab"), split["tp"]), "seq": sizes["seq_len"], "head_dim": fixed.get("head_dim"),
        "micro_batch": number(columns, "micro_batch"), "dtype": dtype, "recipe": None if recipe in ("", "nf4") else fixed.get("recipe", recipe),
        "frozen_4bit": packed,
        **recomputed(recompute, sizes["layers"], split), "sharding": word("zero_or_fsdp", columns["zero_or_fsdp"]),
        "compile": compiled(columns, fixed),
        "replicas": replicas_of(run, chip, chips, split, bool(fixed.get("slices")), least), **{name: value for name, value in split.items() if value > 1},
        **{name: fixed[name] for name in ("norm", "position", "attention", "reduce", "adam", "dropout", "lora_rank", "lora_on", "pieces", "window", "full_every", "separate", "q_rank", "kv_rank", "rope_dim", "mtp", "graph")
           if name in fixed},
        **{name: bool(fixed.get(name)) for name in ("gated", "bias", "tied", "overlap", "fusion", "fused_loss", "autocast", "adds_apart", "eager_act", "eager_rope")},
    }  # fmt: skip
    if split["cp"] > 1 and "cp_comm_type" in fixed:
        options["cp_comm_type"] = fixed["cp_comm_type"]
    if fixed.get("written_out"):  # as Llama's own code writes it
        written = {"rms": "rms_ops", "rope": "rope_complex" if fixed["written_out"] == "complex" else "rope"}
        options |= {name: written.get(options[name], options[name]) for name in ("norm", "position")}
    options["sequence_parallel"] = split["tp"] > 1 and word("sequence_parallel", columns["sequence_parallel"]) == "yes"
    if fixed.get("experts"):
        routed = ("experts", "chosen", "shared_ffn", "dense_layers", "routed_every", "grouped", "dispatch")
        options |= {name: fixed[name] for name in routed if name in fixed}
        options["expert_ffn"] = fixed.get("expert_ffn", ffn)
        if "shared_experts" in fixed:
            options["shared_ffn"] = fixed["shared_experts"] * options["expert_ffn"]
        can_split = chips // split["pp"] % (split["ep"] * split["tp"]) == 0 and options.get("dispatch") != "ranks"
        if options.get("dispatch") == "experts":  # the program's default, said by a rule after one that says "ranks"
            del options["dispatch"]
        if split["ep"] > chips // split["pp"]:
            raise Unable(f"ep {split['ep']} is more than the {chips // split['pp']} chips of a stage")
        if "dispatch" in options and split["ep"] > 1:
            options["node"] = node_of(chip, cluster, chips, split["ep"])
            options["most_nodes"] = fixed.get("most_nodes")
        options["expert_tp"] = bool(fixed.get("expert_tp")) and options["sequence_parallel"] and can_split
    if fixed.get("plain") and options["sharding"] == "ddp":
        options["sharding"] = "plain"
    if options.get("window", 0) >= sizes["seq_len"]:  # sees all there is
        options["window"] = options["full_every"] = None
    if (
        dtype == "fp4"
        or not options["sequence_parallel"]
        or sizes["seq_len"] // split["cp"] // split["tp"] % options.get("pieces", 1)
    ):
        options.pop("pieces", None)
    if "pattern" in fixed:
        options |= {name: fixed[name] for name in PATTERNED if name in fixed}
    options["micro_batches"] = micro_batches(sizes["global_batch"], options["micro_batch"], chips, split)
    if fixed.get("batch_per_device"):  # which counts the ranks that share a sequence too: all of a step is one batch
        options |= {"micro_batch": options["micro_batch"] * options["micro_batches"], "micro_batches": 1}
    if dtype == "fp16" and options.get("reduce") == "bf16":
        options["reduce"] = "fp16"
    options = {name: value for name, value in options.items() if value is not None}
    check(options, chips)
    instead = ""
    if dtype == "fp16" and options["sharding"] == "fsdp" and not load_chip(chip).get("peaks.matrix.bf16"):
        options["sharding"] = (
            "gradients"  # the reference's FSDP casts to bfloat16, which this chip would compute in 32 bit
        )
        instead = "FSDP as ZeRO-2: the reference's gathers bfloat16, which the chip does not have"
    found = tuple(sorted(set(filled)))
    program = next((name for name, holds in ((HYBRID, "pattern" in options), (HOLDING, packed), (GRAPHED, fixed.get("layer_graphs")),
                                              (GATHERED, fixed.get("each_parameter"))) if holds), Plan.program)  # fmt: skip
    return Plan(run, chip, chips, options, found, program, instead=instead, rules=names, offloads=bool(fixed.get("offloads")), cluster=cluster,
                memory=str(fixed.get("memory", "allocated")), allocator=str(fixed.get("allocator", "")),
                context_bytes=int(fixed.get("context_mib", 0)) << 20,
                holds={name: fixed[name] for name in HOLDS if name in fixed})  # fmt: skip


# Options of hybrid models.
PATTERNED = ("pattern", "mamba_heads", "mamba_head_dim", "mamba_groups", "mamba_states", "chunk", "latent", "mtp_pattern",
             "bf16_layers")  # fmt: skip
# Of rules: what a run holds in memory beside its layers.
HOLDS = ("steps", "loss_chunks", "kept_logits", "deepspeed", "torchao", "mingpt", "late_moments")


def replicas_of(
    run: Run, chip: str, chips: int, split: Mapping[str, int], in_slices: bool, least: float = 0
) -> int | None:
    """What each hold all parameters, of which FSDP splits those of one over its ranks; None where that is one. in_slices: a TPU job of a
    program that does so slice by slice where nobody says otherwise. least: ranks that a replica's state needs."""
    told = run["zero_or_fsdp"]
    if search("(?i)over (remaining )?ICI(?! and DCN)", told):
        stated = search(r"(?i)(\d+) slices", run["interconnect"])
        found = int(stated[1]) if stated else run.whole("dp") or 1
    elif search(r"(?i)hsdp|hybrid[-_ ]?shard|dp_replicate[-_ =:]*\d|replicate_degree[-_ =:]*\d", told):
        found = hybrid(run, chips // (split["tp"] * split["pp"] * split["cp"]), least)
    elif in_slices and not told:
        domain = load_chip(chip).get("links.scale_up.domain_chips")
        found = -(-chips // int(domain)) if domain else 1
        found = found if chips % found == 0 else 1
    else:
        found = 1
    return found if found > 1 else None


def hybrid(run: Run, ranks: int, least: float = 0) -> int:
    """Replicas of hybrid sharding (HSDP) over so many ranks: as said, else a node holds one, as PyTorch's HYBRID_SHARD does
    (https://docs.pytorch.org/docs/stable/fsdp.html), or twice as many and so on until it is in."""
    told = run["zero_or_fsdp"]
    if pair := search(r"(\d+) ?[x\u00d7,] ?(\d+)", told):
        found = int(pair[1])
    elif replicas := search(r"(?i)replicat\w*[-_ =:]*(?:degree|size)?[-_ =:]*(\d+)|(\d+) replicas", told):
        found = int(replicas[1] or replicas[2])
    else:
        shard = search(r"(?i)(?:shard\w*|hsdp)[-_ =:(]*(?:degree|size|group|over)?[-_ =:]*(\d+)", told)
        group = int(shard[1]) if shard else run.whole("chips_per_node") or CHIPS_PER_NODE
        while not shard and 0 < group < least:
            group *= 2
        found = ranks // group if group else 0
    return found if found and ranks % found == 0 else 1


def node_of(chip: str, cluster: str | None, chips: int, ep: int) -> int:
    """Expert-parallel ranks that one scale-up domain of the chip holds: all where each group fits in one, else equal parts."""
    domain = Fabric.of(load_chip(chip), chips, cluster).tiers[0].chips
    return ep if chips <= domain or domain % ep == 0 else gcd(ep, domain)


def batch_of(
    run: Run, columns: Mapping[str, str], fixed: Mapping[str, Any], chips: int, split: Mapping[str, int]
) -> int:
    """Sequences a step. Where the source says none and prints a rate, which hardly depends on how many a step has: a micro-batch (the
    framework's usual one, if need be) for each replica, eight for each stage of a pipeline and of trainers whose steps are large."""
    told = number(columns, "global_batch", 0)
    if told > 0:
        return told
    if fixed.get("batch_per_device") and run["micro_batch"]:  # a micro-batch is what each chip has of a step's batch
        return chips // split["pp"] * number(columns, "micro_batch", 1)
    if "step_time_s" in run.metrics or not is_rate(run):
        raise Unable("the source does not say global_batch")
    replicas = max(chips // (split["tp"] * split["pp"] * split["cp"]), 1)
    accumulates = split["pp"] > 1 or fixed.get("splits") == "layers"
    return replicas * number(columns, "micro_batch", 1) * (8 * split["pp"] if accumulates else 1)


def is_rate(run: Run) -> bool:
    """Whether a run prints so much a second, or how long so many tokens took."""
    by_tokens = any(name in run.metrics for name in ("time_to_train_min", "chip_hours")) and whole("tokens", run.notes)
    return bool(by_tokens) or any(name in run.metrics for name in (*PER_TOKEN, "samples_per_s"))


# Tokens of a micro-batch that nobody says, where weights are gathered for each and activations are recomputed: they fit beside them.
TOGETHER = 16384

HELD_BY_FSDP = 16  # bytes of a weight, its gradient and Adam's two moments, all of 32 bit

# Of a layout that nobody says: how much of a chip's memory weights, gradients and the optimizer's state may take.
ROOM = 0.7


def parameters(o: Mapping[str, Any]) -> float:
    """Weights of all products and of the two tables; of experts a rank's part."""
    dim = o.get("head_dim") or o["hidden"] // o["heads"]
    parts, layers = (3 if o.get("gated") else 2), o["layers"]
    routed = (layers - o.get("dense_layers", 0)) // o.get("routed_every", 1) if o.get("experts") else 0
    experts = o.get("experts", 0) * o.get("expert_ffn", o["ffn"]) / o.get("ep", 1) + o.get("shared_ffn", 0)
    inside = (layers - routed) * o["ffn"] + routed * experts
    attention = 2 * layers * o["hidden"] * dim * (o["heads"] + o["kv_heads"])
    return float(attention + parts * o["hidden"] * inside + (1 if o.get("tied") else 2) * o["vocab"] * o["hidden"])


def held_per_weight(replicas: int) -> float:
    """Bytes: of the weight 2 and its gradient 4, and of the optimizer's 12 a replica's part (ZeRO-1); all of them with one."""
    return 6 + 12 / replicas


def divided(
    weights: float, room: float, chips: int, sizes: Mapping[str, int], chip: str, shared: bool = True
) -> dict[str, int]:
    """The least tensor parallelism that makes room, within a scale-up domain, then the least pipeline: takeaways 1 and 2 of arXiv 2104.04473,
    section 3. shared: replicas split the optimizer's state."""
    domain = int(load_chip(chip).get("links.scale_up.domain_chips") or CHIPS_PER_NODE)
    within = [tp for tp in (1, 2, 4, 8) if tp <= min(domain, CHIPS_PER_NODE)]
    layers = sizes["layers"]
    stages = [pp for pp in range(2, layers + 1) if layers % pp == 0]
    stages.sort(
        key=lambda pp: (pp & (pp - 1) > 0, pp)
    )  # others than powers of two where none of these divides the chips
    for pp, tp in (*((1, tp) for tp in within), *((pp, within[-1]) for pp in stages)):
        held = weights / (tp * pp) * held_per_weight(max(chips // (tp * pp), 1) if shared else 1)
        if held <= room and chips % (tp * pp) == 0 and sizes["heads"] % tp == 0:
            return {"tp": tp, "pp": pp}
    return {}


def dividing(micro: int, batch: int, chips: int, split: Mapping[str, int]) -> int:
    """Of a micro-batch that nobody said, the most that splits a replica's sequences evenly; itself where nothing does."""
    each, left = divmod(batch, max(chips // (split["tp"] * split["pp"] * split["cp"]), 1))
    return micro if left or each < 1 else next(size for size in range(min(micro, each), 0, -1) if each % size == 0)


def cut(local: int, batch: int, chips: int, split: Mapping[str, int]) -> int:
    """Sequences of a micro-batch, of a trainer that calls so all that a replica has of a step and whose pipelines cut it in as many as they have
    stages."""
    replicas = chips // (split["tp"] * split["pp"] * split["cp"])
    return max(local // split["pp"], 1) if local * replicas == batch else local


def spread_out(batch: int, chips: int, split: Mapping[str, int]) -> int:
    """Ranks that must share a sequence, where there are more replicas than sequences: context parallelism, unsaid."""
    replicas = chips // (split["tp"] * split["pp"])
    return replicas // gcd(replicas, batch) if batch and replicas > batch else 1


def compiled(columns: Mapping[str, str], fixed: Mapping[str, Any]) -> str:
    """`compile` of a rule holds whatever the row says; `compiled` is what "yes" means to the framework."""
    if "compile" in fixed:
        return str(fixed["compile"])
    meant = word("compile", columns.get("compile") or "none")
    return str(fixed.get("compiled", meant)) if meant != "none" else meant


def padded(vocab: int, tp: int) -> int:
    """Rows that split evenly, each a multiple of 128, as Megatron-LM pads."""
    return -(-vocab // (128 * tp)) * 128 * tp


def recomputed(kind: str, layers: int, split: Mapping[str, int]) -> dict[str, Any]:
    """`layers:N` is N of each stage part's layers, `share:1/3` a third of them: all of them where it has no more."""
    if not kind.startswith(("layers:", "share:")):
        return {"recompute": kind}
    each = -(-layers // (split["pp"] * split["vp"]))
    part, _, whole_ = kind.partition(":")[2].partition("/")
    count = round(each * int(part) / int(whole_)) if whole_ else int(part)
    return {"recompute": "full"} if count >= each else {"recompute": "none", "recompute_layers": count}


def micro_batches(batch: int, micro: int, chips: int, split: Mapping[str, int]) -> int:
    inner = split["tp"] * split["pp"] * split["cp"]
    if chips % inner:
        raise Unable(f"{chips} chips do not divide by tp {split['tp']} x pp {split['pp']} x cp {split['cp']}")
    count, left = divmod(batch, micro * (chips // inner))
    if left or not count:
        raise Unable(f"batch {batch} does not divide into micro-batches of {micro} on {chips // inner} replicas")
    return count


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
