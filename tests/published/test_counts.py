"""Counts of rows that a person writes: with commas, or no number at all."""

import pytest

from accuracy.plan import plan
from accuracy.reading.tables import Unable
from accuracy.rows import join, read
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
