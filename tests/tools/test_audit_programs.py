"""tools/audit_programs.py and tools/port_programs.py on a small program of our own: rows, labels, what is absent, what differs."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from anychip.port.runners import reached

TOOLS = Path(__file__).resolve().parents[2] / "tools"
PROGRAM = '''"""Runs on cuda:
import triton
"""
import torch

model = torch.nn.Linear(4, 2).cuda()  # torch.cuda
torch.cuda.synchronize()
impl = "cuda"
x = torch.zeros(3, device="cuda:0")
'''


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module


@pytest.fixture
def program(tmp_path: Path) -> Path:
    folder = tmp_path / "programs" / "small"
    folder.mkdir(parents=True)
    (folder / "train.py").write_text(PROGRAM)
    (folder / "kernel.cu").write_text("// cudaMalloc\n__global__ void k() { int i = threadIdx.x; }\n")
    (folder / "run.sh").write_text("# nvidia-smi\nCUDA_VISIBLE_DEVICES=0 python train.py\n")
    return folder


def test_the_second_opinion_counts_words_outside_comments_and_docstrings(tools: Any, program: Path) -> None:
    count = tools("count_cuda")
    assert count.lines_of("train.py", PROGRAM) == {6, 7, 8, 9}
    assert count.lines_of("kernel.cu", (program / "kernel.cu").read_text()) == {2}
    assert count.lines_of("run.sh", (program / "run.sh").read_text()) == {2}
    assert count.lines_of("k.h", "#include <hip/hip_runtime.h>\n__global__ void k();\n") == set()
    assert count.lines_of("notes.md", "torch.cuda") == set()
    assert count.lines_of("old.py", "import torch.cuda\nx = '''unfinished\n") == set()


def test_a_row_says_what_audit_and_port_did(tools: Any, program: Path) -> None:
    table = tools("audit_programs")
    line = PROGRAM.split("\n")[6]
    label = {"file": "train.py", "line": "7", "bound": "yes", "mark": table.mark(line)}
    labels = [label, {**label, "line": "4", "mark": "another line by now"}, {**label, "line": "6", "bound": "unsure"}]
    result = table.measure(program, labels)
    assert result["plain"] == 6
    assert result["missed_at"] == []
    assert result["labels"] == {"yes-yes": 1}
    assert result["port"]["edits"] == 3  # line 8 is no device for certain
    assert result["port"]["unsure"] == 1
    assert result["broken"] == []
    assert "100.0% of 6" in table.row("small", result)
    assert "75.0%" in table.table({"small": result})


def test_programs_that_are_not_there_are_named(tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = tools("audit_programs").main(
        ["--programs", str(tmp_path), "--out", str(tmp_path / "out"), "karpathy/nanoGPT"]
    )
    assert code == 0
    assert "karpathy/nanoGPT: not in" in capsys.readouterr().out


def test_a_ported_program_must_do_what_it_did(tools: Any, tmp_path: Path) -> None:
    ported = tools("port_programs")
    old = {"steps": 3, "ops": 10, "parameter_bytes": 8}
    assert ported.differences(old, old, named=False) == ""
    assert ported.differences(old, {**old, "ops": 11}, named=True) == ""
    assert ported.differences(old, {**old, "ops": 11}, named=False) == "ops: 10 before, 11 now"
    entry = {"name": "x", "module": True, "run": ["pkg.train", "--steps", "3"]}
    runner, chip, asked, *words = ported.as_named(entry, "ascend-910b:8", tmp_path)["run"]
    assert (runner, chip, words) == (
        "anychip.port.runners.as_named",
        "ascend-910b",
        ["-m", "pkg.train", "--steps", "3"],
    )
    reached.watch(asked)  # reads it, as the runner does: it took the program for it
    results = {"x": {"on": {"h100": {"ok": False, "why": "boom", "named": False}}, "before": {"h100": old}}}
    assert "0 of 1" in ported.table(results)
    assert "boom" in ported.table(results)
    assert json.dumps(results)
