"""Long runs from short recordings: how a step's time and memory grow with layers, micro-batches and stages is known but for
a few numbers, so a few small recordings give them for any size.

In: options of the reference transformer. Out: weighted points. With l layers in the fullest part of a stage, v parts in
each of p stages, L layers in all and m micro-batches, the time of a step is a sum of

    1, p                    a step's end; what the first micro-batch meets in each stage
    v, p v, l v, p l        each part's own, and its weights', of which some travel when a stage first has work
    m, m v                  what the last stage has beside its layers; one part's start for each slot of the schedule
    (m v - 1) l + L / v     its layers

each times a number of its own. Parts of few layers are recorded as deep as they are: what hides behind one layer and what
behind two is no straight line. So is the regime of the schedule: with as many micro-batches as stages all of an
interleaved step is warm-up and end. Memory is a' + b' l v + c' k l with k parts in flight: p on the first stage and one
on the last of plain 1F1B, p v + p - 1 and p v - p + 1 of the interleaved schedule, at most m v.
"""

from collections import Counter
from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np

STAGES = 4  # recorded of a pipeline, at least one of which is neither first nor last
ALWAYS = 2500  # layers times micro-batches up to which all is recorded as it is: it takes about as long as a fold
UNEVEN = ("recompute_layers", "dense_layers", "routed_every")  # make layers differ from each other
# Options of layers with experts alone.
ROUTED = (
    "experts",
    "chosen",
    "expert_ffn",
    "shared_ffn",
    "ep",
    "expert_tp",
    "grouped",
    "dispatch",
    "node",
    "most_nodes",
)
FEW_ROUTED = 2, 3  # layers with experts that tell what one more takes
ONCE = ("ddp", "optimizer", "gradients")  # what is sharded where gradients travel once a step
FEW_PASSES = 600  # layers times micro-batches up to which all is recorded then
FEW_LAYERS = 4  # so many of different kinds are recorded as they are where there is no pipeline
EXACT = 1e-6
FULL = 2, 3  # micro-batches from which on a step grows by as much with each: beside the first travel weights


class Point(NamedTuple):
    """Options to record, and the weights of the time, and of the memory of the first and the last stage, that come out."""

    weight: float
    options: Mapping[str, Any]
    first: float
    last: float


class Size(NamedTuple):
    """p, v, m as above; most: l; layers: L."""

    stages: int
    parts: int
    micro: int
    most: float
    layers: int

    @property
    def time(self) -> list[float]:
        p, v, m, deep = self.stages, self.parts, self.micro, self.most
        return [1.0, p, v, p * v, deep * v, p * deep, m, m * v, (m * v - 1) * deep + self.layers / v]

    def memory(self, is_first: bool) -> list[float]:
        p, v = self.stages, self.parts
        if v == 1:
            return [1.0, self.most, *([self.most * min(p, self.micro)] if is_first else [])]
        flying = min(p * v + p - 1 if is_first else p * v - p + 1, self.micro * v)
        return [1.0, self.most * v, flying * self.most]


def points(options: Mapping[str, Any], always: int = ALWAYS) -> list[Point]:
    """What to record for these options: themselves, where they are short already (always: layers times micro-batches of a
    pipeline up to which they are). Layers of several kinds are recorded as models of one kind each, weighted by how many
    layers there are."""
    if is_whole(options):
        return [Point(1.0, options, 1.0, 1.0)]
    found = kinds(options, always)
    if len(found) == 1:
        return straight(options) if options.get("pp", 1) == 1 else piped(options, always)
    return [
        Point(point.weight * share, point.options, point.first * share, point.last * share)
        for share, kind in found
        for point in points(kind, always)
    ]


def kinds(options: Mapping[str, Any], always: int) -> list[tuple[float, Mapping[str, Any]]]:
    """Options of a model whose layers are all of one kind, with the share of the layers. `full_every` n: one layer in n sees
    all keys, the others a window. `dense_layers`, `routed_every`: which layers have experts."""
    every = options.get("full_every", 1)
    if every > 1:
        near = without(options, "full_every")
        return [((every - 1) / every, near), (1 / every, without(near, "window"))]
    if "pattern" in options:
        return of_pattern(options)
    layers, first, apart = options["layers"], options.get("dense_layers", 0), options.get("routed_every", 1)
    is_short = layers <= FEW_LAYERS if options.get("pp", 1) == 1 else layers * options["micro_batches"] <= always
    if not options.get("experts") or (not first and apart == 1) or is_short:
        return [(1.0, options)]
    share = sum((number + 1) % apart == 0 for number in range(first, layers)) / layers
    routed = without(options, "dense_layers", "routed_every")
    found = [(share, routed), (1 - share, without(routed, *ROUTED))]
    return [(share, kind) for share, kind in found if share > 0]


def of_pattern(options: Mapping[str, Any]) -> list[tuple[float, Mapping[str, Any]]]:
    """Of a hybrid model, layers of each letter, those at the end in 16 bit apart; and what predicts more tokens, which is there
    once: two layers with it less two without."""
    pattern, layers, late = options["pattern"], options["layers"], options.get("bf16_layers", 0)
    if len(pattern) == 1 and not late:
        return [(1.0, options)]
    base = without(options, "bf16_layers", "mtp", "mtp_pattern")
    plain = {**base, "dtype": "bf16"}
    letters = Counter((pattern[number % len(pattern)], number >= layers - late) for number in range(layers))
    found: list[tuple[float, Mapping[str, Any]]] = []
    for (letter, is_late), count in letters.items():
        kind = {**(plain if is_late else base), "pattern": letter}
        found.append((count / layers, kind if letter == "E" else without(kind, *ROUTED, "latent")))
    if options.get("mtp"):
        few = {**base, "pattern": "E", "layers": FEW_ROUTED[0]}
        found += [(1.0, {**few, **{name: options[name] for name in ("mtp", "mtp_pattern")}}), (-1.0, few)]
    return found


def is_uneven(options: Mapping[str, Any]) -> bool:
    return any(options.get(name) for name in UNEVEN)


def without(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


def is_whole(options: Mapping[str, Any]) -> bool:
    """Of one stage, all layers of which see as many keys: whether all is recorded. Gradients that travel once a step do so beside the last micro-batch, and weights
    beside the first: behind the head where there are few layers, or behind nothing (with few micro-batches steps of 32 and of
    36 layers came out 4% longer and 4% shorter)."""
    if options.get("pp", 1) > 1 or options.get("full_every", 1) > 1:
        return False
    if options["sharding"] not in ONCE or options.get("lora_rank"):
        return False
    return bool(options["layers"] * options["micro_batches"] <= FEW_PASSES)


# One stage ---------------------------------------------------------------------------------------------------------------


def straight(options: Mapping[str, Any]) -> list[Point]:
    """Linear in layers and in micro-batches: four points, or fewer where there is little of either."""
    layers, micro = options["layers"], options["micro_batches"]
    found = []
    for (left, a), (right, b) in product(
        line(layers, short_layers(options)), line(micro, FULL if micro > FULL[1] else None)
    ):
        weight = left * right
        found.append(Point(weight, {**options, "layers": a, "micro_batches": b}, weight, weight))
    return found


def short_layers(options: Mapping[str, Any]) -> tuple[int, int] | None:
    """Two small numbers of layers; None: record all."""
    if is_uneven(options):
        return None
    low = FEW_ROUTED if options.get("experts") else (4, 6)
    return low if options["layers"] > low[1] else None


def line(whole: int, two: tuple[int, int] | None) -> list[tuple[float, int]]:
    """(weight, number) of the points that give `whole` by a straight line."""
    if two is None:
        return [(1.0, whole)]
    low, high = two
    return [((high - whole) / (high - low), low), ((whole - low) / (high - low), high)]


# A pipeline --------------------------------------------------------------------------------------------------------------


def piped(options: Mapping[str, Any], always: int) -> list[Point]:
    p, v = options["pp"], options.get("vp", 1)
    layers, micro = options["layers"], options["micro_batches"]
    missing = 2 if (layers + 2) % (p * v) == 0 and layers % (p * v) and not options.get("mtp") else 0
    whole = Size(p, v, micro, -(-(layers + missing) // (p * v)), layers + missing)
    if layers * micro <= always or is_uneven(options):
        return [Point(1.0, options, 1.0, 1.0)]
    if layers + missing == whole.most * p * v:
        small = candidates(whole, 2 if options["recompute"] == "half" else 1, missing)
    else:
        small = uneven(whole, bool(options.get("mtp")))
    found = solved(small, whole)
    if found is None:
        return [Point(1.0, options, 1.0, 1.0)]
    return [
        Point(w, {**options, "pp": s.stages, **({"vp": s.parts} if v > 1 else {}), "layers": s.layers - missing,
                  "micro_batches": s.micro}, first, last)
        for s, w, first, last in zip(small, *found, strict=True)
        if max(abs(w), abs(first), abs(last)) > EXACT
    ]  # fmt: skip


def uneven(whole: Size, predicts_more: bool) -> list[Size]:
    """Where not all parts have as many layers: short pipelines of parts as deep as they are, of which as large a share has
    one fewer; or, predicts_more, the last part fewer by as many, as it has another head."""
    p, v, most = min(whole.stages, STAGES), whole.parts, int(whole.most)
    lacking = most * whole.stages * v - whole.layers

    def short(stages: int, micro: int, more: int = 0) -> Size:
        few = lacking if predicts_more else max(1, round(lacking * stages / whole.stages)) + more
        return Size(stages, v, micro, most, most * stages * v - few)

    wider = min(whole.stages, p + 2)
    found = [short(p, m) for m in micro_batches(whole, p)] + [short(wider, micro_batches(whole, wider)[0])]
    return found if predicts_more else [*found, short(wider, micro_batches(whole, wider)[0], 1)]


def solved(small: list[Size], whole: Size) -> tuple[list[float], list[float], list[float]] | None:
    """Weights of the time, and of the memory of the first and the last stage; None where these sizes do not give all."""
    found = (
        weights([size.time for size in small], whole.time),
        *(weights([size.memory(end) for size in small], whole.memory(end)) for end in (True, False)),
    )
    return None if None in found else found  # type: ignore[return-value]


def candidates(whole: Size, each: int, missing: int) -> list[Size]:
    """Small pipelines that tell the numbers apart: by depth, micro-batches, stages and parts. each: the number of layers of
    a part is a multiple of it."""
    p = min(whole.stages, STAGES if whole.parts > 1 else STAGES - 1)
    stages = [p, p + 1] if whole.stages > p else [p]
    parts = [2, 3] if whole.parts > 2 else [whole.parts]
    counts = {n: micro_batches(whole, n)[: 1 if n > p else None] for n in stages}
    return [
        size_of(n, v, m, deep)
        for deep in depths(whole, each, missing)
        for n in stages
        for v in parts
        for m in counts[n]
    ]


def depths(whole: Size, each: int, missing: int) -> list[int]:
    """Layers of a part: its own where a stage has several parts of as many layers each, which are few, else two numbers."""
    most = int(whole.most)
    if most <= each or (whole.parts > 1 and whole.layers == most * whole.stages * whole.parts):
        return [most]
    return [2, 4] if most >= 4 else [2, 3] if missing else [each, 2 * each]


def micro_batches(whole: Size, stages: int) -> list[int]:
    """As many for each stage as in the whole where they are few, else two numbers of the same regime."""
    least = 2 if whole.parts > 1 else 1  # for each stage, where a schedule has as many steady slots as it comes to have
    if whole.micro <= least * whole.stages or whole.micro == (least + 1) * whole.stages:
        each = whole.micro / whole.stages
        if each == int(each):
            return [int(each) * stages]
        least = 1
    return [least * stages, (least + 1) * stages] if whole.micro > stages else [whole.micro]


def size_of(stages: int, parts: int, micro: int, most: int) -> Size:
    return Size(stages, parts, micro, most, most * stages * parts)


def weights(small: list[list[float]], whole: list[float]) -> list[float] | None:
    """The smallest that give every function of a size exactly; None where none do."""
    found, *_ = np.linalg.lstsq(np.array(small).T, np.array(whole), rcond=None)
    left = np.array(small).T @ found - np.array(whole)
    return [float(w) for w in found] if np.abs(left).max() < EXACT * max(map(abs, whole)) else None
