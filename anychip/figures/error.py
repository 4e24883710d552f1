"""One sigma of a step's time: how far published runs like it were from their forecasts, and what no run speaks for.

In: figures of a step and what its program is. Out: the runs that err like it (`spec.validated.Compared`), and the error. Shares of the time
err apart: what is like compared runs, what is like none, the host, ops without a formula, a network of more chips, the chip's file.
"""

from collections.abc import Iterable, Mapping
from math import log2, sqrt

from anychip.cost.work import packet, work
from anychip.figures.like import has_frozen_weights, is_compiled
from anychip.figures.sums import products_in
from anychip.record import Op, Program
from anychip.spec import Chip
from anychip.spec.validated import CALLS, DENSE, EXPERTS, OTHER, OWN_PRODUCTS, Compared, Like, end_to_end, errors
from anychip.timeline.price import Timeline


def is_prompt(tokens: float | None, samples: float | None) -> bool | None:
    """Of a call, by what it reads: a prompt, else one token of each sequence; None where that is not seen."""
    return tokens > samples if tokens and samples else None


def compared_with(program: Program, chip: Chip, layers: str, dtype: str, kind: str, prompt: bool | None, *, num_chips: int = 1,
                  sharded: bool = False) -> Compared | None:  # fmt: skip
    """The published runs that err like this one. program: as it was recorded, of a job one rank of most of its work. dtype: of most
    products. On a chip that compiles every step, it tells nothing that the program asked for that."""
    if kind == CALLS:
        return end_to_end(chip.runs_of, Like(layers, calls=Like.reading(prompt)), kind)
    compiled = chip.execution != "graph" and is_compiled(program)
    like = Like.of(layers, has_frozen_weights(program), dtype, compiled, sharded, num_chips)
    return end_to_end(chip.runs_of, like, kind)


Beyond = Mapping[tuple[str, str], float]  # as `figures.beyond_of` gives it


# What a part of the error comes from, as it is told.
LIKE_IT = "how far published runs like it were off"
KERNELS = "no run like it was compared"
UNMEASURED = "no product was measured on the chip"
UNLIKE = "work that no published run is made of"
WIDE_OR_LINKED = "products of more than 16 bit, or an assumed link to the host"
BY_BYTES = "operations without a formula"
HOST = "its host's time"
GRADES = {
    "B": "runs of one source alone (grade B)",
    "C": "kernels measured, but no runs (grade C)",
    "D": "a data sheet alone (grade D)",
}
LARGER = "more chips than any run that was compared"
COLLECTIVES = "much of the step in collectives alone"


def error_of(evidence: Mapping[str, float], beyond: Beyond, breakdown: Mapping[str, float], timeline: Timeline,
             compared: Compared | None, num_chips: int, host_s: float) -> dict[str, float]:  # fmt: skip
    """By what it comes from, the largest first, one sigma each, which are independent. Where whole runs were compared on the chip, the
    error of those with such layers, for the share of the time that is like them; else parts of one kind err together, and kinds and the
    level of the chip's products apart. What no run has, the host, ops without a formula, a network between more chips than were
    compared and the chip's file come on top."""
    known = errors()
    total = sum(breakdown.values()) or 1.0
    host, compute = breakdown["host"] / total, breakdown["compute"] / total
    other, rate = (
        sum(share * known[row] for row, share in beyond.items() if row[0] == part) * (1 - host)
        for part in ("unlike", "rate")
    )
    grade = timeline.chip.grade
    exposed = breakdown["exposed_comm"] / total
    parts = {WIDE_OR_LINKED: rate, COLLECTIVES: of_waiting(exposed)}
    if compared is not None:
        unknown = evidence["bytes_only"] - beyond["unlike", "bytes_only"]  # (those are in `other`)
        parts[LIKE_IT] = compared.sigma * (1 - unlike_share(beyond)) * (1 - host)
        parts |= {UNLIKE: other, BY_BYTES: unknown * known["evidence", "bytes_only"]}
    else:
        usual = {name: share - beyond["unlike", name] for name, share in evidence.items()}
        parts[KERNELS] = sum(share * known["evidence", name] for name, share in usual.items()) * (1 - host) + other
        rates = timeline.prices.on.rates
        rows = [row for op in ("gemm", "gemm.warm", "gemm.rate", "gemm.sustained") for row in rates.all(op)]
        parts[UNMEASURED] = 0.0 if any(row.kind != "assumed" for row in rows) else compute * known["level", ""]
        if grade < "C":  # the whole runs that raised it say nothing of this program
            parts[KERNELS], grade = together((parts[KERNELS], known["grade", "C"])), "A"
    parts[HOST] = max(host * known["host", ""], host_s * (1 + known["host", ""]) / total - 1)
    parts[GRADES.get(grade, "")] = known.get(("grade", grade), known["grade", "D"])
    parts[LARGER] = together(of_size(num_chips, compared.most_chips if compared is not None else 1, exposed))
    return {name: part for name, part in sorted(parts.items(), key=lambda item: -item[1]) if part > 0}


def together(parts: Iterable[float]) -> float:
    """One sigma of independent errors."""
    return sqrt(sum(part**2 for part in parts))


def of_size(num_chips: int, most_chips: int, exposed: float) -> list[float]:
    """Errors of a job of more chips than the largest that was compared on this one, `most_chips`: of the share of its time in
    collectives alone, and of what large jobs lose to each other, by doublings of size."""
    if num_chips <= most_chips:
        return []
    known = errors()
    # Up to so many chips, runs of all kinds of chips were no further off than those of one node.
    alike, each = next((int(name), error) for (part, name), error in known.items() if part == "doubling")
    return [exposed * known["network", ""], each * log2(max(num_chips / max(most_chips, alike), 1))]


def of_waiting(exposed: float) -> float:
    """Error of a step that spends the share `exposed` of its time in collectives alone: of what is more than compared runs mostly have."""
    usual, each = next((float(name), error) for (part, name), error in errors().items() if part == "exposed")
    return each * max(exposed - usual, 0.0)


def unlike_share(beyond: Beyond) -> float:
    """Share of the chip's time in kinds of work that no published run is mostly made of."""
    return sum(share for (part, _), share in beyond.items() if part == "unlike")


MOST_EXPERTS = 1024  # of a layer; more scores are of a vocabulary, from which a token is drawn


def layers_of(ops: Iterable[Op], called: Iterable[Op], unlike: float) -> str:
    """Which kind of layers the program has. called: the ops in calls of modules. Tokens go to experts where a module keeps the largest
    few of their scores; a metric's five best classes are no experts. What computes mostly something else than products and attention,
    or takes most of its time for it (the share `unlike`), is like no published run."""
    ops = list(ops)
    tasks = [work(op) for op in ops]
    flop = sum(task.flop for task in tasks)
    products = sum(task.flop for task in tasks if task.kind in ("gemm", "grouped", "custom") or task.attention)
    products += sum(products_in(task) for task in tasks if task.kind == "fused")
    if products <= flop / 2 or unlike > 1 / 2:
        return OTHER
    if any(task.kind == "custom" and task.gemm for task in tasks):
        return OWN_PRODUCTS
    scores = [op.args[0].shape[-1] for op in called if packet(op.name) == "aten.topk" and op.args[0].shape]
    is_routed = any(task.kind == "grouped" for task in tasks) or any(count <= MOST_EXPERTS for count in scores)
    return EXPERTS if is_routed else DENSE
