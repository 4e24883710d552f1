"""What a program does on a chip after it called a model is in no figure, and told."""

import pytest

from anychip import api

PROGRAM = """
import torch
layer = torch.nn.Linear(512, 512, device="cuda")
with torch.no_grad():
    for _ in range(4):
        layer(torch.randn(64, 512, device="cuda"))
    for _ in range({rounds}):
        layer.weight.sub_(layer.weight @ layer.weight)
"""


@pytest.mark.parametrize(("rounds", "is_told"), [(200, True), (1, False)])
def test_work_that_is_longer_than_all_calls_is_told(rounds, is_told, tmp_path):
    """Quantising by GPTQ was told as 16 calls of a layer, of 0.2 ms each: the seconds that it took after these were not mentioned."""
    path = tmp_path / "quantise.py"
    path.write_text(PROGRAM.format(rounds=rounds), encoding="utf-8")
    warnings = api.forecast(str(path), on=["h100"]).warnings
    assert any("After its last call" in one for one in warnings) == is_told
