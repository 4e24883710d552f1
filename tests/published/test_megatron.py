"""megatron-core itself and the reference transformer forecast one and the same run within 3%."""

import subprocess
import sys
from fnmatch import fnmatch

import pytest

from accuracy import megatron
from accuracy.fold import points
from accuracy.plan import Plan, argv_of, programmed
from accuracy.recorder import HERE, STANDINS, Job
from accuracy.rows import Run
from accuracy.runner import priced
from anychip.spec import load_chip

NAME = "accuracy.megatron"
AGREEMENT = 0.03
# A layer's work is most of a step, so that its parts are compared; a small vocabulary, for of the loss the reference makes
# one kernel where Megatron launches ten.
SHAPE = {"layers": 4, "hidden": 2048, "heads": 16, "kv_heads": 16, "ffn": 8192, "vocab": 4096, "seq": 2048, "micro_batch": 2,
         "micro_batches": 2, "fusion": True, "reduce": "fp32", "sharding": "ddp", "norm": "layer", "position": "learned",
         "bias": True, "recompute": "none", "steps": 2}  # fmt: skip
LLAMA = {"gated": True, "bias": False, "kv_heads": 4, "norm": "rms", "position": "rope", "ffn": 5632}
EXPERTS = {**LLAMA, "ffn": 2048, "experts": 4, "chosen": 2, "expert_ffn": 2048, "fused_loss": True}
SPLIT = {"tp": 2, "sequence_parallel": True}
RUNS = {
    "dense": (1, {}),
    "tensor parallel": (2, {"tp": 2}),
    "sequence parallel": (2, {**LLAMA, **SPLIT, "fused_loss": True}),
    "products beside communication": (2, {**LLAMA, **SPLIT, "pieces": 4}),
    "grouped queries": (1, LLAMA),
    "a window": (1, {**LLAMA, "attention": "cudnn", "window": 128}),
    "context parallel": (2, {**LLAMA, "cp": 2, "attention": "cudnn"}),
    "pipeline": (2, {**LLAMA, "pp": 2, "micro_batches": 4}),
    "interleaved": (2, {**LLAMA, "pp": 2, "vp": 2, "micro_batches": 4}),
    "experts": (2, {**EXPERTS, "ep": 2}),
    "what experts activate again": (2, {**EXPERTS, "ep": 2, "recompute": "activations"}),
    "recompute all": (1, {"recompute": "full"}),
    "recompute attention": (1, {"recompute": "attention"}),
    "FP8": (1, {**LLAMA, "dtype": "fp8", "seq": 4096}),
    "attention by products": (1, {"attention": "products", "dropout": 0.1}),
    "gradients added apart": (1, {"adds_apart": True}),
    "gradients of experts added apart": (2, {**EXPERTS, "ep": 2, "adds_apart": True}),
}

needs_megatron = pytest.mark.skipif(not megatron.installed(), reason="megatron-core is not installed: `make megatron`")


def forecast(recorder, module, num_chips, options):
    return priced(recorder.program(Job(argv_of(options), num_chips, module)), load_chip("nvidia-h100-sxm"))


@needs_megatron
@pytest.mark.parametrize("name", RUNS)
def test_both_programs_agree(recorder, name):
    num_chips, more = RUNS[name]
    options = {**SHAPE, **more}
    assert megatron.unable(options) is None
    theirs, ours = (forecast(recorder, module, num_chips, options) for module in (NAME, Plan.program))
    assert theirs.time_s == pytest.approx(ours.time_s, rel=AGREEMENT)
    assert theirs.peak_bytes == pytest.approx(ours.peak_bytes, rel=0.15)


@needs_megatron
@pytest.mark.parametrize(
    "more", [{"layers": 32, "micro_batches": 20}, {"layers": 32, "pp": 4, "vp": 2, "micro_batches": 16}]
)
def test_folded_is_as_unfolded(recorder, more):
    whole = {**SHAPE, **LLAMA, "hidden": 1024, "heads": 8, "ffn": 2816, **more}
    folded = [(one.weight, forecast(recorder, NAME, one.options.get("pp", 1), one.options)) for one in points(whole, 0)]
    assert len(folded) > 1
    exact = forecast(recorder, NAME, whole.get("pp", 1), whole)
    assert sum(weight * one.time_s for weight, one in folded) == pytest.approx(exact.time_s, rel=0.01)


@needs_megatron
def test_recordings_are_kept_by_the_text_of_the_stand_ins_that_it_imports(tmp_path):
    """Any new stand-in voided hours of recordings: their key had the text of all."""
    code = (
        "import pathlib, sys; from accuracy.recorder import MORE, installed, warm\n"
        "installed(1, pathlib.Path(sys.argv[2])); warm(); warm(MORE[sys.argv[1]])\n"
        "print(*(name for name in sys.modules if name.startswith('anychip.standins.libraries.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, NAME, str(tmp_path)], cwd=HERE.parent, capture_output=True, text=True
    )
    imported = {f"{name.rpartition('.')[2]}.py" for name in done.stdout.split()}
    every = {path.name for path in (HERE.parent / "anychip" / "standins" / "libraries").glob("*.py")}
    keyed = {name for name in every if any(fnmatch(name, pattern) for pattern in STANDINS[NAME])}
    # Attention by products imports the softmax of its masks as it runs.
    assert imported == keyed - {"softmax.py"}, done.stderr


def plan_of(**options):
    run = Run("one-001", ("one-001",), {}, {})
    return Plan(run, "nvidia-h100-sxm", 8, {**SHAPE, **options}, ())


def test_a_run_that_megatron_core_cannot_express_says_why():
    told = [{"program": NAME}]
    assert "LoRA" in programmed(plan_of(lora_rank=8), told).instead
    assert "FSDP" in programmed(plan_of(sharding="fsdp"), told).instead
    assert "option separate" in programmed(plan_of(separate=True), told).instead
    assert "FP4" in programmed(plan_of(dtype="fp4"), told).instead
    assert "heads" in programmed(plan_of(kv_heads=24), told).instead
    assert programmed(plan_of(lora_rank=8), told).program == Plan.program
    assert programmed(plan_of(), []) == plan_of()


def test_without_megatron_core_the_reference_runs_and_says_so(monkeypatch):
    monkeypatch.setattr(megatron, "installed", lambda: False)
    found = programmed(plan_of(), [{"program": NAME}])
    assert (found.program, found.instead) == (Plan.program, "megatron-core is not installed")
    monkeypatch.setattr(megatron, "installed", lambda: True)
    assert programmed(plan_of(), [{"program": NAME}]).program == NAME
