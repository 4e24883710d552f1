"""A run is the same however its source spells it, and its blanks are filled as its trainer's documentation says."""

import pytest

from accuracy.plan import plan
from accuracy.said import said
from accuracy.score import Result
from accuracy.truth_of_runs import step_time_s
from tests.published.runs import NAMED_ONLY, run_of

FREE = {"tp": "", "pp": "", "cp": "", "micro_batch": "", "dtype": "bf16"}


def options(**changes):
    return plan(run_of(**changes)).options


@pytest.mark.parametrize(("one", "other"), [
    ({"chip": "NVIDIA H100 SXM", "framework": "NeMo 2.0"}, {"chip": "H100 SXM", "framework": "NeMo 2.0"}),
    ({"chip": "DGX H100", "framework": "NeMo 2.0"}, {"chip": "H100", "framework": "NeMo 2.0"}),
    ({"chip": "NVIDIA B200", "framework": "Megatron-Bridge"}, {"chip": "B200", "framework": "Megatron-Bridge"}),
    ({"chip": "Trillium", "framework": "HF Trainer"}, {"chip": "TPU v6e", "framework": "HF Trainer"}),
    ({"chip": "trn1.32xlarge", "framework": "HF Trainer"}, {"chip": "Trainium1", "framework": "HF Trainer"}),
    ({"framework": "Axolotl (CUDA 12.4)"}, {"framework": "Axolotl"}),
    ({"framework": "HF Trainer (NVIDIA NGC 24.03)"}, {"framework": "HF Trainer"}),
    ({"framework": "PyTorch FSDP (ROCm 6.2)", "chip": "MI300X"}, {"framework": "PyTorch FSDP", "chip": "MI300X"}),
    ({"framework": "torchtitan (ROCm 6.3)", "chip": "MI300X"}, {"framework": "torchtitan", "chip": "MI300X"}),
    ({"framework": "Megatron Bridge"}, {"framework": "Megatron-Bridge"}),
    ({"framework": "nemo 25.02"}, {"framework": "NeMo 25.02"}),
    ({"framework": "LLaMA Factory"}, {"framework": "LLaMA-Factory"}),
    ({"framework": "GPT NeoX"}, {"framework": "GPT-NeoX"}),
    ({"framework": "In-house Megatron-LM"}, {"framework": "Megatron-LM"}),
])  # fmt: skip
def test_it_is_one_run_however_it_is_spelled(one, other):
    """Rules looked for their chip in the source's words alone, and a container's name made a trainer Megatron's."""
    first, second = (plan(run_of(**FREE | {"sequence_parallel": ""} | spelled)) for spelled in (one, other))
    assert first.options == second.options
    assert first.chip == second.chip
    assert first.rules == second.rules


@pytest.mark.parametrize(("framework", "recompute", "micro_batch"), [
    ("LLaMA-Factory", "full", 8), ("ms-swift", "full", 1), ("TRL SFTTrainer", "full", 8), ("Unsloth", "full", 8), ("Axolotl", "none", 8),
    ("torchtune", "full", 2),
])  # fmt: skip
def test_trainers_recompute_as_they_do_unless_told_otherwise(framework, recompute, micro_batch):
    found = options(**FREE | {"framework": framework, "global_batch": "256"})
    assert (found["recompute"], found["micro_batch"]) == (recompute, micro_batch)


@pytest.mark.parametrize(
    ("framework", "stage"), [("Axolotl (DeepSpeed ZeRO-2)", "gradients"), ("HF Trainer + DeepSpeed ZeRO-3", "fsdp")]
)
def test_a_stage_that_the_framework_s_column_says_is_not_filled(framework, stage):
    assert options(**FREE | {"framework": framework, "chips": "4", "global_batch": "64"})["sharding"] == stage


@pytest.mark.parametrize(("columns", "rank"), [
    ({"notes": "LoRA fine-tuning, rank 8"}, 8), ({"notes": "LoRA"}, 16), ({"model": "Llama 3 8B (LoRA)", "notes": "r=64"}, 64),
    ({"notes": "q-lora-rank=1536"}, None), ({"model": "unsloth/llama-3-8b-bnb-4bit", "framework": "Unsloth"}, 16),
])  # fmt: skip
def test_adapters_are_known_wherever_they_are_named(columns, rank):
    """Of a row whose notes say LoRA the whole model was trained, on 124 GiB of 79."""
    assert options(**FREE | {"framework": "LLaMA-Factory"} | columns).get("lora_rank") == rank


@pytest.mark.parametrize(("recompute", "times"), [("none", 1.0), ("full", 4 / 3)])
def test_who_counts_the_forward_twice_is_known(recompute, times):
    row = {"framework": "GPT-NeoX", "metric": "tflops_per_chip", "value": "118", "recompute": recompute}
    plain = {**row, "framework": "PyTorch FSDP"}
    assert step_time_s(plan(run_of(**row))) == pytest.approx(times * step_time_s(plan(run_of(**plain))), rel=0.05)


@pytest.mark.parametrize(("text", "framework", "kind"), [
    ("minimal_with_context", "MaxText", "none"), ("checkpoint_dots", "EasyLM (JAX)", "none"), ("save_qkv_proj", "MaxText", "core"),
    ("--recompute-activations", "Megatron-LM", "attention"), ("op-level SAC", "torchtitan", "ops"),
    ("unsloth", "Unsloth", "full"),
])  # fmt: skip
def test_words_for_what_is_recomputed(text, framework, kind):
    chip = "TPU v5p" if framework in ("MaxText", "EasyLM (JAX)") else "H100"
    assert options(chip=chip, framework=framework, recompute=text, tp="1")["recompute"].partition(":")[0] == kind


def test_some_of_the_layers_are_recomputed_as_said():
    assert options(framework="Megatron-LM", recompute="full (8 of 32 layers)", tp="1")["recompute_layers"] == 8


@pytest.mark.parametrize(("name", "chip"), [
    ("Ascend 910_93", "huawei-ascend-910c"), ("Ascend910_9391", "huawei-ascend-910c"), ("Ascend910B2C", "huawei-ascend-910b2"),
    ("trn2u", "aws-trainium2"), ("Ascend 910C (one die)", "huawei-ascend-910c-die"),
])  # fmt: skip
def test_chips_by_their_makers_other_names(name, chip):
    assert plan(run_of(chip=name)).chip == chip


@pytest.mark.parametrize(
    ("name", "params_b", "layers"),
    [("allenai/OLMo-2-1124-7B", "", 32), ("allenai/OLMo-2-0325-32B", "", 64), ("GPT-J", "", 28)],
)
def test_models_by_the_names_of_their_hub(name, params_b, layers):
    assert options(**NAMED_ONLY | {"model": name, "params_b": params_b})["layers"] == layers


def test_a_sequence_that_ulysses_splits_is_exchanged_for_heads():
    assert options(framework="Megatron-DeepSpeed + Ulysses", cp="4", chips="64")["cp_comm_type"] == "a2a"
    assert "cp_comm_type" not in options(framework="Megatron-LM", cp="4", chips="64")


def test_a_degree_that_follows_from_the_others_is_there_for_the_rules():
    """Its pipeline was worked out after the rule for models without one had given it micro-batches of four."""
    row = {
        "framework": "Megatron-LM",
        "chips": "256",
        "tp": "8",
        "dp": "8",
        "pp": "",
        "micro_batch": "",
        "global_batch": "512",
    }
    found = options(**row)
    assert (found["pp"], found["micro_batch"]) == (4, 1)


def test_each_chip_s_batch_of_a_compiled_job_is_the_job_s():
    row = {"framework": "MaxText", "chip": "TPU v5p", "chips": "64", "tp": "1", "global_batch": "", "micro_batch": "4"}
    found = options(**row)
    assert found["micro_batch"] * found["micro_batches"] == 4


@pytest.mark.parametrize("text", ["30-32", "30 to 32", "30\u201332"])
def test_a_narrow_range_is_its_middle(text):
    assert run_of(value=text).metrics == {"step_time_s": 31.0}


def test_a_run_that_does_not_fit_as_planned_is_told():
    run = run_of()
    found = Result(run, plan(run), forecast_s=8.0, peak_bytes=100 * 2**30)
    assert any("as planned it needs 100 GiB of a chip that has 79.1 GiB" in text for text in said(found))
    assert not said(Result(run, plan(run), forecast_s=8.0, peak_bytes=50 * 2**30))
