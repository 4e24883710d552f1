"""Published rows become runs, and runs become command lines, or a reason."""

import csv
import shlex
from pathlib import Path

import pytest
import torch

from accuracy.__main__ import main
from accuracy.fold import points
from accuracy.page import memory_by_source
from accuracy.plan import argv_of, plan
from accuracy.reading.tables import Unable
from accuracy.reference.__main__ import arguments, build
from accuracy.reference.layout import layout_of
from accuracy.rows import BadRows, join, read, where
from accuracy.score import GIB, Result
from accuracy.table import table
from accuracy.training import command
from accuracy.truth_of_runs import step_time_s
from anychip.targets import parse
from tests.published.runs import LLAMA, NAMED_ONLY, run_of

PUBLISHED = Path(__file__).parents[2] / "accuracy" / "published"


def test_rows_of_one_run_are_joined_and_a_second_value_begins_another():
    time_s, memory = {**LLAMA}, {**LLAMA, "id": "x-002", "metric": "memory_gib", "value": "60"}
    again = {**LLAMA, "id": "x-003", "value": "8.2"}
    runs = join([time_s, memory, again])
    assert [run.ids for run in runs] == [("x-001", "x-002"), ("x-003",)]
    assert runs[0].metrics == {"step_time_s": 8.0, "memory_gib": 60.0}


def test_conditions_choose_runs():
    runs = join([LLAMA, {**LLAMA, "id": "y-001", "chip": "B200 SXM", "value": "3"}])
    assert [run.id for run in where(runs, ["chip=B200 SXM"])] == ["y-001"]
    assert [run.id for run in where(runs, ["source=y"])] == ["y-001"]
    for condition, said in (("colour=red", "no column"), ("id~(", "expression")):
        with pytest.raises(BadRows, match=said):
            where(runs, [condition])
    assert [run.id for run in where(runs, ["id~^x"])] == ["x-001"]
    assert where(runs, ["chip!=B200 SXM", "id~^y"]) == []
    with pytest.raises(BadRows, match="column=value"):
        where(runs, ["chip"])


def test_a_file_without_the_columns_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,chip\nx,y\n", encoding="utf-8")
    with pytest.raises(BadRows, match="metric, value"):
        read([path])


def test_blank_columns_are_filled_by_rule_and_counted():
    found = plan(run_of())
    # 16 chips / tp 2 = 8 replicas of micro-batch 1: 128 / 8 = 16 micro-batches
    assert (found.chip, found.num_chips, found.options["micro_batches"]) == ("nvidia-h100-sxm", 16, 16)
    assert found.filled == ("recompute", "sequence_parallel", "zero_or_fsdp")
    assert found.options["sharding"] == "optimizer"
    assert found.options["overlap"]
    assert "--sequence-parallel" in found.argv


def test_what_does_not_matter_to_a_run_is_not_counted():
    found = plan(run_of(chips="1", tp="1", global_batch="4"))
    assert found.filled == ("recompute",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"layers": "", "model": "ours", "params_b": ""},
            "in no table of public models, and the source does not say layers",
        ),
        ({"chips": "12"}, "does not divide"),
        ({"chip": "Abacus 9"}, "no file in the standard"),
        ({"tp": "0"}, "not positive"),
        ({"micro_batch": "0"}, "not positive"),
        ({"model": "Gated DeltaNet 1.3B"}, "linear-attention"),
        ({"notes": "DO NOT USE: wrong"}, "DO NOT USE"),
        ({"framework": "MindSpeed-LLM v2.0.0", "notes": "script pretrain_llama2_7b_pack_ptd.sh"}, "packed samples"),
        ({"tp": "5", "chips": "40", "global_batch": "80"}, "heads do not divide"),
        ({"dtype": "fp32"}, "in 32 bit"),
        ({"dtype": "posit16"}, "words.toml"),
    ],
)
def test_what_cannot_be_expressed_says_why(changes, reason):
    with pytest.raises(Unable, match=reason):
        plan(run_of(**changes))


def test_what_nobody_has_seen_is_filled_and_counted():
    # another framework, words that no table has, a public model's shape
    found = plan(run_of(framework="in-house", recompute="some of it", layers="", heads=""))
    assert {"framework", "recompute", "layers", "heads"} <= set(found.filled)
    assert (found.options["layers"], found.options["heads"], found.options["recompute"]) == (32, 32, "none")


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({"model": "ours 8B"}, 32),  # (8.03e9 - 2 x 128256 x 4096) / (4096 x (80 x 128 + 3 x 14336))
        # bigscience-071 prints 80 beside the same label
        ({"model": "GPT (BLOOM tuning) 187B", "params_b": "187", "hidden": "13824", "heads": "64", "kv_heads": "", "ffn": "", "vocab": "250680"}, 80),
    ],
)  # fmt: skip
def test_layers_follow_from_the_parameters_where_nothing_else_is_missing(changes, layers):
    found = plan(run_of(layers="", **changes))
    assert found.options["layers"] == layers
    assert "layers" in found.filled


def test_a_rate_per_token_needs_no_batch():
    found = plan(run_of(metric="tokens_per_s_per_chip", value="8192", global_batch=""))
    # eight micro-batches of 1 for each of 16 / 2 replicas: 64 sequences; 64 x 8192 / (16 x 8192) = 4 s
    assert "global_batch" in found.filled
    assert step_time_s(found) == 4.0
    with pytest.raises(Unable, match="global_batch"):
        plan(run_of(global_batch=""))


def test_more_replicas_than_sequences_share_them():
    found = plan(run_of(global_batch="2", cp=""))  # 8 replicas for 2 sequences: 4 ranks each
    assert found.options["cp"] == 4
    assert "cp" in found.filled
    assert plan(run_of(global_batch="6", cp="")).options["cp"] == 4  # 8 replicas: 2 of 4 ranks, 3 sequences each


def test_rows_of_any_file_are_read(tmp_path):
    path = tmp_path / "odd.csv"
    path.write_text(
        "value,extra,metric,chip\n8,x,step_time_s,H100 SXM 80GB\nfast,,step_time_s,B200\n3\n", encoding="utf-8"
    )
    runs = read([path])
    assert [run.id for run in runs] == ["odd-1", "odd-2", "odd-3"]
    assert [dict(run.metrics) for run in runs] == [{"step_time_s": 8.0}, {}, {"": 3.0}]
    for run in runs:
        with pytest.raises(Unable):
            step_time_s(plan(run))


def test_window_layers_are_recorded_beside_whole_ones():
    found = points({**plan(run_of()).options, "window": 1024, "full_every": 6})
    assert sum(point.weight for point in found) == pytest.approx(1.0)
    assert sum(point.weight for point in found if "window" not in point.options) == pytest.approx(1 / 6)
    assert not any("full_every" in point.options for point in found)


@pytest.mark.parametrize(("model", "billions"), [
    ("DeepSeek-V3 671B", 671.03), ("deepseek_v2", 235.74), ("deepseek2-16b", 15.706),  # config.json's weights, as published
    ("Kimi K2", 1026.4), ("Moonlight 16B", 15.96), ("GLM-4.5 355B", 352.8), ("GLM-4.5-Air", 106.85), ("MiniMax-M2", 228.7),
    ("Mixtral-8x22B", 140.63), ("DBRX 132B", 131.6), ("OLMoE 1B-7B", 6.92), ("Qwen2-57B-A14B", 57.41), ("Qwen1.5-MoE-A2.7B", 14.32),
    ("Qwen3 30B-A3B", 30.53), ("Qwen3 235B-A22B", 235.1), ("Mixtral-8x7B", 46.7),
    ("Llama 4 Maverick 400B", 400.71), ("Llama 4 Scout", 107.77),  # without the part that sees images
])  # fmt: skip
def test_a_model_known_by_name_has_as_many_parameters_as_it_should(monkeypatch, model, billions):
    found = plan(run_of(model=model, **NAMED_ONLY)).options
    monkeypatch.setattr("sys.argv", ["reference", *argv_of({**found, "mtp": 0})])
    args = arguments()
    stages = build(args, layout_of(args), torch.device("meta"))
    assert sum(p.numel() for stage in stages for p in stage.parameters()) / 1e9 == pytest.approx(billions, rel=1e-3)


with (Path(__file__).parents[2] / "accuracy" / "shapes.csv").open(encoding="utf-8", newline="") as file:
    SHAPES = [(form, float(row["params_b"])) for row in csv.DictReader(file) for form in row["name"].split("|")]


@pytest.mark.parametrize(("name", "billions"), SHAPES)
def test_a_model_of_the_shapes_has_as_many_parameters_as_it_should(name, billions):
    found = plan(run_of(model=name.title().replace(" ", "-"), **NAMED_ONLY)).options
    hidden, dim = found["hidden"], found.get("head_dim") or found["hidden"] / found["heads"]
    attention = 2 * hidden * dim * (found["heads"] + found["kv_heads"])
    parts = (3 if found["gated"] else 2) * found.get("experts", 1)
    layer = attention + parts * hidden * found["ffn"]
    tables = found["vocab"] * hidden * (1 if found["tied"] else 2)
    assert (found["layers"] * layer + tables) / 1e9 == pytest.approx(billions, rel=0.01)


def test_memory_is_compared_with_what_the_source_prints():
    assert plan(run_of()).memory == "allocated"
    titan = plan(run_of(framework="torchtitan"))
    assert (titan.memory, titan.allocator) == ("reserved", "expandable_segments:True")
    deep = plan(run_of(framework="Megatron-DeepSpeed", chip="A100 SXM 80GB"))
    assert (deep.memory, deep.context_bytes, deep.holds) == ("device", 1573 << 20, {"deepspeed": True})


def test_memory_that_is_not_to_be_compared_is_listed_apart():
    rows = [
        Result(run_of(id=id, metric="memory_gib", value="2"), plan(run_of()), peak_bytes=3 * GIB)
        for id in ("mst-015", "x-1")
    ]
    text = "\n".join(memory_by_source(rows))
    assert "| all | 1 | 1 | 50.0% |" in text
    assert "- mst-015: its baseline's allocated memory" in text


def test_experts_of_a_script_are_read_from_its_flags():
    flags = "n-shared-experts=2; num-experts=16; moe-router-topk=4; moe-intermediate-size=512; first-k-dense-replace=1"
    found = plan(
        run_of(model="deepseek_v3_mcore", notes=flags, **NAMED_ONLY)
    ).options  # whose own are 256, 8, 2048, 1 and 3
    assert [found[name] for name in ("experts", "chosen", "expert_ffn", "shared_ffn", "dense_layers")] == [
        16,
        4,
        512,
        1024,
        1,
    ]
    assert "experts" not in plan(run_of(notes="first-k-dense-replace=-1; n-shared-experts=2")).options


def test_layers_with_and_without_experts_are_recorded_apart():
    # 2560 / 16 replicas = 160 micro-batches of 61 layers: too much to be recorded whole
    options = plan(run_of(model="DeepSeek-V3 671B", global_batch="2560", **NAMED_ONLY)).options
    found = points(options)
    # 3 of 61 layers are dense
    assert sum(point.weight for point in found if "experts" not in point.options) == pytest.approx(3 / 61)
    assert sum(point.weight for point in found) == pytest.approx(1.0)
    assert not any("dense_layers" in point.options for point in found)
    assert max(point.options["layers"] for point in found) <= 6


def test_a_plan_does_not_depend_on_what_was_measured():
    assert plan(run_of(value="8")).argv == plan(run_of(value="800")).argv


def test_times_come_from_the_most_direct_figure():
    assert step_time_s(plan(run_of())) == 8.0
    # 128 sequences x 8192 tokens / (16 chips x 8192 tokens/s) = 8 s
    assert step_time_s(plan(run_of(metric="tokens_per_s_per_chip", value="8192"))) == 8.0
    assert step_time_s(plan(run_of(metric="samples_per_s", value="16"))) == 8.0
    with pytest.raises(Unable, match="no metric says"):
        step_time_s(plan(run_of(metric="memory_gib", value="40")))


def test_a_source_that_counts_the_recomputed_forward_is_read_so():
    # Table 1 of arXiv 2104.04473, GPT 1.7B: 96 B s l h^2 (1 + s/6h + V/16lh) over 137 TFLOP/s of 32 chips;
    # 96 * 512 * 2048 * 24 * 2304^2 * (1 + 0.148 + 0.0579) = 1.546e16; / (137e12 * 32) = 3.53 s
    (run,) = [run for run in read([PUBLISHED / "nvidia.csv"]) if run.id == "megatron-001"]
    assert step_time_s(plan(run)) == pytest.approx(3.53, rel=0.01)


def test_most_of_the_published_runs_can_be_expressed():
    runs = read([PUBLISHED / "nvidia.csv", PUBLISHED / "other.csv"])

    def works(run):
        try:
            plan(run)
        except Unable:
            return False
        return True

    assert len(runs) == 909
    assert sum(map(works, runs)) >= 650


def test_every_rule_names_a_source_and_a_reason():
    from accuracy.reading.tables import rules

    assert all(rule["source"].startswith("https://") and rule["why"] for rule in rules())


@pytest.mark.parametrize(("text", "dtype"), [
    ("float8", "fp8"), ("float8 rowwise", "fp8"), ("bfloat16", "bf16"), ("float16", "fp16"), ("mixed fp16", "fp16"), ("FP8 (E4M3)", "fp8"),
])  # fmt: skip
def test_dtypes_are_known_by_their_long_names_too(text, dtype):
    assert plan(run_of(dtype=text)).options["dtype"] == dtype


def test_a_chip_is_found_by_any_of_its_names():
    found = {
        "AWS Trainium2": "aws-trainium2", "V100 32GB": "nvidia-v100-sxm2-32gb", "H100 PCIe 80GB": "nvidia-h100-pcie",
        "NVIDIA H20": "nvidia-h20", "GH200 96GB": "nvidia-gh200-96gb", "A100-SXM4-40GB": "nvidia-a100-sxm-40gb",
        "Ascend 910C": "huawei-ascend-910c", "H100 SXM 80GB": "nvidia-h100-sxm", "Cerebras CS-3": "cerebras-wse3",
        "H200-NVL-141GB": "nvidia-h200-nvl", "A100 PCIe 80GB": "nvidia-a100-pcie-80gb", "RTX 4090": "nvidia-rtx-4090",
        "AMD Instinct MI250X (one GCD)": "amd-mi250x-gcd", "Intel Gaudi 1": "intel-gaudi1",
    }  # fmt: skip
    assert {name: plan(run_of(chip=name)).chip for name in found} == found
    with pytest.raises(Unable, match="no file in the standard"):
        plan(run_of(chip="no such chip"))


@pytest.mark.parametrize(
    ("chip", "network", "cluster"),
    [("A100 SXM 40GB", "Perlmutter, Slingshot 11", "nersc-perlmutter"), ("A100 SXM 80GB", "Jean Zay", "genci-jean-zay-a100"),
     ("AMD MI250X (one GCD)", "LUMI", "csc-lumi-g"), ("AMD MI250X", "LUMI", None),  # counted in dies
     ("GH200", "JUPITER", "jsc-jupiter"), ("GH200", "CSCS Alps", None),  # its usual one
     ("H100 SXM 80GB", "NVLink4 (DGX H100)", None), ("H100 SXM 80GB", "Perlmutter", None), ("GB300", "NVL72 NVLink5", None)],
)  # fmt: skip
def test_a_cluster_that_the_network_is_named_by_is_found_by_any_of_its_names(chip, network, cluster):
    assert plan(run_of(chip=chip, interconnect=network, tp="1")).cluster == cluster


def test_the_command_of_a_run_names_a_target(monkeypatch):
    found = plan(run_of(chip="A100 SXM 80GB", chips="16", interconnect="Jean Zay"))
    words = shlex.split(command(found))
    assert words[:3] == ["anychip", "forecast", "--on"]
    target = parse(words[3])
    assert (target.chip, target.count, target.cluster) == ("nvidia-a100-sxm-80gb", 16, "genci-jean-zay-a100")
    monkeypatch.setattr("sys.argv", [words[5], *words[6:]])
    assert arguments().seq == 8192


def test_mfu_without_a_convention_is_of_the_models_products_and_the_precisions_peak():
    told = {"value": "0.5", "metric": "mfu", "framework": "somebody's own", **NAMED_ONLY}
    found = plan(run_of(model="Llama 2 7B", **told))
    assert "flop" in found.filled
    assert "flop" not in plan(run_of(**{**told, "framework": "MaxText", "metric": "tflops_per_chip"})).filled
    options = found.options
    matrices = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008) + 4096 * options["vocab"]
    flop = 6 * matrices * options["seq"] + 12 * 32 * options["seq"] ** 2 * 4096
    batch = int(found.run["global_batch"])
    assert step_time_s(found) == pytest.approx(flop * batch / (0.5 * 989.4e12 * found.num_chips), rel=1e-3)
    # A token passes only the experts that are chosen.
    sparse = plan(run_of(model="Mixtral 8x7B", **told))
    sizes = 32 * (4096 * 128 * (2 * 32 + 2 * 8) + 3 * 4096 * 14336 * 2) + 4096 * sparse.options["vocab"]
    flop = 6 * sizes * sparse.options["seq"] + 12 * 32 * sparse.options["seq"] ** 2 * 4096
    assert step_time_s(sparse) == pytest.approx(flop * batch / (0.5 * 989.4e12 * sparse.num_chips), rel=1e-3)


def test_the_terminal_has_a_line_for_each_run(tmp_path, capsys):
    """Errors by chip were all that was printed, of a file of one's own nothing that names a run."""
    rows = tmp_path / "rows.csv"
    rows.write_text("id,chip,chips,model,seq_len,metric,value\nmine-1,h100,8,,,watts,400\n", encoding="utf-8")
    assert main(["--rows", str(rows), "--known"]) == 1
    head, line, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "measured", "forecast", "error"]
    assert line.split()[:4] == ["mine-1", "step", "-", "-"]
    assert len(line.split()) > 4  # and why


def test_a_line_of_a_run_has_its_figures_with_units():
    entry = {
        "id": "a-1",
        "metric": "step_time_s",
        "measured": 0.5,
        "forecast": 0.45,
        "error": -0.1,
        "reason": None,
        "fitted": False,
    }
    held = {
        **entry,
        "metric": "memory_gib",
        "measured": 70.0,
        "forecast": 77.0,
        "error": 0.1,
        "not_compared": "of all processes",
    }
    fitted = {**entry, "id": "b-10", "error": None, "fitted": True}
    assert table([entry, held, fitted], "nothing")[1:] == [
        "a-1   step      500 ms    450 ms  -10.0%",
        "a-1   memory    70 GiB    77 GiB  +10.0%  not counted: of all processes",
        "b-10  step      500 ms    450 ms  a constant was fitted to it",
    ]
