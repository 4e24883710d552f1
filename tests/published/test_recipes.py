"""What a run's release, framework or round is known to have done: experts, scales, shards, programs of their own."""

import pytest

from accuracy.plan import plan
from accuracy.reading.columns import forms_of
from accuracy.reading.layout import node_of
from accuracy.reading.tables import Unable
from tests.published.runs import GPT_OSS, NAMED_ONLY, run_of


@pytest.mark.parametrize(
    ("release", "fused"), [("2.7.0a0", False), ("2.9.0.dev20250815", True), ("2.10.0", True), (" ", False)]
)
def test_torchtitan_compiles_its_loss_since_april_2025(release, fused):
    assert plan(run_of(framework="torchtitan", notes=f"torch {release}; median")).options["fused_loss"] is fused


@pytest.mark.parametrize(("text", "framework", "kind"), [
    ("selective AC", "torchtitan", "ops"), ("selective", "Megatron-LM", "attention"), ("selective (core attention)", "torchtitan", "attention"),
])  # fmt: skip
def test_selective_is_what_a_trainer_means_by_it(text, framework, kind):
    """torchtitan's tables say "selective AC", and it recomputed attention alone."""
    assert plan(run_of(framework=framework, recompute=text)).options["recompute"] == kind


@pytest.mark.parametrize(("framework", "micro_batch", "notes", "found"), [
    ("torchtitan", "32", "1F1B", (2, 16, 1)), ("torchtitan", "32", "Interleaved 1F1B", (2, 16, 2)), ("torchtitan", "2", "", (2, 16, 1)), ("Megatron-LM", "32", "", (32, 1, 1)),
])  # fmt: skip
def test_torchtitan_s_local_batch_is_what_a_pipeline_cuts(framework, micro_batch, notes, found):
    """Llama 3.1 405B's of 32 sequences was one micro-batch, so that 15 stages of 16 waited."""
    layout = {"chips": "512", "tp": "8", "pp": "16", "global_batch": "128", "model": "Llama 3.1 405B", "layers": "126", "hidden": "16384", "heads": "128"}  # fmt: skip
    o = plan(run_of(framework=framework, micro_batch=micro_batch, notes=notes, **layout)).options
    assert (o["micro_batch"], o["micro_batches"], o.get("vp", 1)) == found


def test_adapters_are_where_the_notes_say():
    lora = {"framework": "LitGPT (PyTorch)", "model": "Llama 2 7B LoRA fine-tuning", **NAMED_ONLY}
    found = plan(run_of(notes="LoRA rank 32 on query+value; AdamW", **lora))
    assert (found.options["lora_rank"], found.options["lora_on"]) == (32, "qkv")
    assert found.holds == {"loss_chunks": 4, "kept_logits": True}
    found = plan(run_of(notes="LoRA rank 8 on query+key+value+projection+mlp+head", **lora))
    assert (found.options["lora_rank"], "lora_on" in found.options) == (8, False)


QWEN3 = {**GPT_OSS, "model": "Qwen3 30B-A3B", "layers": "48", "hidden": "2048", "heads": "32", "kv_heads": "4", "ffn": "768",
         "vocab": "151936", "chips": "8", "global_batch": "512"}  # fmt: skip


@pytest.mark.parametrize(("row", "release", "chip", "dtype", "ways"), [
    (GPT_OSS, "26.02", "GB200", "bf16", ("experts", False, "cudnn")),
    (GPT_OSS, "26.04", "GB200", "bf16", ("ranks", False, "cudnn")),
    (GPT_OSS, "26.04", "GB300", "bf16", ("experts", False, "cudnn")),
    (GPT_OSS, "26.04.01", "GB200", "bf16", ("experts", False, "cudnn")),
    (GPT_OSS, "26.04.01", "B300 SXM", "bf16", ("ranks", False, "cudnn")),
    (GPT_OSS, "26.06", "GB200", "mxfp8", ("ranks", True, "cudnn8")),
    (GPT_OSS, "26.06", "B300 SXM", "mxfp8", ("ranks", False, "cudnn")),
    (QWEN3, "25.09", "GB200", "fp8-cs", ("experts", False, "cudnn")),
    (QWEN3, "25.11", "GB200", "fp8-mx", ("ranks", False, "cudnn")),
    (QWEN3, "25.11", "B200 SXM 180GB", "fp8-mx", ("experts", False, "cudnn")),
    (QWEN3, "26.02", "B200 SXM 180GB", "mxfp8", ("experts", False, "cudnn")),
    (QWEN3, "26.02.01", "B200 SXM 180GB", "mxfp8", ("ranks", False, "cudnn")),
    (QWEN3, "26.02", "H100 SXM 80GB", "fp8", ("ranks", False, "cudnn")),
    (QWEN3, "26.06", "B200 SXM 180GB", "mxfp8", ("ranks", False, "cudnn")),
    (QWEN3, "26.06", "B300 SXM", "mxfp8", ("ranks", True, "cudnn8")),
    (QWEN3, "26.08", "B200 SXM 180GB", "mxfp8", ("ranks", True, "cudnn8")),
])  # fmt: skip
def test_what_a_release_did_with_experts_on_a_chip_is_its_recipe(row, release, chip, dtype, ways):
    place = f"{release} NeMo Container / Pre-Training Performance"
    options = plan(run_of(**{**row, "chip": chip, "dtype": dtype, "source_location": place})).options
    assert (options.get("dispatch", "experts"), options.get("graph", False), options["attention"]) == ways
    assert options["position"] == ("rope_complex" if row is GPT_OSS else "rope")


@pytest.mark.parametrize(("row", "chip", "dtype", "again"), [
    (GPT_OSS, "GB200", "bf16", "activations"), (GPT_OSS, "B200 SXM 180GB", "bf16", "activations"),
    (GPT_OSS, "H100 SXM 80GB", "bf16", "activations"), (GPT_OSS, "GB300", "bf16", "none"), (GPT_OSS, "B300 SXM", "bf16", "none"),
    (GPT_OSS, "GB200", "mxfp8", "none"), (QWEN3, "GB200", "bf16", "none"),
])  # fmt: skip
def test_where_memory_is_short_experts_of_eager_kernels_compute_what_they_activate_again(row, chip, dtype, again):
    place = "26.02 NeMo Container / Pre-Training Performance"
    found = plan(run_of(**{**row, "chip": chip, "dtype": dtype, "source_location": place, "recompute": ""}))
    assert found.options["recompute"] == again
    assert "recompute" in found.filled
    said = plan(
        run_of(**{**row, "chip": chip, "dtype": dtype, "source_location": place, "recompute": "moe_act, layernorm"})
    )
    assert (said.options["recompute"], "recompute" in said.filled) == ("activations", False)


@pytest.mark.parametrize(("chip", "chips", "ep", "node"), [
    ("GB200", 64, 64, 64),  # of the rack's 72
    ("GB200", 64, 16, 16), ("B300 SXM", 64, 8, 8), ("B300 SXM", 64, 64, 8), ("H100 SXM 80GB", 1024, 64, 8),
    ("GB200", 192, 48, 16),  # of three racks: some of these groups lie in two
])  # fmt: skip
def test_ranks_of_one_scale_up_domain_are_one_place_to_send_to(chip, chips, ep, node):
    assert node_of(plan(run_of(**{**GPT_OSS, "chip": chip})).chip, None, chips, ep) == node


def test_heads_of_a_source_have_keys_of_their_own_where_those_of_the_model_have():
    """The paper's 22B has 64 heads; a run that says 48 has as many of keys."""
    gpt = {"model": "GPT 22B", "layers": "48", "hidden": "6144", "seq_len": "2048", "tp": "8", "chips": "8", "ffn": "",
           "framework": "Megatron-DeepSpeed on ROCm", "chip": "MI250X", "kv_heads": "", "vocab": ""}  # fmt: skip
    assert plan(run_of(**{**gpt, "heads": "48"})).options["kv_heads"] == 48
    assert plan(run_of(**{**gpt, "heads": ""})).options["kv_heads"] == 64
    assert plan(run_of(**{**gpt, "heads": "32", "hidden": "4096"})).options["ffn"] == 4 * 4096


def test_zero_3_of_another_framework_is_not_that_of_2021():
    """Attention written out and dropout are the SC21 paper's, not of whoever uses DeepSpeed."""
    options = plan(run_of(framework="LLaMA-Factory (DeepSpeed ZeRO-3)", zero_or_fsdp="ZeRO-3")).options
    assert (options["attention"], options["dropout"], options["sharding"]) == ("flash", 0.0, "fsdp")


@pytest.mark.parametrize(("framework", "dtype", "recipe"), [
    ("Megatron-Bridge (Megatron-Core)", "fp8-cs", "current"),
    ("Megatron-Bridge (Megatron-Core)", "fp8", "current"),
    ("NeMo 25.04", "fp8 (per-tensor current scaling)", "current"),
    ("NeMo 24.07", "fp8", "tensor"),
    ("torchtitan", "fp8 (float8 tensorwise linears)", "current"),
    ("Megatron-Bridge (Megatron-Core)", "mxfp8", "mx"),
    ("Megatron-Bridge (Megatron-Core)", "FP8-SC", "block"),
])  # fmt: skip
def test_scales_of_fp8_are_what_the_source_says(framework, dtype, recipe):
    assert plan(run_of(framework=framework, dtype=dtype)).options["recipe"] == recipe


@pytest.mark.parametrize(("split", "interconnect", "dp", "replicas"), [
    ("FSDP 256 over ICI", "ICI torus in slice; DCN between slices", "4", 4),
    ("FSDP over ICI; data parallel over DCN", "ICI torus; 2 slices joined over DCN", "", 2),
    ("FSDP over ICI", "ICI torus", "", None),
    ("FSDP over ICI and DCN", "ICI torus; 2 slices joined over DCN", "", None),
    ("FSDP2 64", "8x50 GB/s", "4", None),
])  # fmt: skip
def test_each_slice_of_a_tpu_job_holds_all_parameters(split, interconnect, dp, replicas):
    row = {
        "framework": "MaxText (JAX/XLA)",
        "chip": "TPU v5e",
        "chips": "1024",
        "zero_or_fsdp": split,
        "interconnect": interconnect,
    }
    assert plan(run_of(**row, dp=dp, tp="1", global_batch="1024", micro_batch="1")).options.get("replicas") == replicas


SC21 = {"framework": "Megatron-LM", "chip": "A100 SXM 80GB", "micro_batch": "", "global_batch": "512"}


@pytest.mark.parametrize(("pp", "micro_batch"), [("1", 4), ("", 4), ("2", 1)])
def test_a_model_without_a_pipeline_has_micro_batches_of_four(pp, micro_batch):
    found = plan(run_of(**{**SC21, "pp": pp, "chips": "4", "tp": "1"}))
    assert found.options["micro_batch"] == micro_batch
    assert "micro_batch" in found.filled


def test_the_first_zero_3_is_a_program_of_its_own():
    row = {**SC21, "framework": "Megatron-LM + DeepSpeed ZeRO-3", "zero_or_fsdp": "ZeRO-3", "micro_batch": "1"}
    assert plan(run_of(**row, source_location="SC21 Table 2")).program == "accuracy.gathered"
    assert plan(run_of(**row, source_location="a later one")).program == "accuracy.reference"


@pytest.mark.parametrize(("round", "program"), [("v5.1", "accuracy.graphed"), ("v4.0", "accuracy.reference")])
def test_layers_of_mlperf_s_adapters_are_graphs_since_round_5(round, program):
    run = run_of(
        framework="NVIDIA NeMo Framework Release 25.09",
        model="Llama 2 70B (LoRA)",
        notes=f"MLPerf Training {round}",
        tp="4",
    )
    assert plan(run).program == program


def test_frozen_weights_of_four_bits_are_of_a_program_that_makes_them_wide():
    found = plan(
        run_of(model="Llama 3 8B QLoRA", dtype="bf16, base weights bnb.nf4", framework="transformers, peft", tp="1")
    )
    assert (found.program, found.options["frozen_4bit"], found.options["dtype"]) == (
        "accuracy.holding",
        "layers",
        "bf16",
    )
    with pytest.raises(Unable, match="4 bits"):
        plan(run_of(dtype="nf4", tp="1"))


def mindspeed(notes, **changes):
    row = {
        "framework": "ModelLink/MindSpeed-LLM v1.0.RC1.0 (Megatron on torch_npu)",
        "chip": "Ascend 910B",
        "notes": notes,
    }
    return plan(run_of(**{**row, **changes})).options


def test_a_script_s_flags_say_what_is_fused():
    plain = mindspeed("use-flash-attn; use-fused-rmsnorm; swiglu")
    fused = mindspeed(
        "use-flash-attn; use-fused-rmsnorm; use-fused-swiglu; use-fused-rotary-pos-emb; overlap-grad-reduce"
    )
    assert [plain[name] for name in ("eager_act", "eager_rope", "overlap")] == [True, True, False]
    assert [fused[name] for name in ("eager_act", "eager_rope", "overlap")] == [False, False, True]


def test_gradients_are_added_apart_where_the_scripts_say_so():
    assert mindspeed("use-flash-attn")["adds_apart"]
    assert not mindspeed("use-flash-attn", model="Mixtral 8x7B")["adds_apart"]
    assert plan(run_of(framework="Megatron-LM", chip="A100 SXM 80GB", source_location="SC21 Table 1")).options[
        "adds_apart"
    ]
    later = plan(run_of(framework="Megatron-LM", chip="A100 SXM 80GB", source_location="Table 5")).options
    assert (later["adds_apart"], later["reduce"]) == (False, "fp32")
    assert plan(run_of(framework="Megatron-DeepSpeed", chip="A100 SXM 80GB")).options["adds_apart"]
    assert not plan(run_of(framework="Megatron-LM", chip="H100 SXM 80GB")).options["adds_apart"]


def test_gradients_of_fp16_are_kept_in_fp16():
    assert (mindspeed("", dtype="fp16")["reduce"], mindspeed("", dtype="bf16")["reduce"]) == ("fp16", "fp32")


EAGER = {**NAMED_ONLY, "chips": "8", "micro_batch": "", "seq_len": "2048"}


@pytest.mark.parametrize(("framework", "sharding", "fusion", "compiled", "adam"), [
    ("PyTorch FSDP", "fsdp", False, "none", "foreach"),
    ("PyTorch DDP", "ddp", False, "none", "foreach"),
    ("PyTorch Lightning", "fsdp", False, "none", "foreach"),
    ("Hugging Face Trainer (Accelerate)", "ddp", False, "none", "foreach"),
    ("axolotl + DeepSpeed ZeRO-3", "fsdp", False, "none", "fused"),
    ("DeepSpeed ZeRO-2", "gradients", False, "none", "fused"),
    ("DeepSpeed", "optimizer", False, "none", "fused"),
    ("LLM Foundry (Composer)", "fsdp", False, "none", "foreach"),
    ("fms-fsdp (PyTorch FSDP)", "fsdp", False, "layers", "foreach"),
    ("nanotron", "optimizer", True, "none", "fused"),
    ("GPT-NeoX", "optimizer", True, "none", "fused"),
    ("unsloth", "ddp", True, "none", "foreach"),
    ("PyTorch NVIDIA Release 25.04", "optimizer", True, "none", "fused"),  # MLPerf's, which is NeMo
    ("PyTorch", "fsdp", False, "none", "foreach"),  # where the notes do not say MLPerf
    ("PyTorch 2.4 + torch.compile", "fsdp", False, "layers", "foreach"),
    ("HF Trainer + FSDP", "fsdp", False, "none", "foreach"),
    ("MindSpore Transformers", "optimizer", True, "all", "fused"),
    ("llm.c", "ddp", True, "none", "fused"),
    ("Colossal-AI", "fsdp", False, "none", "fused"), ("HAI-LLM", "optimizer", True, "none", "fused"), ("Lit-LLaMA", "fsdp", False, "none", "fused"),
])  # fmt: skip
def test_a_framework_that_no_source_here_used_does_what_its_code_says(framework, sharding, fusion, compiled, adam):
    options = plan(run_of(framework=framework, **EAGER)).options
    found = options["sharding"], bool(options.get("fusion")), options["compile"], options["adam"]
    assert found == (sharding, fusion, compiled, adam)


@pytest.mark.parametrize(("framework", "model", "recompute"), [
    ("Lit-LLaMA", "Llama 7B", "full"), ("Lit-LLaMA", "Llama 7B LoRA", "none"), ("LitGPT", "Llama 7B", "none"), ("Colossal-AI", "Llama 2 7B", "full"),
])  # fmt: skip
def test_a_script_of_a_framework_recomputes_or_does_not(framework, model, recompute):
    """Amber 7B's program keeps a layer's input alone, as Colossal-AI's benchmarks do: both kept all."""
    assert plan(run_of(framework=framework, model=model, **EAGER)).options["recompute"] == recompute


def test_nanogpts_of_today_have_layers_of_today():
    """modded-nanogpt had GPT-2's LayerNorm, biases and learned positions."""
    o = plan(run_of(framework="modded-nanogpt", model="GPT-2 124M", **EAGER)).options
    assert (o["norm"], o["position"], o["bias"], o["gated"]) == ("rms", "rope", False, False)


def test_nemotron_340b_is_interleaved_by_its_authors_too():
    """The paper's own rows waited for a pipeline of twelve whole stages."""
    layout = {"chips": "1536", "tp": "8", "pp": "12", "global_batch": "768"}
    o = plan(run_of(**{**NAMED_ONLY, "framework": "Megatron-Core", "model": "Nemotron-4-340B", **layout})).options
    assert o["vp"] == 8


def test_a_release_in_the_framework_s_name_is_that_of_a_table():
    """Rules of a release were for rows alone whose place in a source names it."""
    places = [
        forms_of(run_of(**columns))["source_location"]
        for columns in (
            {"framework": "Megatron-Bridge 25.11"},
            {"framework": "Megatron-Bridge", "source_location": "25.11 table"},
            {"framework": "PyTorch NVIDIA Release 25.09"},
        )
    ]
    assert places == [("25.11 ",), ("25.11 table",), ("",)]


def test_adapters_on_a_chip_without_bfloat16_are_in_fp16():
    """Unsloth's on T4 were priced as products of 32 bit."""
    row = {
        **NAMED_ONLY,
        "framework": "Unsloth",
        "model": "Llama 3.1 8B",
        "chips": "1",
        "dtype": "4bit",
        "notes": "LoRA r=16",
    }
    assert [plan(run_of(**row | {"chip": chip})).options["dtype"] for chip in ("Tesla T4", "A100")] == ["fp16", "bf16"]


def test_nemo_s_adapters_are_beside_queries_keys_and_values():
    """Without brackets around the word they were beside every product."""
    for model in ("Llama 2 7B (LoRA)", "LLAMA2-7B LoRA"):
        assert plan(run_of(**{**NAMED_ONLY, "framework": "NeMo 24.05", "model": model})).options["lora_on"] == "qkv"


def test_small_models_of_llm_foundry_recompute_nothing():
    small, large = (
        plan(run_of(framework="LLM Foundry", model=name, **EAGER)).options for name in ("MPT-760M", "MPT-7B")
    )
    assert (small["recompute"], large["recompute"]) == ("none", "full")


def test_pytorch_of_mlperf_is_nemo():
    assert plan(run_of(framework="PyTorch", notes="MLPerf Training v4.1", **EAGER)).options["fusion"]


def test_on_a_chip_that_compiles_steps_such_a_framework_is_compiled():
    assert plan(run_of(framework="PyTorch/XLA FSDP", chip="TPU v5p", **EAGER)).options["compile"] == "all"
    assert plan(run_of(framework="Hugging Face Trainer", chip="Gaudi 2", **EAGER)).options["compile"] == "all"
    assert plan(run_of(framework="Megatron-DeepSpeed", chip="Gaudi 2", **EAGER)).options["compile"] == "all"
    assert plan(run_of(framework="optimum-neuron", chip="AWS Trainium1", **EAGER)).options["compile"] == "all"


def test_adapters_may_be_named_with_the_framework():
    assert plan(run_of(framework="transformers + PEFT LoRA", **EAGER)).options["lora_rank"] == 16


def test_degrees_on_trainium_count_cores():
    row = {**EAGER, "chips": "16", "framework": "Neuron SDK 2.24", "tp": "8"}
    assert plan(run_of(chip="AWS Trainium1", **row)).options["tp"] == 4
    assert plan(run_of(chip="AWS Trainium2", **row)).options["tp"] == 2
