"""An installed `pynvml`, which torch.cuda imports before the virtual chip is there."""

import textwrap
from pathlib import Path

import pytest

from anychip.device.launch import record
from anychip.spec import load_chip

PACKAGE = """
    class NVMLError(Exception): ...
    class NVMLError_NotFound(NVMLError): ...
    def nvmlInit(): raise NVMLError_NotFound("no library")
    def nvmlDeviceGetCount(): return 0
"""


def test_an_installed_package_answers_through_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pynvml.py").write_text(textwrap.dedent(PACKAGE), encoding="utf-8")
    program = tmp_path / "program.py"
    text = "import torch, pynvml; pynvml.nvmlInit(); torch.ones(pynvml.nvmlDeviceGetCount(), device='cuda').add_(1)"
    program.write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert record([str(program)], load_chip("h100"), show_output=False).meta["exit_code"] == 0
