"""A run is the same however its source spells it, and its blanks are filled as its trainer's documentation says."""

import pytest

from accuracy.plan import plan
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
    ("torchtune", "full", 2), ("LLaMA Factory (DeepSpeed ZeRO-3)", "full", 1), ("XTuner", "full", 8), ("HF Trainer + DeepSpeed ZeRO-3", "none", 1),
])  # fmt: skip
def test_trainers_recompute_as_they_do_unless_told_otherwise(framework, recompute, micro_batch):
    """Those that name DeepSpeed, too: its rule said that nothing is."""
    found = options(**FREE | {"framework": framework, "global_batch": "256"})
    assert (found["recompute"], found["micro_batch"]) == (recompute, micro_batch)


@pytest.mark.parametrize(("framework", "stage"), [
    ("Axolotl (DeepSpeed ZeRO-2)", "gradients"), ("HF Trainer + DeepSpeed ZeRO-3", "fsdp"), ("optimum-habana (DeepSpeed ZeRO-3)", "fsdp"), ("NeMo 2.0 FSDP", "fsdp"),
])  # fmt: skip
def test_a_stage_that_the_framework_s_column_says_is_not_filled(framework, stage):
    """Rules of frameworks in files that come later had the last word: optimum-habana's ZeRO-3 was DDP."""
    assert options(**FREE | {"framework": framework, "chips": "4", "global_batch": "64"})["sharding"] == stage


@pytest.mark.parametrize(("columns", "rank"), [
    ({"notes": "LoRA fine-tuning, rank 8"}, 8), ({"notes": "LoRA"}, 16), ({"model": "Llama 3 8B (LoRA)", "notes": "r=64"}, 64),
    ({"notes": "q-lora-rank=1536"}, None), ({"model": "unsloth/llama-3-8b-bnb-4bit", "framework": "Unsloth"}, 16),
    ({"dtype": "4-bit (QLoRA)"}, 16), ({"model": "Llama 3 8B DoRA"}, 16),
])  # fmt: skip
def test_adapters_are_known_wherever_they_are_named(columns, rank):
    """Of a row whose notes say LoRA the whole model was trained, on 124 GiB of 79."""
    assert options(**FREE | {"framework": "LLaMA-Factory"} | columns).get("lora_rank") == rank


@pytest.mark.parametrize(("recompute", "times"), [("none", 1.0), ("full", 4 / 3)])
def test_who_counts_the_forward_twice_is_known(recompute, times):
    row = {"framework": "GPT-NeoX", "metric": "tflops_per_chip", "value": "118", "recompute": recompute}
    plain = {**row, "framework": "torchtitan"}
    assert step_time_s(plan(run_of(**row))) == pytest.approx(times * step_time_s(plan(run_of(**plain))), rel=0.05)


@pytest.mark.parametrize(("text", "framework", "kind"), [
    ("minimal_with_context", "MaxText", "none"), ("checkpoint_dots", "EasyLM (JAX)", "none"), ("save_qkv_proj", "MaxText", "core"),
    ("--recompute-activations", "Megatron-LM", "attention"), ("op-level SAC", "torchtitan", "ops"),
    ("unsloth", "Unsloth", "full"),
])  # fmt: skip
def test_words_for_what_is_recomputed(text, framework, kind):
    chip = "TPU v5p" if framework in ("MaxText", "EasyLM (JAX)") else "H100"
    assert options(chip=chip, framework=framework, recompute=text, tp="1")["recompute"].partition(":")[0] == kind


def test_llm_c_s_numbers_are_what_it_means_by_them():
    """Its 1 is GELU alone; read as yes, whole layers were computed again."""
    for framework, kind in (("llm.c", "none"), ("Megatron-LM", "full")):
        assert options(framework=framework, recompute="1")["recompute"] == kind


def test_a_share_of_the_layers_is_recomputed_as_said():
    """ "selective AC 1/3", as fms-fsdp has it, was of attention alone in every layer."""
    for text, count in (
        ("selective AC 1/3", 11),
        ("1/2", 16),
        ("full, block, 4 layers", 4),
        ("recompute-num-layers 4, recompute-method block", 4),
    ):
        assert options(recompute=text)["recompute_layers"] == count


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


@pytest.mark.parametrize(("framework", "like"), [
    ("PyTorch FSDP with CUDA graphs", "PyTorch FSDP"), ("PyTorch DDP, NCCL all-reduce", "PyTorch DDP"), ("TRL on NVIDIA H100", "TRL"),
    ("HuggingFace Accelerate (AMD Instinct MI300X)", "HuggingFace Accelerate"), ("Transformers on CUDA 12.1 with FSDP", "Transformers with FSDP"),
    ("In-house Megatron-DeepSpeed", "Megatron-DeepSpeed"), ("Custom Megatron-Core", "Megatron-Core"),
])  # fmt: skip
def test_words_beside_a_framework_leave_it_what_it_is(framework, like):
    """Without the blank behind it FSDP was FSDPgraphs, which no rule knew."""
    one, other = (options(**FREE | {"framework": name}) for name in (framework, like))
    assert [one.get(name) for name in ("sharding", "micro_batch", "separate")] == [
        other.get(name) for name in ("sharding", "micro_batch", "separate")
    ]


@pytest.mark.parametrize(("columns", "rank"), [
    ({"model": "DeepSeek-R1-Distill-Llama-8B (LoRA)"}, 16), ({"notes": "LoRA; driver R535"}, 16), ({"notes": "LoRA not used; full fine-tuning"}, None),
    ({"notes": "full; LoRA: no"}, None), ({"notes": "lora = false"}, None), ({"notes": "Full fine-tuning. LoRA takes 3x less"}, None),
])  # fmt: skip
def test_a_rank_is_a_number_beside_adapters_and_a_denial_is_none(columns, rank):
    assert options(**FREE | {"framework": "LLaMA-Factory", "layers": "32"} | columns).get("lora_rank") == rank


@pytest.mark.parametrize(
    ("framework", "times"), [("Megatron-LM + ZeRO-1", 1.0), ("NeMo 2.0 (ZeRO-1)", 1.0), ("DeepSpeed ZeRO-3", 4 / 3)]
)
def test_who_splits_state_does_not_count_otherwise_for_that(framework, times):
    row = {"metric": "tflops_per_chip", "value": "118", "recompute": "full"}
    one, other = (step_time_s(plan(run_of(**row, framework=name))) for name in (framework, "torchtitan"))
    assert one / other == pytest.approx(times, rel=0.05)


@pytest.mark.parametrize(("column", "text", "value"), [
    ("recompute", "selective, 8 of 32 layers", "attention"), ("recompute", "no recompute in 8 of 32 layers", "none"), ("recompute", "full except 2 of 32 layers", "full"),
    ("dtype", "bf16 (bnb 8-bit Adam)", "bf16"), ("dtype", "bf16, 4-bit optimizer", "bf16"), ("zero_or_fsdp", "dp_shard=1", "ddp"),
    ("zero_or_fsdp", "no FSDP, dp_shard=1", "ddp"), ("zero_or_fsdp", "dp_shard 32 dp_replicate 8", "fsdp"),
])  # fmt: skip
def test_words_that_look_like_others(column, text, value):
    found = options(**{column: text})
    assert found["sharding" if column == "zero_or_fsdp" else column] == value


@pytest.mark.parametrize("text", ["350 (ms)", "1.1 (k)", "312T"])
def test_what_stands_behind_a_number_is_no_unit_that_is_dropped(text):
    assert run_of(value=text).metrics == {}


@pytest.mark.parametrize("notes", ["no Ulysses, ring attention", "ring instead of Ulysses"])
def test_a_ring_is_no_ulysses(notes):
    assert "cp_comm_type" not in options(framework="Megatron-LM", cp="4", chips="64", notes=notes)


def test_notes_that_list_no_flags_say_nothing_of_them():
    plain, said = (
        options(framework="MindSpeed-LLM", chip="Ascend 910B2", notes=notes)
        for notes in ("", "end-to-end throughput, state-of-the-art")
    )
    assert plain == said
