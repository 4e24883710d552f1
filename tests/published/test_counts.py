"""Counts of rows that a person writes: with commas, or no number at all."""

import pytest

from accuracy.plan import plan
from accuracy.reading.tables import Unable
from accuracy.rows import count, join, read, tidy
from accuracy.serving.plan import plan as plan_serving
from accuracy.truth_of_runs import step_time_s
from tests.published.runs import LLAMA, run_of

SERVED = {
    "id": "y-1", "chip": "h100", "chips": "1", "framework": "vLLM", "model": "Llama 3 8B", "dtype": "bf16", "batch": "8",
    "input_len": "1024", "output_len": "128", "metric": "tpot_ms", "value": "8",
}  # fmt: skip


@pytest.mark.parametrize("count", ["sixteen", "16.5", "2 x 8", "1,6", "nan"])
def test_a_count_that_is_no_number_is_not_taken_for_blank(count):
    """A job of `sixteen` chips was forecast on one, without a word."""
    with pytest.raises(Unable, match=f"column chips: '{count}' is no whole number"):
        plan(run_of(chips=count))


def test_nor_is_one_of_a_run_that_generates_text():
    with pytest.raises(Unable, match="column tp: 'two' is no whole number"):
        plan_serving(join([{**SERVED, "tp": "two"}])[0])


def test_thousands_may_have_commas(tmp_path):
    path = tmp_path / "mine.csv"
    row = {**LLAMA, "chips": '"1,024"', "global_batch": '"2,048"', "vocab": "128256.0"}
    path.write_text(f"{','.join(row)}\n{','.join(row.values())}\n", encoding="utf-8")
    found = plan(read([path])[0])
    # 1024 chips / tp 2 = 512 replicas of micro-batch 1: 2048 / 512 = 4 micro-batches
    assert (found.num_chips, found.options["micro_batches"]) == (1024, 4)


def test_a_run_that_generates_text_without_a_dtype_says_so():
    with pytest.raises(Unable, match="does not say dtype"):
        plan_serving(join([{**SERVED, "framework": "TensorRT-LLM", "dtype": ""}])[0])


def test_a_row_without_a_measured_value_says_so():
    with pytest.raises(Unable, match="no metric of it has a value above zero"):
        step_time_s(plan(run_of(value="")))


@pytest.mark.parametrize(("column", "text", "found"), [
    ("tp", "TP=8", "8"), ("tp", "8-way model parallel", "8"), ("ep", "EP64", "64"), ("vp", "VPP 4", "4"), ("seq_len", "8K tokens", "8192"),
    ("global_batch", "GBS=512", "512"), ("global_batch", "1k", "1024"), ("micro_batch", "MBS 4", "4"), ("chips_per_node", "8 GPUs/node", "8"),
    ("chips", "8 x H100", "8"), ("chips", "1,024 H100 GPUs", "1024"), ("chips", "64 H100s", "64"), ("chips", "single", "1"), ("vocab", "50.3k", "50300"),
    ("chips", "2x v5e-256", "2x v5e-256"), ("chips", "4x DGX H100", "4x DGX H100"), ("tp", "two", "two"),
])  # fmt: skip
def test_a_count_with_what_it_counts(column, text, found):
    assert count(column, text) == found


@pytest.mark.parametrize(("chip", "chips", "number"), [
    ("TPU v5e", "2x v5e-256", 512), ("2x v5e-256", "", 512), ("4x DGX A100", "", 32), ("H100", "2 x p5.48xlarge", 16), ("8x H100", "", 8),
    ("80GB A100s", "8", 8), ("16 DGX H100", "", 128), ("H100", "16 nodes x 8", 128),
])  # fmt: skip
def test_chips_of_slices_and_of_machines_are_counted(chip, chips, number):
    """Two slices were taken for two chips."""
    row = {"tp": "1", "micro_batch": "1", "global_batch": "1024", "sequence_parallel": "", "framework": "HF Trainer"}
    assert plan(join([tidy({**LLAMA, **row, "chip": chip, "chips": chips}, "x")])[0]).num_chips == number


def test_a_node_s_short_name_and_a_memory_in_g_are_those_of_the_chip():
    row = {"tp": "1", "framework": "HF Trainer", "dtype": "fp16"}
    assert plan(run_of(chip="V100-SXM2-16G", **row)).chip == "nvidia-v100-sxm2-16gb"
