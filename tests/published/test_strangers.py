"""Rows as people write them of runs that no source of ours has: by age, by network, by what is left out."""

import pytest

from accuracy.plan import plan
from accuracy.reading.tables import Unable
from accuracy.training import planned_result
from accuracy.truth_of_runs import step_time_s
from tests.published.runs import run_of

FREE = {"tp": "", "pp": "", "cp": "", "micro_batch": "", "dtype": "bf16"}


def options(**columns):
    return plan(run_of(**columns)).options


@pytest.mark.parametrize(("framework", "paper", "kind"), [
    ("metaseq", "https://arxiv.org/abs/2205.01068", "products"), ("GPT-NeoX", "https://arxiv.org/abs/2304.01373", "efficient"),
    ("Meta internal PyTorch", "https://arxiv.org/abs/2302.13971", "efficient"), ("LLM Foundry", "https://github.com/mosaicml/llm-foundry", "efficient"),
    ("GPT-NeoX", "https://arxiv.org/abs/2310.10631", "flash"), ("torchtitan", "https://arxiv.org/abs/2410.06511", "flash"),
])  # fmt: skip
def test_attention_is_as_fast_as_it_was_when_a_paper_was_written(framework, paper, kind):
    """MPT-13B's 32,768 tokens on A100 took 101 s a step, with FlashAttention-2 76."""
    assert (
        options(**FREE | {"framework": framework, "source_url": paper, "chip": "A100-SXM4-80GB"})["attention"] == kind
    )


@pytest.mark.parametrize(("interconnect", "cluster"), [
    ("4x100Gbps EFA per node", "aws-p4d"), ("p4d.24xlarge", "aws-p4d"), ("EFA 400 Gbps", "aws-p4d"), ("8x 200 Gb/s HDR InfiniBand", None),
    ("1.6 Tb/s per node", None), ("200 Gbps per GPU", None), ("NVLink 600 GB/s", None), ("InfiniBand", None),
])  # fmt: skip
def test_a_network_is_as_fast_as_the_source_says(interconnect, cluster):
    """BloombergGPT's, of 50 Gbit/s a chip, was taken to have 200."""
    row = FREE | {"chip": "A100-SXM4-40GB", "chips": "64", "interconnect": interconnect, "global_batch": "256"}
    found = plan(run_of(**row)).cluster
    assert found == cluster if cluster is None else found in (cluster, "genci-jean-zay-a100")


@pytest.mark.parametrize(("columns", "gated", "ffn"), [
    ({"ffn": "16384", "params_b": ""}, False, 16384), ({"ffn": "11008", "params_b": ""}, True, 11008), ({"ffn": "16384", "params_b": "8.9"}, True, 16384),
    ({"ffn": "", "params_b": "6.7"}, True, 10944),
])  # fmt: skip
def test_of_a_model_in_no_table_its_sizes_tell_what_its_layers_are(columns, gated, ffn):
    sizes = {"layers": "32", "hidden": "4096", "heads": "32", "kv_heads": "32", "vocab": "32000", "model": "Ours"}
    found = options(**FREE | sizes | columns)
    assert found["gated"] == gated
    assert abs(found["ffn"] - ffn) <= 64


@pytest.mark.parametrize(("columns", "steps"), [
    ({"metric": "GPU hours", "value": "82432", "notes": "1.0T tokens"}, 82432 * 3600 / 64 / (1e12 / (256 * 2048))),
    ({"metric": "days", "value": "10", "notes": "trained on 300 billion tokens"}, 10 * 86400 / (3e11 / (256 * 2048))),
    ({"metric": "GPU hours", "value": "172.8K", "notes": "per trillion tokens"}, 172800 * 3600 / 64 / (1e12 / (256 * 2048))),
    ({"metric": "days", "value": "6.9", "notes": "400K steps, batch 256"}, 6.9 * 86400 / 400e3),
])  # fmt: skip
def test_a_whole_training_tells_its_steps_by_its_tokens(columns, steps):
    row = FREE | {"chips": "64", "global_batch": "256", "seq_len": "2048"} | columns
    assert step_time_s(plan(run_of(**row))) == pytest.approx(steps)


def test_hours_of_all_chips_are_not_of_one():
    """Llama 2 13B's 368,640 GPU hours, of which the table does not say how many chips, were forecast on one."""
    row = FREE | {"metric": "GPU hours", "value": "368640", "notes": "2.0T tokens", "framework": "", "chips": ""}
    assert "does not say chips" in (planned_result(run_of(**row | {"notes": "350K steps"})).reason or "")
    assert plan(run_of(**row | {"tp": "2", "dp": "8"})).num_chips == 16
    found = plan(
        run_of(**row | {"global_batch": "1024"})
    )  # of so many tokens they say a rate, which hardly depends on how many chips there are
    assert (found.num_chips, "chips" in found.filled) == (512, True)


def test_so_many_tokens_in_so_long_are_a_rate():
    """Such runs were refused for their batch where others with the same columns had it filled in."""
    row = FREE | {"metric": "days", "value": "10", "notes": "1T tokens", "global_batch": "", "micro_batch": "2"}
    assert "global_batch" in plan(run_of(**row)).filled
    assert "does not say global_batch" in (planned_result(run_of(**row | {"notes": ""})).reason or "")


def test_a_batch_of_so_many_tokens_is_no_whole_training():
    row = FREE | {"metric": "GPU hours", "value": "82432", "notes": "4M tokens a batch, 2.0B tokens per hour"}
    assert "no metric says" in (planned_result(run_of(**row)).reason or "")


def test_a_length_that_nobody_says_and_that_no_chip_can_do_is_refused():
    """Optimum-habana's 294 sentences a second were taken to be of 2,048 tokens each: 27 times too slow."""
    row = FREE | {
        "chip": "Gaudi2",
        "chips": "16",
        "model": "GPT-NeoX 20B",
        "seq_len": "",
        "metric": "samples_per_s",
        "value": "2940",
    }
    assert "of the chip's peak" in (planned_result(run_of(**row | {"framework": "Megatron-LM"})).reason or "")
    assert "seq_len" in (planned_result(run_of(**row | {"framework": "DeepSpeed (optimum-habana)"})).reason or "")


def test_hardware_s_share_counts_the_recomputed_forward():
    row = FREE | {"recompute": "full", "value": "50%"}
    model, hardware = (step_time_s(plan(run_of(**row, metric=name))) for name in ("MFU", "HFU"))
    assert hardware / model == pytest.approx(4 / 3, rel=0.05)


@pytest.mark.parametrize(("paper", "gated"), [("arXiv:2109.04650", False), ("arXiv:2307.09288", True), ("", True)])
def test_a_model_before_llama_has_gpt_s_layers(paper, gated):
    """InCoder and HyperCLOVA were refused for the width that no GPT's table has."""
    sizes = {
        "layers": "64",
        "hidden": "10240",
        "heads": "80",
        "kv_heads": "",
        "ffn": "",
        "vocab": "",
        "params_b": "",
        "model": "Ours 82B",
    }
    found = plan(run_of(**FREE | sizes | {"source_url": paper}))
    assert found.options["gated"] == gated
    assert "vocab" in found.filled
    assert found.options["ffn"] == (40960 if not gated else pytest.approx(27000, rel=0.05))


@pytest.mark.parametrize(("framework", "paper", "dtype", "found"), [
    ("Megatron-LM", "2109.04650", "", ("full", "fp16", "ddp", None)), ("Megatron-DeepSpeed", "2201.11990", "bf16", ("full", "bf16", "optimizer", None)),
    ("Megatron-LM", "2205.05198", "bf16", ("none", "bf16", "optimizer", True)),
])  # fmt: skip
def test_megatron_of_a_paper_is_as_old_as_the_paper(framework, paper, dtype, found):
    """MT-NLG 530B recomputed nothing: its model is called no GPT, and the rule asked for that."""
    row = FREE | {
        "framework": framework,
        "source_url": f"https://arxiv.org/abs/{paper}",
        "chip": "A100 80GB",
        "model": "Ours",
        "tp": "8",
        "pp": "2",
        "dtype": dtype,
    }
    o = options(**row)
    assert (o["recompute"], o["dtype"], o["sharding"], o.get("sequence_parallel") or None) == found


def test_who_names_flash_attention_in_its_own_paper_has_it():
    """Table 2 of the paper on FlashAttention had scores in memory, for it is of the month before everybody had it."""
    row = FREE | {"chip": "A100", "source_url": "https://arxiv.org/abs/2205.14135", "model": "GPT-2 medium"}
    assert options(**row | {"framework": "FlashAttention"})["attention"] == "efficient"
    assert options(**row | {"framework": "HF Trainer"})["attention"] == "products"


@pytest.mark.parametrize(("notes", "found"), [
    ("64 experts, top-2, MoE every other layer", (64, 2, 2)), ("16 experts, 4 active", (16, 4, None)), ("num-experts=128; top_k=1; MoE on every other layer", (128, 1, 2)),
    ("8 experts in the ablation", (None, None, None)),
])  # fmt: skip
def test_experts_are_read_in_words(notes, found):
    """Such models were trained as dense ones."""
    o = options(**FREE | {"model": "Ours", "notes": notes})
    assert (o.get("experts"), o.get("chosen"), o.get("routed_every")) == found
    assert "experts" not in options(**FREE | {"model": "Llama 2 7B", "notes": "20% slower than 16 experts, 4 active"})


@pytest.mark.parametrize("columns", [
    {"sequence_parallel": "Ulysses 8"}, {"zero_or_fsdp": "ZeRO-3 + Ulysses SP=8"}, {"framework": "DeepSpeed-Ulysses (8)"},
])  # fmt: skip
def test_ulysses_degree_is_of_ranks_that_share_a_sequence(columns):
    """Outside the column of degrees it was lost, and with it the exchange."""
    o = options(**FREE | {"framework": "DeepSpeed", "zero_or_fsdp": "ZeRO-3", "global_batch": "16"} | columns)
    assert (o["cp"], o["cp_comm_type"]) == (8, "a2a")


@pytest.mark.parametrize(("batch", "length", "found"), [
    ("4M tokens", "4096", 1024), ("4M", "2048", 2048), ("4194304 tokens", "8192", 512), ("4,000,000 tokens", "2000", 2000), ("0.5M tokens", "1024", 512), ("16.8M tokens", "4096", 4096), ("3.15M tokens", "2048", 1536),
    ("524288", "1024", 512),
])  # fmt: skip
def test_a_batch_of_tokens_is_so_many_sequences(batch, length, found):
    """As papers print it; such runs were refused."""
    row = FREE | {
        "global_batch": batch,
        "seq_len": length,
        "chips": "1",
        "metric": "tokens_per_s_per_chip",
        "value": "1000",
    }
    o = options(**row)
    assert o["micro_batch"] * o["micro_batches"] == found


def test_a_tile_is_no_chip():
    """Of Aurora's, twelve to a node, twice as many chips as there are were forecast."""
    assert "half of a chip" in (planned_result(run_of(chip="Intel Data Center GPU Max 1550 (tile)")).reason or "")


@pytest.mark.parametrize(("paper", "recompute"), [("2104.04473", "full"), ("2401.10241", "none"), ("", "full")])
def test_a_gpt_of_a_later_paper_is_not_that_of_2021(paper, recompute):
    """Zero Bubble's baselines of 2023 had attention by products and recomputed all."""
    row = {
        "framework": "Megatron-LM",
        "chip": "A100",
        "model": "GPT 6.2B",
        "source_url": f"arxiv.org/abs/{paper}" if paper else "",
    }
    assert options(**FREE | row)["recompute"] == recompute


@pytest.mark.parametrize(("columns", "seconds"), [
    # 128 sequences of 8,192 tokens on 16 chips: 65,536 of each
    ({"metric": "Throughput (tok/s)", "value": "65536", "notes": "tokens/sec per GPU"}, 1), ({"metric": "tok/s", "value": "65536"}, 16),
    ({"metric": "tok/s", "value": "65536", "notes": "4,096 tok/s/GPU"}, 16), ({"metric": "tokens per second per A100-80GB GPU", "value": "65536"}, 1),
    ({"metric": "tps", "value": "65536", "framework": "torchtitan"}, 1), ({"metric": "wps", "value": "65536"}, 16),
    ({"metric": "GPU hours per trillion tokens", "value": "277777.7777"}, 65.536),
])  # fmt: skip
def test_whose_rate_it_is(columns, seconds):
    """Where the notes say that a rate is of one chip, it was taken for that of all."""
    assert step_time_s(plan(run_of(**columns))) == pytest.approx(seconds)


def test_a_rate_of_a_slice_is_of_its_chips():
    row = FREE | {
        "chip": "TPU v3-256",
        "chips": "",
        "framework": "MaxText",
        "global_batch": "128",
        "metric": "tokens/s",
        "value": "1048576",
    }
    assert step_time_s(plan(run_of(**row))) == pytest.approx(128 * 8192 / 1048576)


def test_a_share_of_peak_is_one_however_it_is_called():
    assert plan(run_of(metric="throughput (% of peak)", value="38.4")).run.metrics["mfu"] == pytest.approx(0.384)


def test_a_batch_of_tokens_needs_no_length_where_the_model_has_one():
    """It was refused as no whole number."""
    o = options(
        **FREE
        | {
            "model": "LaMDA 137B",
            "seq_len": "",
            "global_batch": "256K tokens",
            "metric": "mfu",
            "value": "56",
            "chips": "64",
        }
    )
    assert o["micro_batch"] * o["micro_batches"] * 64 // o.get("cp", 1) == 128


def test_chips_that_nobody_counts_hold_what_they_train():
    """67 billion parameters were trained on one chip; with experts the stages of a pipeline had fewer chips than share these."""
    row = FREE | {
        "chips": "",
        "metric": "tokens_per_s_per_chip",
        "value": "900",
        "global_batch": "",
        "framework": "HAI-LLM",
    }
    row |= dict.fromkeys(("layers", "hidden", "heads", "kv_heads", "ffn", "vocab"), "")
    found = plan(run_of(**row | {"model": "DeepSeek 67B", "params_b": "67"}))
    assert found.num_chips == 32
    assert (found.options["tp"], found.options["pp"]) == (8, 2)
    assert plan(run_of(**row | {"model": "Mixtral 8x7B", "pp": "4", "ep": "8", "params_b": ""})).num_chips == 32
    assert plan(run_of(**row | {"model": "Llama 2 70B LoRA", "framework": "PEFT"})).num_chips == 1


@pytest.mark.parametrize(("columns", "kind"), [
    ({"framework": "FlashAttention-2"}, "flash"), ({"framework": "HF Trainer", "notes": "FA2"}, "flash"), ({"framework": "FlashAttention"}, "efficient"),
    ({"framework": "HF Trainer without FlashAttention"}, "products"), ({"notes": "no FlashAttention"}, "products"), ({"notes": "without flash-attn 2"}, "products"),
])  # fmt: skip
def test_attention_is_the_kind_that_is_named(columns, kind):
    row = FREE | {"framework": "HF Trainer", "source_url": "https://arxiv.org/abs/2307.08691"} | columns
    assert options(**row)["attention"] == kind


def test_names_of_sizes_with_a_zero_behind_the_point_and_of_gpts_behind_their_size():
    named = dict.fromkeys(("layers", "hidden", "heads", "kv_heads", "ffn", "vocab"), "")
    assert options(**FREE | named | {"model": "Pythia-1.0B", "params_b": ""})["gated"] is False
    assert options(**FREE | {"model": "22B GPT", "ffn": "", "vocab": ""})["gated"] is False


def test_a_rank_in_a_remark_of_its_own():
    assert (
        options(**FREE | {"model": "Llama 3.1 8B LoRA", "framework": "torchtune", "notes": "batch 2; rank 8 alpha 16"})[
            "lora_rank"
        ]
        == 8
    )


def test_an_encoder_is_read_as_layers_that_are_gpt_s():
    """BERT's head is of the tokens that are masked: 15% of 30,522 rows, rounded to 128. ViT's sequence is of 14 x 14 patches and a token for
    the class. Both were refused."""
    row = (
        FREE
        | dict.fromkeys(("layers", "hidden", "heads", "kv_heads", "ffn", "vocab"), "")
        | {"framework": "DeepSpeed", "params_b": ""}
    )
    bert = options(**row | {"model": "BERT-Large", "seq_len": "512", "metric": "samples/s"})
    assert (bert["layers"], bert["gated"], bert["vocab"]) == (24, False, 4608)
    vit = options(**row | {"model": "ViT-L/16", "seq_len": "", "metric": "images/s"})
    assert (vit["hidden"], vit["seq"]) == (1024, 197)
    for model in ("DistilBERT", "ResNet-50", "Flan-T5 XL", "CLIP ViT-L/14"):
        with pytest.raises(Unable, match="not a decoder-only"):
            plan(run_of(**row | {"model": model}))


def test_experts_whose_tensor_parallelism_is_said_to_be_one_are_whole():
    row = FREE | {
        "framework": "Megatron-Core",
        "model": "Mixtral 8x22B",
        "tp": "2",
        "pp": "8",
        "ep": "8",
        "chips": "128",
        "sequence_parallel": "yes",
    }
    row |= dict.fromkeys(("layers", "hidden", "heads", "kv_heads", "ffn", "vocab"), "") | {
        "global_batch": "256",
        "seq_len": "4096",
    }
    said, unsaid = (options(**row, notes=notes)["expert_tp"] for notes in ("TP2CP1 EP8ETP1 PP8", "EP8"))
    assert (said, unsaid) == (False, True)


def test_fused_kernels_that_are_named_are_run():
    eager, fused = (options(**FREE | {"framework": name}) for name in ("lit-gpt FSDP", "lit-gpt FSDP + fused kernels"))
    assert (eager["norm"], eager["fusion"]) == ("rms_ops", False)
    assert (fused["norm"], fused["fusion"], fused["fused_loss"]) == ("rms", True, True)
    own = options(**FREE | {"framework": "DeepSpeed", "notes": "DeepSpeed transformer kernels"})
    assert (own["fusion"], options(**FREE | {"framework": "DeepSpeed"})["fusion"]) == (True, False)


def test_so_many_tokens_in_so_many_steps_are_a_batch():
    """402 billion tokens of 2,048 in 383,500 steps: 512 sequences each; they were taken for one of each replica."""
    row = FREE | {
        "chip": "TPU v3-256",
        "chips": "",
        "framework": "Mesh Transformer JAX",
        "seq_len": "2048",
        "global_batch": "",
        "micro_batch": "",
        "tp": "8",
    }
    o = options(**row | {"metric": "tokens/s", "value": "151000", "notes": "402 billion tokens over 383,500 steps"})
    assert o["micro_batch"] * o["micro_batches"] * 16 == 512


def test_layers_are_shared_where_the_optimizer_s_state_alone_is_said_to_be():
    row = (
        FREE
        | dict.fromkeys(("layers", "hidden", "heads", "kv_heads", "ffn", "vocab"), "")
        | {"chip": "A100 40GB", "chips": "256", "framework": "GPT-NeoX"}
    )
    found = options(
        **row
        | {"model": "Pythia-12B", "params_b": "", "zero_or_fsdp": "ZeRO-1", "global_batch": "1024", "seq_len": "2048"}
    )
    # 11.84e9 weights of 2 bytes with gradients of 4 take 71 GB: a quarter is in 0.7 * 40. pythia-12b.yml has model-parallel-size 4.
    assert found["tp"] == 4


def test_gspmd_splits_layers_where_there_are_fewer_sequences_than_chips():
    row = FREE | {
        "chip": "TPU v3",
        "chips": "1024",
        "framework": "Lingvo (GSPMD)",
        "model": "LaMDA 137B",
        "seq_len": "2048",
        "global_batch": "128",
        "micro_batch": "",
    }
    row |= dict.fromkeys(("layers", "hidden", "heads", "kv_heads", "ffn", "vocab"), "")
    assert options(**row)["tp"] == 8
    assert options(**row | {"seq_len": "1048576"})["cp"] == 8


@pytest.mark.parametrize(("chips", "micro_batches"), [("8", 8), ("64", 4), ("1024", 1)])
def test_a_step_of_an_unknown_trainer_has_as_many_tokens_as_a_small_model_s(chips, micro_batches):
    """Half a million of 2,048, but no more than eight micro-batches: its optimizer stepped after each sequence."""
    row = FREE | {
        "framework": "Our trainer",
        "model": "GPT-3 1.3B",
        "params_b": "1.3",
        "chips": chips,
        "seq_len": "2048",
        "global_batch": "",
    }
    row |= dict.fromkeys(("layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "micro_batch"), "") | {
        "metric": "TFLOPS/GPU",
        "value": "150",
    }
    assert options(**row)["micro_batches"] == micro_batches


def test_direct_preference_optimization_is_of_pairs_that_two_models_read():
    """It was a plain training, of half as many sequences and a forward less."""
    row = FREE | {
        "framework": "NeMo-Aligner",
        "chips": "16",
        "global_batch": "64",
        "micro_batch": "1",
        "metric": "samples/s",
        "value": "10",
    }
    plain, pairs, alone = (plan(run_of(**row, notes=notes)) for notes in ("", "DPO", "ORPO"))
    sequences = [p.options["micro_batch"] * p.options["micro_batches"] for p in (plain, pairs, alone)]
    assert sequences == [4, 8, 8]
    assert [p.options["recompute"] for p in (plain, pairs, alone)] == ["none", "full", "none"]
    assert "forward" in pairs.instead
    assert step_time_s(pairs) == step_time_s(plain) == pytest.approx(6.4)  # 64 pairs at 10 a second
    with pytest.raises(Unable, match="reinforcement"):
        plan(run_of(**row | {"framework": "verl"}))
