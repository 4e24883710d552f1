"""Layouts that a source leaves blank or says in a word, and numbers of chips that follow from others."""

import pytest

from accuracy.plan import plan
from accuracy.reading.tables import Unable
from tests.published.runs import NAMED_ONLY, run_of

BLANK = {**NAMED_ONLY, "tp": "", "pp": "", "cp": "", "global_batch": "1024", "micro_batch": "1", "seq_len": "2048"}


@pytest.mark.parametrize(("model", "chips", "tp", "pp"), [
    ("Llama 2 7B", "64", 1, 1),  # 6.7e9 x (6 + 12 / 64) bytes are 42 of 80 GB
    ("Llama 2 13B", "64", 2, 1),  # 81 GB
    ("GPT-3 175B", "1024", 8, 4),  # 175e9 / 32 x (6 + 12 / 32) are 35 GB; half as many parts are 68, more than 0.7 of 80
])  # fmt: skip
def test_a_model_that_needs_more_than_a_chip_is_split_as_megatron_s_authors_advise(model, chips, tp, pp):
    found = plan(run_of(framework="Megatron-LM", model=model, chips=chips, **BLANK))
    assert (found.options.get("tp", 1), found.options.get("pp", 1)) == (tp, pp)
    assert ("tp" in found.filled) or tp == 1
    assert ("pp" in found.filled) == (pp > 1)


RATE = {**BLANK, "global_batch": "", "micro_batch": "", "metric": "mfu", "value": "0.4"}


@pytest.mark.parametrize(("framework", "chip", "chips", "tp", "pp"), [
    ("ModelLink", "Ascend 910B", "1024", 8, 16),  # 18 bytes each: 8 stages are 49 of 64 GB, more than 0.7
    ("ModelLink", "Ascend 910B", "7968", 8, 12),  # 2^5 x 3 x 83: after 4 no power of two divides them
    ("Megatron-DeepSpeed", "MI250X (one GCD)", "1024", 2, 16),  # two dies to a package
])  # fmt: skip
def test_stages_divide_the_chips_and_tensor_parallelism_its_domain(framework, chip, chips, tp, pp):
    """All of 175B lay on one chip. (A script that does not say so splits no state over replicas.)"""
    row = {**RATE, "notes": "of a script"}
    found = plan(run_of(framework=framework, chip=chip, model="GPT-3 175B", chips=chips, **row)).options
    assert (found.get("tp", 1), found.get("pp", 1)) == (tp, pp)


def test_a_batch_goes_to_the_replicas_of_the_layout_that_a_rule_chose():
    """70e9 / 16 x (6 + 12 / 4) bytes fit: four replicas of tp 8 x pp 2 have four sequences each, and none is split."""
    row = {**BLANK, "chips": "64", "global_batch": "16"}
    found = plan(run_of(framework="Megatron-LM", model="Llama 2 70B", **row)).options
    assert (found["tp"], found["pp"], found.get("cp", 1), found["micro_batches"]) == (8, 2, 1, 4)
    alone = plan(
        run_of(
            framework="Megatron-LM", model="Llama 2 13B", **{**row, "global_batch": "", "metric": "mfu", "value": "0.4"}
        )
    )
    assert (
        alone.options["micro_batches"] == 8
    )  # a rate is of steps that hardly depend on how many gradients they add up


def test_what_a_source_says_of_its_layout_stays():
    assert (
        "pp"
        not in plan(run_of(framework="Megatron-LM", model="GPT-3 175B", chips="1024", **{**BLANK, "tp": "8"})).options
    )
    assert (
        plan(
            run_of(framework="Megatron-Bridge", chip="GB200", model="Qwen3-235B-A22B", chips="64", ep="64", **BLANK)
        ).options.get("tp", 1)
        == 1
    )


def test_replicas_that_do_not_fit_are_split():
    small, large = (  # the second's 6.7e9 x 18 bytes are 121 GB in each replica, of which nothing is split
        plan(run_of(framework="HF Trainer", model=name, chips="8", **BLANK)) for name in ("Qwen2.5-0.5B", "Llama 2 7B")
    )
    assert (small.options["sharding"], large.options["sharding"]) == ("ddp", "fsdp")
    assert "zero_or_fsdp" in large.filled


@pytest.mark.parametrize(("chip", "chips", "replicas"), [
    ("TPU v5e", "256", 1), ("TPU v5e", "1024", 4), ("TPU v4", "1024", 1), ("TPU v4", "6144", 2), ("Trillium", "512", 2), ("H100", "1024", 1),
])  # fmt: skip
def test_a_jax_job_of_several_slices_splits_its_parameters_within_each(chip, chips, replicas):
    row = {**BLANK, "global_batch": "12288"}
    assert (
        plan(run_of(framework="MaxText", model="Llama 2 13B", chip=chip, chips=chips, **row)).options.get("replicas", 1)
        == replicas
    )


@pytest.mark.parametrize(("told", "replicas"), [
    ("HSDP", 8), ("HSDP 4x16", 4), ("HYBRID_SHARD", 8), ("HSDP (shard 32)", 2), ("HSDP, replicate=4", 4), ("FSDP", 1), ("FULL_SHARD", 1),
])  # fmt: skip
def test_hybrid_sharding_holds_a_replica_in_each_group(told, replicas):
    found = plan(run_of(framework="torchtitan", model="Llama 2 13B", chips="64", zero_or_fsdp=told, **BLANK))
    assert (found.options["sharding"], found.options.get("replicas", 1)) == ("fsdp", replicas)


@pytest.mark.parametrize(("column", "text", "meant"), [
    ("zero_or_fsdp", "ZeRO stage 3", "fsdp"), ("zero_or_fsdp", "zero_stage=2", "gradients"), ("zero_or_fsdp", "1", "optimizer"),
    ("zero_or_fsdp", "NO_SHARD", "ddp"), ("zero_or_fsdp", "SHARD_GRAD_OP", "gradients"), ("zero_or_fsdp", "--use-distributed-optimizer", "optimizer"),
    ("zero_or_fsdp", "FSDP (SHARD_GRAD_OP)", "gradients"), ("zero_or_fsdp", "FSDP NO_SHARD", "ddp"), ("zero_or_fsdp", "ZeRO-3, no offload", "fsdp"),
    ("recompute", "Gradient checkpointing: off", "none"), ("recompute", "flash attention, no recompute", "none"), ("recompute", "nothing_saveable", "full"),
    ("recompute", "None", "none"), ("recompute", "Selective AC (per-op)", "ops"), ("recompute", "True", "full"), ("recompute", "activation recomputation", "full"),
    ("recompute", "off", "none"), ("compile", "True", "layers"), ("compile", "eager", "none"), ("compile", "jit", "all"),
    ("recompute", "✓", "full"), ("recompute", "✗", "none"), ("compile", "✓", "layers"),
    ("recompute", "selective AC (op)", "ops"), ("recompute", "MLP only", "mlp"), ("compile", "torch.compile=False", "none"), ("compile", "reduce-overhead", "layers"),
])  # fmt: skip
def test_words_of_a_column_mean_what_they_say(column, text, meant):
    found = plan(run_of(framework="ours", **{column: text}))
    assert found.options[{"zero_or_fsdp": "sharding"}.get(column, column)] == meant
    assert column not in found.filled


@pytest.mark.parametrize(("dtype", "chip", "found"), [
    ("FP8 blockwise", "H100", ("fp8", "block")), ("MXFP4", "B200", ("fp4", "tensor")), ("16-mixed", "H100", ("fp16", None)), ("half", "H100", ("fp16", None)),
    ("mixed precision", "H100", ("bf16", None)), ("mixed precision", "V100", ("fp16", None)), ("", "V100", ("fp16", None)),
])  # fmt: skip
def test_a_dtype_is_known_by_its_other_names_and_by_what_the_chip_has(dtype, chip, found):
    run = plan(run_of(framework="Megatron-LM", chip=chip, dtype=dtype))
    assert run.options["dtype"] == found[0]
    assert (run.options.get("recipe") == "block") == (found[1] == "block")
    assert ("dtype" in run.filled) == (dtype in ("", "mixed precision"))


@pytest.mark.parametrize(
    ("told", "replicas"),
    [("dp_replicate=4, dp_shard=16", 4), ("dp_shard=-1 dp_replicate 2", 2), ("dp_replicate=1, dp_shard=64", None)],
)
def test_replicas_beside_shards_are_read_without_the_word_hybrid(told, replicas):
    """torchtitan's own names of both degrees were read as FSDP over all ranks."""
    found = plan(
        run_of(**{**BLANK, "framework": "torchtitan", "chips": "64", "global_batch": "128", "zero_or_fsdp": told})
    )
    assert found.options.get("replicas") == replicas


def test_a_replica_that_is_not_in_a_node_takes_as_many_as_it_needs():
    """Olmo 3 32B's HSDP held 65 GB of state on each of eight chips."""
    row = {**BLANK, "framework": "OLMo-core", "chips": "1024", "global_batch": "1024", "zero_or_fsdp": "HSDP"}
    assert plan(run_of(**row)).options["replicas"] == 128
    assert plan(run_of(**row | NAMED_ONLY | {"model": "OLMo 2 32B"})).options["replicas"] == 64


@pytest.mark.parametrize(("columns", "ranks"), [
    ({"chips_per_node": "4"}, 128), ({"chips_per_node": "8"}, 64), ({}, 64), ({"tp": "8", "pp": "4", "dp": "4"}, 128),
])  # fmt: skip
def test_a_package_of_two_dies_is_two_ranks(columns, ranks):
    """Poro 34B's degrees of parallelism, which count dies, were taken to count packages of MI250X."""
    row = {
        "chip": "AMD Instinct MI250X",
        "chips": "64",
        "framework": "Megatron-LM",
        "layers": "32",
        "metric": "tokens_per_s_per_chip",
        "value": "1000",
    }
    found = plan(run_of(**{**BLANK, **row, **columns}))
    assert found.num_chips == ranks
    assert found.chip == ("amd-mi250x-gcd" if columns else "amd-mi250x")
    assert found.run.metrics["tokens_per_s_per_chip"] == 1000 * 64 / ranks


@pytest.mark.parametrize("columns", [
    {"zero_or_fsdp": "zero1(dp2)+tp2+pp4"}, {"framework": "Megatron-LM (TP=2, PP=4)"}, {"notes": "TP2 PP4; 41% MFU"}, {"notes": "tp: 2, pp_size=4"},
])  # fmt: skip
def test_degrees_are_read_where_they_stand(columns):
    """Colossal-AI's tables have them beside ZeRO's stage: such runs had none."""
    row = {**BLANK, "framework": "Megatron-LM", "chips": "64"}
    o = plan(run_of(**{**row, **columns})).options
    assert (o.get("tp"), o.get("pp")) == (2, 4)
    assert "tp" not in plan(run_of(**row | {"notes": "TP2 was slower; without tp4 out of memory"})).options


def test_mindspeed_without_a_script_s_flags_splits_its_state():
    """Pangu Ultra 135B had all of its optimizer's state on each replica, for rows of scripts say so where they do not."""
    row = {**BLANK, "framework": "MindSpeed", "chip": "Ascend 910B2", "chips": "64", "tp": "8"}
    bare, script = (plan(run_of(**row | {"notes": notes})).options for notes in ("", "config script: x.sh"))
    assert (bare["sharding"], bare["sequence_parallel"]) == ("optimizer", True)
    assert (script["sharding"], script["sequence_parallel"]) == ("ddp", False)


def test_words_for_sharding_that_nobody_knows_leave_the_layout_to_its_rule():
    """AxoNN's "4D" held 40 billion parameters on each chip of 40 GB."""
    row = {
        **BLANK,
        "framework": "AxoNN",
        "chip": "A100 40GB",
        "chips": "64",
        "zero_or_fsdp": "4D: 3D tensor + data parallel",
    }
    assert plan(run_of(**row | NAMED_ONLY | {"tp": "", "model": "Llama 2 70B"})).options["sharding"] == "fsdp"


def test_state_on_the_host_is_not_forecast():
    for changes in ({"framework": "DeepSpeed ZeRO-Offload"}, {"zero_or_fsdp": "ZeRO-3 offload"}):
        with pytest.raises(Unable, match="host's memory"):
            plan(run_of(**changes))


@pytest.mark.parametrize(("chip", "columns", "chips", "filled"), [
    ("TPU v4-512", {}, 256, False), ("v5litepod-256", {}, 256, False), ("TPU v5p-128", {}, 64, False), ("TPUv4-512", {}, 256, False), ("TPU v4", {"chips": "v4-512"}, 256, False),
    ("H100", {"tp": "2", "dp": "8"}, 16, True), ("H100", {"tp": "1"}, 1, True),
])  # fmt: skip
def test_the_number_of_chips_follows_from_a_slice_s_name_or_from_the_layout(chip, columns, chips, filled):
    found = plan(
        run_of(
            chip=chip,
            framework="MaxText",
            **{"chips": "", "tp": "1", "pp": "", "cp": "", "global_batch": "512", **columns},
        )
    )
    assert found.num_chips == chips
    assert ("chips" in found.filled) == filled


@pytest.mark.parametrize(("name", "chip", "near"), [
    ("NVIDIA A100-SXM4-40GB", "nvidia-a100-sxm-40gb", False), ("A100-PCIE-40GB", "nvidia-a100-pcie-40gb", False), ("v5litepod-256", "google-tpu-v5e", False),
    ("HL-325", "intel-gaudi3", False), ("p4d.24xlarge", "nvidia-a100-sxm-40gb", False), ("Ascend 910C (one die)", "huawei-ascend-910c-die", False),
    ("MI250", "amd-mi250x", True), ("MI300", "amd-mi300x", True), ("Tesla V100-PCIE-16GB", "nvidia-v100-sxm2-16gb", True), ("A800 80GB PCIe", "nvidia-a800-sxm-80gb", True),
    ("H20 141GB", "nvidia-h20", True), ("H200 SXM 141GB", "nvidia-h200-sxm", False), ("NVIDIA A100 64GB", "nvidia-a100-sxm-80gb", True), ("Atlas 800T A2", "huawei-ascend-910b2", True),
    ("A100-40G", "nvidia-a100-sxm-40gb", False), ("DGX A100 640GB", "nvidia-a100-sxm-80gb", False), ("PCIe H100", "nvidia-h100-pcie", False),
    ("H200 PCIe", "nvidia-h200-nvl", False), ("GB300 NVL36", "nvidia-gb300-nvl72", True), ("RTX 4090 D", "nvidia-rtx-4090", True),
    ("MI300-X", "amd-mi300x", False), ("H100 SXM (96GB, HBM2e)", "nvidia-h100-sxm-96gb", False), ("H100 NVL 94GB", "nvidia-h100-nvl", False), ("BI-V100 PCIe", "iluvatar-bi-v100", False), ("v5p-96", "google-tpu-v5p", False), ("v4-64", "google-tpu-v4", False),
])  # fmt: skip
def test_a_chip_of_another_form_is_counted(name, chip, near):
    found = plan(run_of(chip=name))
    assert (found.chip, "chip" in found.filled) == (chip, near)


def test_what_a_chip_cannot_do_is_not_said_of_one_whose_name_is_like_it():
    old, other = (plan(run_of(chip=chip, dtype="")).options for chip in ("V100", "BI-V100"))
    assert (old["dtype"], old["attention"]) == ("fp16", "products")
    assert (other["dtype"], other["attention"]) == ("bf16", "flash")


def test_a_compiler_that_nobody_named_is_counted():
    assert "compile" in plan(run_of(framework="torchtitan")).filled
    assert "compile" not in plan(run_of(framework="torchtitan", compile="yes")).filled
    assert "compile" not in plan(run_of(framework="FSDP")).filled


@pytest.mark.parametrize(("framework", "chip", "batch"), [
    ("Megatron-LM", "H100", (4, 8)), ("FSDP", "H100", (1, 1)), ("HF Trainer", "H100", (8, 1)),
    ("MaxText", "TPU v5p", (8, 1)),  # 16,384 tokens, where each micro-batch gathers weights again and recomputes
])  # fmt: skip
def test_a_rate_whose_batch_nobody_says_is_of_the_usual_one(framework, chip, batch):
    """Most tables of tokens a second were refused. How long a step takes is not known without its batch."""
    row = {**RATE, "framework": framework, "chip": chip, "chips": "8"}
    unsaid = plan(run_of(model="Llama 2 7B", **row))
    assert (unsaid.options["micro_batch"], unsaid.options["micro_batches"]) == batch
    assert {"global_batch", "micro_batch"} <= {*unsaid.filled}
    with pytest.raises(Unable, match="does not say global_batch"):
        plan(run_of(model="Llama 2 7B", **{**row, "metric": "step_time_s"}))
    found = plan(run_of(model="Llama 2 7B", **{**row, "micro_batch": "2"}))
    assert found.options["micro_batch"] == 2
    assert found.options["micro_batches"] == (8 if framework == "Megatron-LM" else 1)
    assert "global_batch" in found.filled
    if framework == "MaxText":  # a compiled step takes each chip's batch at once
        given = plan(run_of(model="Llama 2 7B", **{**row, "micro_batch": "2", "metric": "step_time_s"})).options
        assert given["micro_batch"] * given["micro_batches"] == 2
    else:
        with pytest.raises(Unable, match="does not say global_batch"):  # by which a step is long or short
            plan(run_of(model="Llama 2 7B", **{**row, "micro_batch": "2", "metric": "step_time_s"}))


@pytest.mark.parametrize(("columns", "found"), [
    ({"tp": "8", "pp": "", "cp": "", "dp": "8"}, ("pp", 4)), ({"tp": "", "pp": "4", "cp": "1", "dp": "8"}, ("tp", 8)),
    ({"tp": "8", "pp": "1", "cp": "", "dp": "8"}, ("cp", 4)), ({"tp": "8", "pp": "", "cp": "", "dp": "8", "zero_or_fsdp": "FSDP"}, ("pp", 1)),
    ({"tp": "8", "pp": "", "cp": "", "dp": "7"}, ("pp", 1)), ({"tp": "8", "pp": "", "cp": "", "dp": ""}, ("pp", 1)),
])  # fmt: skip
def test_a_degree_that_the_others_leave_no_choice_of_is_derived_and_counted(columns, found):
    run = plan(run_of(framework="Megatron-LM", model="Llama 2 70B", chips="256", **{**BLANK, **columns}))
    assert run.options.get(found[0], 1) == found[1]
    assert (found[0] in run.filled) == (found[1] > 1)


@pytest.mark.parametrize(("chip", "chips", "network", "cluster"), [
    ("L40S", "64", "", "ethernet-200-pod"), ("MLU590", "16", "", "pcie-ethernet-200-pod"), ("L40S", "64", "pcie-ethernet-200-pod", "pcie-ethernet-200-pod"),
    ("L40S", "8", "", None), ("H100", "64", "", None), ("A100 PCIe 80GB", "16", "", "ethernet-200-pod"),
])  # fmt: skip
def test_a_network_that_nobody_knows_is_a_usual_one_and_counted(chip, chips, network, cluster):
    """A job of two hosts of PCIe cards ended with the figure that their file lacks."""
    found = plan(run_of(chip=chip, chips=chips, framework="FSDP", tp="1", interconnect=network))
    assert found.cluster == cluster
    assert ("interconnect" in found.filled) == (cluster is not None)


def test_fsdp_in_fp16_on_a_chip_without_bfloat16_is_zero_2():
    """Recorded in bfloat16, it was priced in 32 bit: V100 at a fifth of its speed."""
    old, new = (plan(run_of(chip=chip, framework="FSDP", dtype="fp16", tp="1")) for chip in ("V100", "A100"))
    assert (old.options["sharding"], new.options["sharding"]) == ("gradients", "fsdp")
    assert "ZeRO-2" in old.instead
    assert not new.instead
