"""Models whose layers are each one thing only: as large as their publishers say, folded as they are, with the kernels of their mixers."""

import sys
from collections import Counter

import pytest
import torch

from accuracy import fold, hybrid
from accuracy.fold import points
from accuracy.plan import argv_of, plan
from accuracy.recorder import HYBRID, Job
from accuracy.reference import __main__ as reference
from accuracy.reference import model as modules
from accuracy.reference.layout import layout_of
from accuracy.runner import priced
from anychip.cost import work
from anychip.record import Kind
from anychip.spec import load_chip
from tests.published.runs import NAMED_ONLY, run_of

SHAPE = {"hidden": 1024, "heads": 8, "kv_heads": 2, "head_dim": 128, "ffn": 4096, "vocab": 32000, "seq": 2048, "position": "none",
         "fusion": True, "recompute": "none", "sharding": "optimizer", "steps": 2, "mamba_heads": 32, "mamba_groups": 4}  # fmt: skip
ROUTED = {
    "experts": 8,
    "chosen": 2,
    "expert_ffn": 1024,
    "shared_ffn": 2048,
    "latent": 256,
    "mtp_pattern": "*E",
    "ep": 2,
}


def recorded(recorder, num_chips=1, **options):
    return recorder.program(Job(argv_of({**SHAPE, **options}), num_chips, HYBRID))


def step(recorder, num_chips=1, **options):
    return priced(recorded(recorder, num_chips, **options), load_chip("nvidia-h100-sxm"))


# What their publishers print: https://huggingface.co/nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 (31.6), arXiv:2604.12374 (120.6).
@pytest.mark.parametrize(("name", "billions"), [
    ("Nemotron-H 56B", 56), ("Nemotron 3 Nano 30B-A3B", 31.6), ("Nemotron 3 Super", 120.6), ("Nemotron 3 Ultra", 550)
])  # fmt: skip
def test_a_hybrid_model_has_as_many_parameters_as_it_should(monkeypatch, name, billions):
    found = plan(run_of(model=name, **NAMED_ONLY))
    assert found.program == HYBRID
    monkeypatch.setattr(sys, "argv", ["hybrid", *argv_of(found.options)])
    own, rest = hybrid.options()
    monkeypatch.setattr(sys, "argv", ["hybrid", *rest])
    monkeypatch.setattr(modules, "Layer", hybrid.Layer)
    monkeypatch.setattr(hybrid, "OWN", own)
    args = reference.arguments()
    stages = reference.build(args, layout_of(args), torch.device("meta"))
    assert sum(p.numel() for stage in stages for p in stage.parameters()) / 1e9 == pytest.approx(billions, rel=0.02)


def test_each_kind_of_layer_is_recorded_apart():
    options = {
        **SHAPE,
        **ROUTED,
        "pattern": "MEM*E",
        "layers": 50,
        "micro_batches": 16,
        "mtp": 2,
        "bf16_layers": 5,
        "dtype": "fp4",
    }
    found = points(options)
    assert sum(point.weight for point in found) == pytest.approx(1.0)
    shares = Counter()
    for point in found:
        if not point.options.get("mtp") and point.options["layers"] > 2:
            shares[point.options["pattern"], point.options["dtype"]] += point.weight
    assert {len(point.options["pattern"]) for point in found} == {1}
    assert not any("experts" in point.options for point in found if point.options["pattern"] != "E")
    assert {kind for kind in shares if kind[0] == "M"} == {("M", "fp4"), ("M", "bf16")}
    # once more for each micro-batch: two layers with what predicts more, less two without
    assert sum(point.weight for point in found if point.options.get("mtp")) == pytest.approx(1.0)


@pytest.mark.slow
def test_folded_is_as_unfolded(recorder):
    whole = {**SHAPE, "pattern": "M-M*", "layers": 24, "micro_batches": 4}
    exact = step(recorder, **whole)
    found = sum(one.weight * step(recorder, **one.options).time_s for one in points(whole))
    assert found == pytest.approx(exact.time_s, rel=2e-3)


@pytest.mark.slow
def test_what_predicts_more_is_folded_too(recorder, monkeypatch):
    monkeypatch.setattr(fold, "FEW_PASSES", 0)
    # So long that the chip is what takes time: a host that runs ahead in layers of one kind is late in none of another.
    whole = {**SHAPE, **ROUTED, "seq": 8192, "pattern": "ME", "layers": 12, "micro_batches": 4, "mtp": 2}
    exact = step(recorder, 2, **whole)
    found = sum(one.weight * step(recorder, 2, **one.options).time_s for one in points(whole))
    assert found == pytest.approx(exact.time_s, rel=0.01)


def test_the_mixer_runs_the_kernels_of_mamba_ssm_on_its_share_of_heads(recorder):
    program = recorded(
        recorder, 2, pattern="M*-", layers=3, tp=2, sequence_parallel=True, dtype="fp8", mamba_heads=128
    ).ranks[0]
    launched = Counter(program.ops[index].name for index in program.payloads[program.kinds == Kind.OP].tolist())
    # twice each step, of which there are two: the backward makes the states again
    assert launched["custom.mamba_ssm.chunk_state"] == 4
    assert launched["custom.mamba_ssm.chunk_scan"] == 2
    scan = next(op for op in program.ops if op.name == "custom.mamba_ssm.chunk_state")
    # 64 of 128 heads, 16 chunks of 128 tokens, [64, 128] states
    assert work(scan).flop == 2 * 64 * 16 * 64 * 128 * 128
