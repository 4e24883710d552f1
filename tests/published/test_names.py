"""Names as people write them: of models, frameworks and chips."""

import pytest
import torch

from accuracy.plan import argv_of, plan
from accuracy.reading.tables import Unable
from accuracy.reference.__main__ import arguments, build
from accuracy.reference.layout import layout_of
from tests.published.runs import NAMED_ONLY, run_of

MANY = {**NAMED_ONLY, "framework": "torchtitan", "params_b": "", "global_batch": "7680", "chips": "64"}


@pytest.mark.parametrize(("name", "layers", "hidden"), [
    ("meta-llama/Llama-2-7b-hf", 32, 4096), ("llama3_8b", 32, 4096), ("meta-llama/Meta-Llama-3.1-8B-Instruct", 32, 4096),
    ("Llama-3 (70B)", 80, 8192), ("GPT-2 (124M)", 12, 768), ("gpt2", 12, 768), ("mixtral_8x7b", 32, 4096), ("bigscience/bloom", 70, 14336),
    ("DeepSeek-Coder-V2-Lite", 27, 2048), ("DeepSeek-R1-Distill-Llama-70B", 80, 8192), ("StarCoder-7B", 42, 4096), ("Phi-4-mini", 32, 3072),
    ("gpt_oss_120b", 36, 2880), ("Llama-3.1-Nemotron-Nano-8B-v1", 32, 4096), ("DeepSeek 671B", 61, 7168), ("Qwen2-Math-7B", 28, 3584),
])  # fmt: skip
def test_a_model_is_known_however_its_name_is_written(name, layers, hidden):
    found = plan(run_of(**{**MANY, "model": name}))
    assert (found.options["layers"], found.options["hidden"]) == (layers, hidden)
    assert {"layers", "hidden", "heads"} <= set(found.filled)


def test_a_distilled_model_is_not_the_one_that_taught_it():
    found = plan(run_of(**{**MANY, "model": "DeepSeek-R1-Distill-Qwen-7B"}))
    assert "experts" not in found.options
    assert found.options["layers"] == 28
    assert plan(run_of(**{**MANY, "model": "DeepSeek-R1-Distill-Llama-70B"})).options["vocab"] == 128256


@pytest.mark.parametrize(("model", "billions"), [
    ("Qwen3-32B", 32.76), ("Llama 3.2 1B", 1.236), ("OPT-13B", 12.84), ("GPT-OSS-20B", 20.9),  # each was another size before
    ("Qwen3-Coder-480B-A35B", 480.1), ("MiniCPM3-4B", 4.07), ("MiniCPM-MoE-8x2B", 13.87), ("Pangu Pro MoE 72B", 71.97),
    ("Skywork-MoE", 146.0), ("ERNIE-4.5-300B-A47B", 299.5), ("ERNIE-4.5-21B-A3B", 21.8), ("Hunyuan-A13B", 80.4), ("Ling-lite", 16.8), ("DeepSeek-V3 16B", 15.706),
])  # fmt: skip
def test_a_model_s_weights_are_as_many_as_it_should_have(monkeypatch, model, billions):
    found = plan(run_of(**{**MANY, "model": model})).options
    monkeypatch.setattr("sys.argv", ["reference", *argv_of({**found, "full_every": None})])
    args = arguments()
    stages = build(args, layout_of(args), torch.device("meta"))
    assert sum(p.numel() for stage in stages for p in stage.parameters()) / 1e9 == pytest.approx(billions, rel=0.01)


def test_glam_computes_as_much_as_its_paper_says():
    """It was in no table. Of 96.6 billion weights that a token passes, all but the vocabulary's."""
    o = plan(run_of(**{**MANY, "model": "GLaM (64B/64E)", "seq_len": "1024"})).options
    inside = o["layers"] // 2 * (o["ffn"] + o["chosen"] * o["expert_ffn"])
    passed = 4 * o["layers"] * o["hidden"] * o["heads"] * o["head_dim"] + 2 * o["hidden"] * inside
    assert (o["routed_every"], passed / 1e9) == (2, pytest.approx(96.6 - 2.1, rel=0.01))


def test_who_reinforces_is_refused_wherever_it_says_so():
    """DeepSpeed-Chat's third step was taken for training on samples."""
    for columns in ({"framework": "OpenRLHF (PPO)"}, {"notes": "RLHF step 3"}, {"notes": "batch 128; GRPO"}):
        with pytest.raises(Unable, match="reinforcement"):
            plan(run_of(**columns))
    plan(run_of(notes="SFT before RLHF"))


def test_windows_are_those_of_the_model_s_size_and_only_where_they_hide_something():
    gemma = {**MANY, "model": "Gemma 3 27B"}
    assert (plan(run_of(**gemma)).options["window"], plan(run_of(**gemma)).options["full_every"]) == (1024, 6)
    assert plan(run_of(**{**MANY, "model": "Gemma 3 1B"})).options["window"] == 512
    assert plan(run_of(**{**MANY, "model": "Gemma-2-9B"})).options["window"] == 4096
    assert "window" not in plan(run_of(**{**MANY, "model": "Gemma-2-9B", "seq_len": "4096"})).options


def test_a_model_that_nobody_knows_is_as_wide_as_others_of_its_size():
    found = plan(run_of(**{**MANY, "model": "Ours", "params_b": "30"}))
    # 60 layers of LLaMA 33B's width have 32.5 billion: 30e9 = 2 x 32000 x 6656 + n x (4 x 6656^2 + 3 x 6656 x 17920)
    assert (found.options["hidden"], found.options["layers"]) == (6656, 55)
    assert {"layers", "hidden", "heads", "kv_heads", "ffn", "vocab"} <= set(found.filled)
    assert plan(run_of(**{**MANY, "model": "Ours 30B"})).options["layers"] == 55
    for model in ("Ours", "Ours 8x7B", "Ours-30B-A3B", "", "Ours 290B"):  # the last is larger than any that is dense
        with pytest.raises(Unable, match="does not say layers, hidden, heads"):
            plan(run_of(**{**MANY, "model": model}))


@pytest.mark.parametrize(("model", "why"), [
    ("LLaVA-1.5-7B", "sees images"), ("Qwen2-VL-7B", "sees images"), ("Qwen3-Next-80B-A3B", "linear-attention"), ("Flan-T5-XXL", "decoder-only"),
    ("OpenELM-3B", "different widths"), ("CogVideoX-5B", "decoder-only"), ("SD3 8B", "decoder-only"), ("Llama 3.2 11B", "sees images"),
    ("Mistral-Large-3 675B", "not public"), ("DeepSeek-V4 671B", "not public"), ("MiniMax-01 456B", "linear-attention"), ("JetMoE-8B", "experts of attention"),
    ("PanGu-Σ 1.085T", "experts by domain"), ("Llama 3 8B PPO", "reinforcement"),
])  # fmt: skip
def test_what_the_reference_does_not_have_is_said(model, why):
    with pytest.raises(Unable, match=why):
        plan(run_of(**{**MANY, "model": model}))


def test_a_blank_length_is_the_context_that_the_model_was_trained_on_but_not_when_it_is_tuned():
    found = plan(run_of(**{**MANY, "model": "Pythia-6.9B", "seq_len": ""}))
    assert found.options["seq"] == 2048
    assert "seq_len" in found.filled
    for model, length in (("LLaMA 33B", 2048), ("CodeLlama-34B", 4096), ("Llama 3 8B", 8192)):
        assert plan(run_of(**{**MANY, "model": model, "seq_len": ""})).options["seq"] == length
    for changes in ({"model": "Llama 3 8B (SFT)"}, {"framework": "Axolotl"}, {"notes": "full fine-tuning of alpaca"}):
        with pytest.raises(Unable, match="does not say seq_len"):
            plan(run_of(**{**MANY, "seq_len": "", **changes}))


@pytest.mark.parametrize(("written", "as_known"), [
    ("megatron-lm", "Megatron-LM"), ("NVIDIA Megatron-LM", "Megatron-LM"), ("Megatron Core 0.8", "Megatron-Core 0.8"),
    ("Megatron + DeepSpeed", "Megatron-DeepSpeed"), ("NVIDIA NeMo", "NeMo"), ("AMD Megatron-LM", "Primus / Megatron-LM on ROCm"),
    ("lit-gpt", "LitGPT"), ("Optimum Habana", "optimum-habana"), ("NxD", "NeuronX Distributed"),
])  # fmt: skip
def test_a_framework_is_known_by_its_other_spellings(written, as_known):
    one, other = (
        plan(run_of(framework=name, model="GPT-3 13B", **NAMED_ONLY, micro_batch="")) for name in (written, as_known)
    )
    assert (one.argv, one.filled, one.program) == (other.argv, other.filled, other.program)
    assert "framework" not in one.filled


def test_a_rule_of_a_part_does_not_make_a_framework_known():
    """A trainer that says `LoRA` matched no more than the rule of adapters, and had no value for a blank column."""
    found = plan(run_of(framework="ours (LoRA)", micro_batch="", dtype=""))
    assert found.options["lora_rank"] == 16
    assert "framework" in found.filled


def test_what_megatron_did_in_2021_is_not_done_to_models_that_came_later():
    old, new = (
        plan(run_of(framework="Megatron-LM", chip="A100 SXM 80GB", model=model, dtype="", **NAMED_ONLY))
        for model in ("GPT-3 13B", "Llama 2 13B")
    )
    assert (old.options["attention"], old.options["recompute"], old.options["dtype"]) == ("products", "full", "fp16")
    assert (new.options["attention"], new.options["recompute"], new.options["dtype"]) == ("flash", "none", "bf16")
    core = plan(run_of(framework="Megatron-Core", model="Llama 3 8B", **NAMED_ONLY))
    assert core.options["gated"]


def test_a_micro_batch_that_nobody_said_divides_the_batch():
    found = plan(run_of(framework="nanoGPT", model="GPT-2 124M", **NAMED_ONLY, micro_batch="", global_batch="128"))
    assert found.options["micro_batch"] == 8  # 128 / 16 chips; the rule's 12 would leave a rest
    assert "micro_batch" in found.filled


def test_a_row_without_a_model_and_one_with_more_experts_ranks_than_chips_say_so():
    """Both ended in an exception of Python's, which was the reason given."""
    assert plan(run_of(model="")).options["norm"] == "rms"
    with pytest.raises(Unable, match="ep 16 is more than the 8 chips"):
        plan(run_of(**{**MANY, "framework": "Megatron-Bridge", "model": "Qwen3-30B-A3B", "chips": "8", "ep": "16"}))


def test_a_word_for_compilation_that_nobody_has_seen_is_counted():
    found = plan(run_of(compile="by hand"))
    assert (found.options["compile"], "compile" in found.filled) == ("none", True)
