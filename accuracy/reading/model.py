"""What a published run's model is: by its name, by its sizes, by how many parameters it has, by what notes say."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from accuracy.reading.columns import published
from accuracy.reading.tables import number, refuse, search, shapes, table
from accuracy.rows import Run


def models_of(name: str) -> list[Mapping[str, Any]]:
    """Entries of models.toml and shapes.csv that say something of a model, later ones over earlier. Raises Unable."""
    forms = {name, plain(name), re.sub(r"(\d)\.0(?= ?[bBmM]\b)", r"\1", plain(name))}  # Pythia-1.0B
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


NUMBER = r"([\d,]+(?:\.\d+)?)"


EXPERTS_NAMED = r"(?i)moe|expert|\d+ ?x ?\d|[- ]a\d+(\.\d+)?[bm]"


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
