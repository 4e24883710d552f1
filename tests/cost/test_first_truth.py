"""The accuracy page's bounds: what forecasts that have not seen a measurement may be off by."""

import importlib.util
from pathlib import Path
from statistics import fmean, median

import pytest

PATH = Path(__file__).parents[2] / "accuracy" / "first_truth.py"


@pytest.fixture(scope="module")
def truth():
    spec = importlib.util.spec_from_file_location("first_truth", PATH)
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name
    import sys

    sys.modules["first_truth"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["first_truth"]


@pytest.fixture(scope="module")
def found(truth):
    return truth.results()


def sizes(found, op, held, chip=""):
    errors = [abs(r.error) for r in found if r.row.op.startswith(op) and r.held == held and r.row.chip.startswith(chip)]
    assert errors
    return errors


# (what, held back, chips, largest mean, largest median); bounds are a little above what the page shows.
BOUNDS = [
    ("gemm.warm", "point", "nvidia", 0.08, 0.05),
    ("gemm.warm", "source", "nvidia", 0.10, 0.08),
    ("gemm", "point", "amd-mi350x", 0.04, 0.04),
    ("gemm", "source", "nvidia-h100", 0.07, 0.04),
    ("attention.forward", "point", "", 0.04, 0.03),
    ("attention.backward", "point", "", 0.04, 0.03),
    ("attention.forward", "curve", "", 0.20, 0.15),
    ("grouped", "unseen", "", 0.08, 0.08),
    ("attention", "unseen", "nvidia-h100", 0.08, 0.08),
]


@pytest.mark.parametrize(("op", "held", "chip", "mean", "middle"), BOUNDS)
def test_forecasts_of_what_was_held_back(found, op, held, chip, mean, middle):
    errors = sizes(found, op, held, chip)
    assert fmean(errors) <= mean
    assert median(errors) <= middle


def test_what_is_held_back_is_not_used(truth):
    row = next(r for r in truth.rows() if r.chip == "nvidia-h100-sxm" and r.op == "gemm.warm")
    kept = truth.machine_for(row, "source").rates.rows
    assert kept
    assert not any(row.source in rate.source for rate in kept)
    assert row.rate not in truth.machine_for(row, "point").rates.rows


def test_work_of_a_row_by_hand(truth):
    # head 128, 2048 wide: 16 heads; 16,384 tokens of 512: 32 sequences. 4 * 32 * 16 * 512^2 * 128, causal half.
    task = truth.task_of("attention.forward", "fp16", "flash d128 causal s512")
    assert task.flop == 4 * 32 * 16 * 512**2 * 128 // 2
    assert truth.task_of("copy", "", "1000").bytes_moved == 2000
    # three products of each group
    assert truth.task_of("grouped", "bf16", "100x20x30 g2").flop == 3 * 2 * 100 * 20 * 30


def test_the_page_is_what_the_script_writes(truth, found):
    assert truth.PAGE.read_text() == truth.page(found)
