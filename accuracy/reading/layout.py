"""How a published run's chips share its model and its batch, where the source says it and where a rule has to."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

from accuracy.reading.columns import PER_TOKEN, whole
from accuracy.reading.tables import Unable, number, search, word
from accuracy.recorder import CHIPS_PER_NODE
from accuracy.rows import Run
from anychip.network import Fabric
from anychip.spec import load_chip


@dataclass(frozen=True)
class Layout:
    """split: degrees tp, pp, cp, ep and vp. batch: sequences a step. columns: with the micro-batch and the sharding that go with them. filled:
    columns that were filled for it."""

    split: Mapping[str, int]
    batch: int
    columns: Mapping[str, str]
    filled: tuple[str, ...]


def layout_of(
    run: Run, chip: str, columns: Mapping[str, str], fixed: Mapping[str, Any], filled: Collection[str], sizes: Mapping[str, int],
    recompute: str, weights: float,
) -> Layout:  # fmt: skip
    """weights: of the model, of experts a rank's part; filled: columns that rules filled before. Raises Unable."""
    chips = number(columns, "chips", 1)
    split, added = degrees_of(columns), []
    if is_to_be_split(run, fixed, filled):
        room = ROOM * load_chip(chip).memory_bytes
        is_shared = word("zero_or_fsdp", columns["zero_or_fsdp"]) != "ddp"
        if fixed["splits"] == "layers":
            split |= divided(weights, room, chips, sizes, chip, is_shared)
            added += [name for name in ("tp", "pp") if split[name] > 1]
        elif chips > 1 and weights * held_per_weight(chips if is_shared else 1) > room:
            columns = {**columns, "zero_or_fsdp": "fsdp"}
    is_gathered = word("zero_or_fsdp", columns["zero_or_fsdp"]) == "fsdp" and recompute == "full"
    is_unsaid = "framework" in filled or not (run["global_batch"] or run["micro_batch"])
    if is_gathered and is_unsaid and "micro_batch" in filled:
        # Each micro-batch gathers all weights again: nobody takes many for nothing.
        most = max(number(columns, "micro_batch"), TOGETHER // sizes["seq_len"])
        columns = {**columns, "micro_batch": str(most)}
    is_shared = word("zero_or_fsdp", columns["zero_or_fsdp"]) == "fsdp"
    batch = batch_of(run, columns, fixed, chips, split, "framework" in filled and not is_shared)
    if not run["global_batch"]:
        added.append("global_batch")
    if not run["cp"] and (wide := spread_out(batch, chips, split)) > 1:
        # GSPMD's programs split the layers of what has fewer sequences than chips; long sequences are shared.
        is_short = sizes["seq_len"] <= LONG and sizes["heads"] % (wide * split["tp"]) == 0 == wide & (wide - 1)
        name = "tp" if fixed.get("batch_per_device") and is_short and not run["tp"] else "cp"
        split[name] *= wide
        added.append(name)
    split["vp"] = number(columns, "vp", 1) if split["pp"] > 1 else 1
    if fixed.get("interleaved") and "vp" in filled and sizes["layers"] % split["pp"] == 0:
        split["vp"] = sizes["layers"] // split["pp"]
    split["tp"] = max(split["tp"] // int(fixed.get("cores_per_chip", 1)), 1)
    micro = number(columns, "micro_batch")
    if fixed.get("local_batch") and run["micro_batch"] and split["pp"] > 1:
        micro = cut(micro, batch, chips, split)
    if "micro_batch" in filled:
        micro = dividing(micro, batch, chips, split)
    return Layout(split, batch, {**columns, "micro_batch": str(micro)}, tuple(added))


def degrees_of(columns: Mapping[str, str]) -> dict[str, int]:
    return {name: number(columns, name, 1) for name in ("tp", "pp", "cp", "ep")}


def is_to_be_split(run: Run, fixed: Mapping[str, Any], filled: Collection[str]) -> bool:
    """Whether a rule chooses the layout of a model that does not fit, as the source says nothing of it."""
    is_said = "stated" in fixed or any(run[name] for name in ("tp", "pp"))
    # What each replica holds of weights and gradients whole, where the optimizer's state alone is said to be split, its layers share.
    is_whole = (
        fixed.get("splits") == "layers"
        and search("(?i)zero[-_ ]*(stage)?[-_ =]*1|distributed[-_ ]opt", run["zero_or_fsdp"]) is not None
    )
    return (
        "splits" in fixed
        and "lora_rank" not in fixed
        and not is_said
        and ("zero_or_fsdp" in filled or not run["zero_or_fsdp"] or is_whole)
    )


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
    run: Run,
    columns: Mapping[str, str],
    fixed: Mapping[str, Any],
    chips: int,
    split: Mapping[str, int],
    is_strange: bool = False,
) -> int:
    """Sequences a step. Where the source says none and prints a rate, which hardly depends on how many a step has: a micro-batch (the
    framework's usual one, if need be) for each replica, eight for each stage of a pipeline and of trainers whose steps are large. is_strange:
    of a trainer that nobody knows, whose replicas are whole: up to eight, as long as a step has no more than the tokens of a small model's."""
    told = number(columns, "global_batch", 0) or trained_in(run, columns, chips, split)
    if told > 0:
        return told
    if fixed.get("batch_per_device") and run["micro_batch"]:  # a micro-batch is what each chip has of a step's batch
        return chips // split["pp"] * number(columns, "micro_batch", 1)
    if "step_time_s" in run.metrics or not is_rate(run):
        raise Unable("the source does not say global_batch")
    replicas = max(chips // (split["tp"] * split["pp"] * split["cp"]), 1)
    accumulates = split["pp"] > 1 or fixed.get("splits") == "layers"
    once = replicas * number(columns, "micro_batch", 1)
    if accumulates or not is_strange or run["micro_batch"]:
        return once * (8 * split["pp"] if accumulates else 1)
    return once * min(max(SMALL_STEP // (once * number(columns, "seq_len")), 1), 8)


def trained_in(run: Run, columns: Mapping[str, str], chips: int, split: Mapping[str, int]) -> int:
    """Sequences of each of so many steps that read so many tokens, by the notes, as near as the replicas can share; 0 where these do not say both."""
    tokens, steps = (whole(what, run.notes) for what in ("tokens", "steps"))
    if not tokens or not steps:
        return 0
    each = max(chips // (split["tp"] * split["pp"] * split["cp"]), 1) * (
        number(columns, "micro_batch", 1) if run["micro_batch"] else 1
    )
    return round(tokens / steps / number(columns, "seq_len") / each) * each


def is_rate(run: Run) -> bool:
    """Whether a run prints so much a second, or how long so many tokens took."""
    by_tokens = any(name in run.metrics for name in ("time_to_train_min", "chip_hours")) and whole("tokens", run.notes)
    return bool(by_tokens) or any(name in run.metrics for name in (*PER_TOKEN, "samples_per_s"))


# Of a layout that nobody says: how much of a chip's memory weights, gradients and the optimizer's state may take.
ROOM = 0.7

# Tokens of a micro-batch that nobody says, where weights are gathered for each and activations are recomputed: they fit beside them.
TOGETHER = 16384

# Tokens of a step of a small model (arXiv 2005.14165, table 2.1).
SMALL_STEP = 2**19

LONG = 8192  # tokens of a sequence that ranks share rather than what a layer is

HELD_BY_FSDP = 16  # bytes of a weight, its gradient and Adam's two moments, all of 32 bit


def parameters(o: Mapping[str, Any]) -> float:
    """Weights of all products and of the two tables; of experts a rank's part."""
    dim = o.get("head_dim") or o["hidden"] // o["heads"]
    parts, layers = (3 if o.get("gated") else 2), o["layers"]
    routed = (layers - o.get("dense_layers", 0)) // o.get("routed_every", 1) if o.get("experts") else 0
    experts = o.get("experts", 0) * o.get("expert_ffn", o["ffn"]) / o.get("ep", 1) + o.get("shared_ffn", 0)
    inside = (layers - routed) * o["ffn"] + routed * experts
    attention = 2 * layers * o["hidden"] * dim * (o["heads"] + o["kv_heads"])
    return float(attention + parts * o["hidden"] * inside + (1 if o.get("tied") else 2) * o["vocab"] * o["hidden"])


def ranks_for(weights: float, chip: str, split: Mapping[str, int]) -> float:
    """Over how many FSDP has to split a replica's state at least; 0 where the chip's memory is not known."""
    room = ROOM * (load_chip(chip).get("memory.main.capacity") or 0) * split["tp"] * split["pp"]
    return HELD_BY_FSDP * weights / room if room else 0


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
    stages += [pp for pp in (2, 4, 8, 16, 32, 64) if pp < layers and layers % pp]  # at last, stages that are not alike
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


def micro_batches(batch: int, micro: int, chips: int, split: Mapping[str, int]) -> int:
    inner = split["tp"] * split["pp"] * split["cp"]
    if chips % inner:
        raise Unable(f"{chips} chips do not divide by tp {split['tp']} x pp {split['pp']} x cp {split['cp']}")
    count, left = divmod(batch, micro * (chips // inner))
    if left or not count:
        raise Unable(f"batch {batch} does not divide into micro-batches of {micro} on {chips // inner} replicas")
    return count
