"""The measured step time of a published run, from what its source prints."""

from collections.abc import Callable, Mapping
from typing import Any

from accuracy.plan import Plan
from accuracy.reading.columns import convention, whole
from accuracy.reading.tables import Unable, table
from anychip.spec import load_chip


def step_time_s(plan: Plan) -> float:
    """Seconds a step, from the most direct of the run's metrics. Raises Unable where none of them gives it."""
    run, metrics = plan.run, plan.run.metrics
    length = int(plan.options["seq"])
    if times := direct(plan):
        return next(iter(times.values()))
    if (whole_s := whole_time_s(plan)) and (steps := whole_steps(plan, length)):
        return whole_s / steps
    counted = convention(run)
    if counted is not None:
        return by_flop(plan, counted)
    if not metrics:
        raise Unable(f"no metric of it has a value above zero{': ' if run.unread else ''}{', '.join(run.unread)}")
    told = "step_time_s, tokens_per_s_per_chip, samples_per_s, tflops_per_chip and mfu do; the time of a whole training with its tokens in the notes"
    unread = f"; no number above zero: {', '.join(run.unread)}" if run.unread else ""
    raise Unable(f"no metric says how long a step takes: {', '.join(metrics)} ({told}){unread}")


def whole_time_s(plan: Plan) -> float:
    """Seconds of a whole training; 0 where nobody says."""
    metrics = plan.run.metrics
    return float(metrics.get("time_to_train_min", 0) * 60 or metrics.get("chip_hours", 0) * 3600 / plan.num_chips)


def whole_steps(plan: Plan, length: int) -> float:
    """Steps of a whole training, as conventions.toml says or by the tokens or steps that the source's notes name; 0 where nobody says."""
    entry = next((entry for entry in table("conventions.toml")["whole"] if entry["id"] == plan.run.id), {})
    tokens = entry.get("tokens") or whole("tokens", plan.run.notes)
    return float(entry.get("steps") or tokens / (replicas_batch(plan) * length) or whole("steps", plan.run.notes))


def share_of_peak(plan: Plan, measured_s: float | None) -> float:
    """Of the chips' peak that a step's products would take in that time; 0 where it is not known. Adapters leave out some of them."""
    known = load_chip(plan.chip).get(f"peaks.matrix.{plan.options['dtype']}")
    if not known or not measured_s or plan.options.get("lora_rank"):
        return 0.0
    return maxtext(plan.options, 0.0) * replicas_batch(plan) / (measured_s * plan.num_chips * float(known))


def direct(plan: Plan) -> dict[str, float]:
    """Seconds of a step by each metric of the run that gives them without a count of FLOP, the most direct first."""
    metrics, batch = plan.run.metrics, int(plan.run.number("global_batch") or 0) or replicas_batch(plan)
    found = {}
    if "step_time_s" in metrics:
        found["step_time_s"] = float(metrics["step_time_s"])
    if "tokens_per_s_per_chip" in metrics:
        tokens = batch * int(plan.options["seq"])
        found["tokens_per_s_per_chip"] = tokens / (metrics["tokens_per_s_per_chip"] * plan.num_chips)
    if "samples_per_s" in metrics:
        found["samples_per_s"] = batch / metrics["samples_per_s"]
    return found


def replicas_batch(plan: Plan) -> int:
    """Sequences of a step, by what the plan runs."""
    inner = plan.options.get("tp", 1) * plan.options.get("pp", 1) * plan.options.get("cp", 1)
    return int(plan.options["micro_batches"] * plan.options["micro_batch"] * (plan.num_chips // inner))


def by_flop(plan: Plan, counted: Mapping[str, Any]) -> float:
    """From a rate, by the source's own way to count."""
    value = plan.run.metrics[counted["metric"]]
    total = FORMULAS[counted["formula"]](plan.options, plan.run.number("params_b") or 0.0) * replicas_batch(plan)
    if counted["metric"] == "tflops_per_chip":
        rate = value * 1e12
    elif value > 100:
        raise Unable(f"an MFU of {value:g}% is more than all of the peak")
    else:
        rate = (value if value < 1 else value / 100) * peak(plan, counted)
    return total / (rate * plan.num_chips)


def peak(plan: Plan, entry: Mapping[str, Any]) -> float:
    """FLOP/s of one chip that the source's MFU is a share of: as its entry says, else the dense peak of the run's dtype."""
    known = entry.get("peak") or load_chip(plan.chip).get(f"peaks.matrix.{plan.options['dtype']}")
    if not known:
        raise Unable(f"only mfu is printed, and the peak of {plan.chip} in {plan.options['dtype']} is unknown")
    return float(known)


Options = Mapping[str, Any]


def megatron_hardware(o: Options, params_b: float) -> float:
    """FLOP per sequence with every layer's forward done twice: 96 s l h^2 (1 + s/6h + V/16lh), arXiv 2104.04473 section 5.1."""
    s, layers, h, v = o["seq"], o["layers"], o["hidden"], o["vocab"]
    return float(96.0 * s * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h)))


def megatron_model(o: Options, params_b: float) -> float:
    """FLOP per sequence without recomputation: 72 s l h^2 (1 + s/6h + V/12lh), arXiv 2205.05198 appendix A."""
    s, layers, h, v = o["seq"], o["layers"], o["hidden"], o["vocab"]
    return float(72.0 * s * layers * h**2 * (1 + s / (6 * h) + v / (12 * layers * h)))


def six_n(o: Options, params_b: float) -> float:
    """6 per parameter; where the source does not say how many there are, per weight of a product."""
    return float(6e9 * params_b * o["seq"]) or maxtext({**o, "seq": 1}, 0.0) * o["seq"]


def maxtext(o: Options, params_b: float) -> float:
    """6 per weight of every product that a token passes, the head's included, and attention in full: 12 l s^2 heads d."""
    d = o.get("head_dim") or o["hidden"] // o["heads"]
    parts = 3 if o["gated"] else 2
    routed = sum(
        bool(o.get("experts")) and layer >= o.get("dense_layers", 0) and (layer + 1) % o.get("routed_every", 1) == 0
        for layer in range(o["layers"])
    )
    ffn = (o["layers"] - routed) * o["ffn"]
    ffn += routed * (o["chosen"] * o["expert_ffn"] + o.get("shared_ffn", 0)) if routed else 0
    weights = o["layers"] * o["hidden"] * d * (2 * o["heads"] + 2 * o["kv_heads"])
    weights += parts * o["hidden"] * ffn + o["hidden"] * o["vocab"]
    return float(6.0 * weights * o["seq"] + 12.0 * o["layers"] * o["seq"] ** 2 * o["heads"] * d)


def recounted(o: Options, params_b: float) -> float:
    """As `maxtext`, and a layer's forward once more where it is recomputed."""
    again = 4 / 3 if o["recompute"] in ("full", "core") else 1.0
    return maxtext(o, params_b) * again


FORMULAS: Mapping[str, Callable[[Options, float], float]] = {
    "megatron_hardware": megatron_hardware, "megatron_model": megatron_model, "six_n": six_n, "maxtext": maxtext,
    "recounted": recounted,
}  # fmt: skip
