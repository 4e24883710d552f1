"""The truth: CUDA examples run on the CPU as they are, their steps are timed, errors are printed and kept."""

import csv
import json
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from accuracy import truth

ROOT = Path(__file__).resolve().parents[2]
ON_CPU = ROOT / "accuracy" / "on_cpu.py"
GPT = ["train_gpt_cuda.py", "--layers", "1", "--width", "16", "--heads", "2", "--context", "8", "--batch-size", "2",
       "--vocabulary", "64", "--steps", "4"]  # fmt: skip
GENERATE = ["generate_cuda.py", "--layers", "1", "--width", "32", "--hidden", "64", "--heads", "2", "--kv-heads", "1",
            "--vocabulary", "50", "--prompt", "4", "--new-tokens", "5"]  # fmt: skip


@pytest.mark.parametrize(("argv", "times"), [(GPT, 3), (GENERATE, 4)], ids=["steps", "calls"])
def test_a_cuda_program_runs_on_the_cpu(argv, times, tmp_path):
    # four optimizer steps end three intervals, five calls four
    settings = json.dumps({"out": str(tmp_path / "t.json"), "threads": 1, "clock": "cpu"})
    done = subprocess.run([sys.executable, str(ON_CPU), settings, str(ROOT / "examples" / argv[0]), *argv[1:]],
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "t.json").read_text())
    assert len(found) == times
    assert all(0 < one < 10 for one in found)


def test_every_program_of_the_table_is_an_example_and_every_one_of_one_chip_is_there():
    programs = tomllib.loads(truth.PROGRAMS.read_text())["program"]
    assert len({program["name"] for program in programs}) == len(programs) >= 12
    assert {program["argv"][0] for program in programs} == {
        str(path.relative_to(ROOT))
        for path in (ROOT / "examples").glob("*_cuda.py")
        if "init_process_group" not in path.read_text()
    }


def test_errors_are_signed_and_summed_up():
    rows = [truth.Row("a", 0.1, 0.11, 0.0), truth.Row("b", 0.2, 0.1, 0.0), truth.Row("c", 0.1, 0.12, 0.0)]
    text = truth.table(rows)
    # errors +10%, -50%, +20%: median of the absolute ones 20%, worst 50%, mean -7%
    assert "+10%" in text
    assert "-50%" in text
    assert "median 20%" in text
    assert "worst 50%" in text
    assert "bias -7%" in text


def test_rows_of_a_commit_are_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(truth, "KEPT", tmp_path / "truth.csv")
    monkeypatch.setattr(truth.anychip.Chip, "load", staticmethod(lambda file: SimpleNamespace(name="a CPU")))
    for forecast in (0.1, 0.2):
        truth.keep([truth.Row("a", 0.1, forecast, 0.0)], Path("x.toml"), 1)
    head, row = csv.reader((tmp_path / "truth.csv").open())
    assert tuple(head) == truth.COLUMNS
    assert row[5:9] == ["a", "0.1", "0.2", "+1.000"]


def test_the_kept_truth_is_within_what_we_want():
    rows = list(csv.DictReader(truth.KEPT.open()))
    last = [abs(float(row["error"])) for row in rows if row["commit"] == rows[-1]["commit"]]
    assert statistics.median(last) <= truth.MEDIAN
    assert max(last) <= truth.WORST
