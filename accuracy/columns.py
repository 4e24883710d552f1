"""What the columns of a published run mean: by the rules of defaults/*.toml, models.toml, shapes.csv, words.toml, chips.toml and
conventions.toml. Nothing here looks at a measured value.
"""

import csv
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from accuracy.rows import COUNTS, Run
from anychip.errors import BadNetwork
from anychip.network import Fabric
from anychip.spec import Chip, list_chips, list_clusters, load_chip

HERE = Path(__file__).parent


class Unable(Exception):
    """Why a run cannot be forecast."""


@cache
def table(name: str) -> Mapping[str, Any]:
    return tomllib.loads((HERE / name).read_text(encoding="utf-8"))


@cache
def rules() -> tuple[Mapping[str, Any], ...]:
    """All rules of defaults/*.toml, files by name."""
    paths = sorted((HERE / "defaults").glob("*.toml"))
    return tuple(rule for path in paths for rule in tomllib.loads(path.read_text(encoding="utf-8"))["rule"])


@cache
def shapes() -> tuple[Mapping[str, Any], ...]:
    """Rows of shapes.csv, public models by name, as entries of models.toml."""
    with (HERE / "shapes.csv").open(encoding="utf-8", newline="") as file:
        return tuple(map(shape_entry, csv.DictReader(file)))


def shape_entry(row: Mapping[str, str]) -> Mapping[str, Any]:
    """`name`: words that stand together or with a space, dash or underscore between them; several forms with bars."""
    forms = ("[-_ ]?".join(map(re.escape, form.split())) for form in row["name"].split("|"))
    fixed: dict[str, Any] = {name: row[name] == "yes" for name in ("gated", "bias", "tied")}
    fixed |= {name: row[name] for name in ("norm", "position")}
    if row["head_dim"]:
        fixed["head_dim"] = int(row["head_dim"])
    blank = {name: row[name] for name in ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab")}
    return {"name": rf"(?i)(?<![a-z0-9.])({'|'.join(forms)})(?![0-9.])", "set": fixed, "blank": blank}


# The `re` module keeps 512 patterns; models, chips and rules have more, and each row asks all of them.
@cache
def regex(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def search(pattern: str, text: str) -> re.Match[str] | None:
    return regex(pattern).search(text)


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


def models_of(name: str) -> list[Mapping[str, Any]]:
    """Entries of models.toml and shapes.csv that say something of a model, later ones over earlier. Raises Unable."""
    forms = {name, plain(name)}
    found = [
        entry
        for entry in (*table("models.toml")["model"], *shapes())
        if any(search(entry["name"], form) for form in forms)
    ]
    refuse(found)
    return found


LLAMA = "2023-02"  # when its paper was published, after which most who train a model build its layers


def by_its_sizes(run: Run, models: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Entries of a model that no other names: GPT-2's layers, where its width inside is 4 times its width, or where its weights are nearer
    to as many as the source says with two products inside than with three; where nobody says that width, of papers before LLaMA's."""
    layers, hidden, heads, ffn = (run.whole(name) or 0 for name in ("layers", "hidden", "heads", "ffn"))
    if len(models) > 1 or not hidden:
        return []
    is_plain = ffn == 4 * hidden if ffn else "" < published(run) < LLAMA
    if ffn and layers and (told := parameters_of(run)):
        kv = run.whole("kv_heads") or heads
        shared = layers * 2 * hidden * (hidden + hidden * kv // max(heads, 1)) + (run.whole("vocab") or 0) * hidden
        two, three = (abs(math.log((shared + layers * parts * hidden * ffn) / told)) for parts in (2, 3))
        is_plain = two < three
    return [entry for entry in table("models.toml")["model"] if entry.get("plain")] if is_plain else []


def plain(name: str) -> str:
    """A model's name without a hub's owner before it, and with spaces for dashes below and brackets."""
    return re.sub(r"[\s_()\[\],]+", " ", re.sub(r"^[A-Za-z][\w.-]*/", "", name)).strip()


def refuse(entries: Iterable[Mapping[str, Any]]) -> None:
    """Raises Unable where an entry says why its runs cannot be expressed."""
    reasons = [entry["unable"] for entry in entries if "unable" in entry]
    if reasons:
        raise Unable(reasons[-1])


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


def chip_entry(run: Run) -> Mapping[str, str]:
    """Of chips.toml; empty where the standard's own names tell."""
    return next((entry for entry in table("chips.toml")["chip"] if search(entry["name"], run["chip"])), {})


def chip_of(run: Run) -> str:
    if entry := chip_entry(run):
        if "unable" in entry:
            raise Unable(f"chip {run['chip']!r}: {entry['unable']}")
        return str(entry["id"])
    if not run["chip"]:
        raise Unable("the source does not say chip")
    named = {name: id for name, id in chip_names().items() if search(name, run["chip"])}
    if not named:
        raise Unable(f"chip {run['chip']!r}: no file in the standard")
    return named[max(named, key=len)]


def counted(run: Run) -> tuple[Run, list[str]]:
    """The run with a number of chips where its column is blank, and whether a rule filled it: by the name of a slice, by degrees of
    parallelism, else one."""
    if run["chips"]:
        return run, []
    found, filled = 0, []
    if "chip_hours" in run.metrics and not any(run[name] for name in ("tp", "pp", "cp", "dp")):
        told = any(search(entry["name"], run["chip"]) for entry in table("chips.toml")["slice"])
        if not told:
            raise Unable("the source does not say chips, and hours of all of them are not of one")
    for entry in table("chips.toml")["slice"]:
        if match := search(entry["name"], run["chip"]):
            found = int(match[2]) // entry["cores"]
    if not found:
        found = math.prod(run.whole(name) or 1 for name in ("tp", "pp", "cp", "dp"))
        filled = ["chips"]
    return replace(run, columns={**run.columns, "chips": str(max(found, 1))}), filled


HALVES = ("tokens_per_s_per_chip", "tflops_per_chip")  # metrics of a chip, of which a die has half


def in_dies(run: Run) -> Run:
    """Counted by dies, where programs see two of each chip (`dies` of chips.toml) and the source's nodes or its layout show what it counts: four
    packages of MI250X are eight ranks."""
    with suppress(Unable):
        if not (die := table("chips.toml")["dies"].get(chip_of(run))):
            return run
        ranks = math.prod(run.whole(name) or 1 for name in ("tp", "pp", "cp", "dp"))
        node, chips = run.whole("chips_per_node"), run.whole("chips") or 1
        if node == 8:
            return replace(run, columns={**run.columns, "chip": die})
        if node == 4 or ranks == 2 * chips:
            metrics = {
                name: value / 2 if name in HALVES else value * 2 if name == "chip_hours" else value
                for name, value in run.metrics.items()
            }
            return replace(
                run,
                columns={**run.columns, "chip": die, "chips": str(2 * chips), "chips_per_node": "8"},
                metrics=metrics,
            )
    return run


@cache
def chip_names() -> Mapping[str, str]:
    """Patterns of the ids and aliases of all chips."""
    return {pattern_of(name): chip.id for chip in list_chips() for name in (chip.id, *chip.aliases)}


def pattern_of(name: str) -> str:
    """A name whose parts stand together or with a space, dash or underscore between."""
    return rf"(?i)(?<![a-z0-9]){'[-_ ]?'.join(re.findall('[a-z]+|[0-9]+', name.lower()))}(?![a-z0-9])"


def cluster_of(run: Run, chip: str) -> str | None:
    """A cluster of the chip that the source names as its network and that is not the chip's usual one."""
    found = {
        name: cluster.id for cluster in list_clusters() if chip in cluster.chips
        for name in (cluster.id, *cluster.aliases, cluster.name.partition(",")[0])
        if search(pattern_of(name), f"{run['interconnect']} | {run['chip']}")
    }  # fmt: skip
    named = found[max(found, key=len)] if found else as_fast(run, chip)
    return None if named == load_chip(chip).raw.get("cluster") else named


ALIKE = 1.3  # rates of networks that are taken for one another, one over the other


def as_fast(run: Run, chip: str) -> str | None:
    """A cluster of the chip whose network is about as fast as the source says; its usual one where that is."""
    told, usual = network_rate(run), load_chip(chip).raw.get("cluster")
    apart = {
        cluster.id: abs(math.log(rate / told)) for cluster in list_clusters()
        if told and chip in cluster.chips and (rate := cluster.get("scale_out.one_way_per_chip"))
    }  # fmt: skip
    fit = [name for name, ratio in apart.items() if ratio <= math.log(ALIKE)]
    return usual if usual in fit or not fit else min(fit, key=lambda name: (apart[name], name))


def network_rate(run: Run) -> float | None:
    """Bytes a second, one way, of one chip's network, where the source says how many links of how many bits a node or a chip has."""
    text = run["interconnect"]
    link = search(r"(?:(\d+) ?[x\u00d7*] ?)?(\d+(?:\.\d+)?) ?(T|G)(?:bit|bE|bps|b)", text)
    of_chip = search(r"(?i)(per|/|a) ?(gpu|chip|device|card|npu|accelerator)", text)
    of_node = search(r"(?i)(per|/|a) ?(node|server|host|instance|machine)|\befa\b", text)
    if link is None or not (link[1] or of_chip or of_node):
        return None
    rate = int(link[1] or 1) * float(link[2]) * (1e12 if link[3] == "T" else 1e9) / 8
    return rate if of_chip and not of_node else rate / (run.whole("chips_per_node") or 8)


NUMBER = r"([\d,]+(?:\.\d+)?)"
EXPERTS_NAMED = r"(?i)moe|expert|\d+ ?x ?\d|[- ]a\d+(\.\d+)?[bm]"


def network_of(run: Run, chip: str) -> tuple[str | None, list[str]]:
    """A cluster that knows what the chip's own file does not of a network for so many, and whether a rule chose it: one that the chip is
    known to stand in, else of `network` in chips.toml."""
    told = cluster_of(run, chip)
    count, loaded = run.whole("chips") or 1, load_chip(chip)
    if fits_together(loaded, count, told):
        return told, []
    usual = table("chips.toml")["network"]["usual"]
    own = [cluster.id for cluster in list_clusters() if chip in cluster.chips and cluster.id not in usual]
    named = {name: len(name) for name in usual if search(pattern_of(name), run["interconnect"])}
    for name in (*own, *sorted(usual, key=lambda name: -named.get(name, 0))):
        if fits_together(loaded, count, name):
            return str(name), ["interconnect"]
    return told, []


def fits_together(chip: Chip, count: int, cluster: str | None) -> bool:
    try:
        Fabric.of(chip, count, cluster)
    except BadNetwork:
        return False
    return True


# Columns in words of which a rule's value stands in where nobody has seen the words.
WORDS = ("recompute", "zero_or_fsdp", "sequence_parallel", "compile")


def in_sequences(run: Run) -> Run:
    """With a batch of so many tokens ("4M tokens") as sequences: of 2^20 to a million where that is whole, else the nearest."""
    told = search(r"(?i)^~?([\d,.]+) ?(k|m|million)? ?tok(?:en)?s?$|^~?([\d.]+) ?(m)$", run["global_batch"])
    length = run.whole("seq_len") or 0
    if not told or length < 1:
        return run
    text, size = told[1] or told[3], (told[2] or told[4] or "").lower()[:1]
    with suppress(ValueError):
        value = float(text.replace(",", ""))
        kinds = [value * base ** {"": 0, "k": 1, "m": 2}[size] / length for base in (1000, 1024)]
        found = next((kind for kind in kinds if kind.is_integer()), kinds[-1])
        return replace(run, columns={**run.columns, "global_batch": str(max(round(found), 1))})
    return run


def by_slice(run: Run) -> Run:
    """With a slice's name that stands in the column of chips where chips are named."""
    if any(regex(entry["name"]).fullmatch(run["chips"]) for entry in table("chips.toml")["slice"]):
        return replace(run, columns={**run.columns, "chip": f"{run['chip']} {run['chips']}", "chips": ""})
    return run


def check_counts(run: Run) -> None:
    """Raises Unable where a count is given and is none: taken for blank, a rule would fill it in."""
    for name in COUNTS:
        value = run.number(name)
        if run[name] and (value is None or not value.is_integer()):
            raise Unable(f"column {name}: {run[name]!r} is no whole number")


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


def resized(run: Run, blank: Mapping[str, Any]) -> dict[str, int]:
    """Of a model's public sizes those that follow from another, which the source gives otherwise: as many heads of keys as
    heads, four times the width inside."""
    public = {name: number(blank, name, 0) for name in ("hidden", "heads", "kv_heads", "ffn")}
    found = {}
    if (heads := run.whole("heads")) and public["kv_heads"] == public["heads"] > 0:
        found["kv_heads"] = heads
    if (hidden := run.whole("hidden")) and public["ffn"] == 4 * public["hidden"] > 0:
        found["ffn"] = 4 * hidden
    return found


def counted_layers(run: Run, columns: Mapping[str, str], fixed: Mapping[str, Any]) -> int:
    """Layers of a dense model by its number of parameters and its width, which the source gives, and other sizes, which it or a rule
    does; else 0."""
    hidden, gated = number(columns, "hidden", 0), bool(fixed.get("gated"))
    inside = number(columns, "ffn", 0) or (0 if gated else 4 * hidden)
    in_layers, attention = dense_weights(run, columns, fixed)
    if not attention or not inside:
        return 0
    return max(round(in_layers / (attention + (3 if gated else 2) * hidden * inside)), 0)


def counted_width(run: Run, columns: Mapping[str, str], fixed: Mapping[str, Any]) -> int:
    """How wide a dense model's gated feed-forward is, by its number of parameters and its other sizes; else 0."""
    layers, hidden = (number(columns, name, 0) for name in ("layers", "hidden"))
    in_layers, attention = dense_weights(run, columns, fixed)
    if not attention or not layers:
        return 0
    return max(round((in_layers / layers - attention) / (3 * hidden) / STEP_OF_WIDTH) * STEP_OF_WIDTH, 0)


STEP_OF_WIDTH = 64


def dense_weights(run: Run, columns: Mapping[str, str], fixed: Mapping[str, Any]) -> tuple[float, int]:
    """(Weights of a dense model's layers, as many as its parameters leave beside its embeddings; those of one layer's attention). Zeros where
    sizes are missing, or layers are not alike."""
    parameters = parameters_of(run)
    hidden, heads, vocab = (number(columns, name, 0) for name in ("hidden", "heads", "vocab"))
    if fixed.get("experts") or "pattern" in fixed or not all((parameters, hidden, heads, vocab)):
        return 0.0, 0
    width = int(fixed.get("head_dim") or hidden // heads)
    attention = 2 * hidden * width * (heads + (number(columns, "kv_heads", 0) or heads))
    return parameters - (1 if fixed.get("tied") else 2) * vocab * hidden, attention


def parameters_of(run: Run) -> float:
    """As the source says, or the model's name; 0 where neither does, or the name is of experts."""
    label = r"(?i)(?<![\w.])(\d+(?:\.\d+)?) ?([bm])(?![a-z\d])"
    told = search(rf"^{NUMBER} ?([bm]?)", run["params_b"].lower()) or search(label, plain(run["model"]))
    if told is None or search(EXPERTS_NAMED, run["model"]):
        return 0.0
    return float(told[1].replace(",", "")) * (1e6 if told[2].lower() == "m" else 1e9)


def as_wide_as_others(run: Run, fixed: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sizes but for the layers of a public dense model with about as many parameters, of which the source gives no size."""
    billions = parameters_of(run) / 1e9
    is_told = any(run[name] for name in ("layers", "hidden", "heads"))
    if is_told or any(fixed.get(name) for name in ("experts", "pattern", "unlike")):
        return {}
    entry = next(entry for entry in table("models.toml")["width"] if entry["gated"] == bool(fixed.get("gated")))
    if not 0 < billions <= entry["most"]:
        return {}
    _, *sizes = min(entry["rungs"], key=lambda rung: abs(math.log(billions / rung[0])))
    return {**dict(zip(("hidden", "heads", "kv_heads", "ffn"), sizes, strict=True)), "vocab": entry["vocab"]}


def is_word(column: str, text: str) -> bool:
    try:
        return bool(word(column, text))
    except Unable:
        return False


def word(column: str, text: str) -> str:
    """What a column's text means; itself where it is such a word already."""
    entries = table("words.toml")[column]
    for entry in entries:
        match = search(entry["text"], text)
        if match:
            return match.expand(entry["value"])
    if text in {re.sub(r":.*", "", entry["value"]) for entry in entries} | {entry["value"] for entry in entries}:
        return text
    raise Unable(f"column {column}: {text!r} is not in accuracy/words.toml")


def noted(notes: str, is_known: bool) -> dict[str, int]:
    """Options that a source's notes give as flags, over what the model's name says; of experts in words too, where a model is not known by its
    name: of others they may say what those were compared with."""
    found: dict[str, int] = {}
    for entry in table("words.toml")["notes"]:
        if match := search(entry["text"], notes):
            found.setdefault(entry["value"], int(match[1]))
    if not is_known:
        told = {
            entry["value"]: match for entry in table("words.toml")["routed"] if (match := search(entry["text"], notes))
        }
        words = {name: int(next(filter(None, match.groups()))) for name, match in told.items()}
        found = {**words, **found} if {"experts", "chosen"} <= {*words, *found} else found
        every = search(table("words.toml")["routed_every"][0]["text"], notes)
        if every and "experts" in found:
            found["routed_every"] = {"o": 2, "s": 2, "2": 2, "t": 3, "3": 3, "f": 4, "4": 4}[every[1][0].lower()]
    return found


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


def number(columns: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = columns.get(name) or ""
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        if default is None:
            raise Unable(f"the source does not say {name}") from None
        return default
