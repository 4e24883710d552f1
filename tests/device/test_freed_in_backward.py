"""What a backward frees as it ends is no gradient of a parameter: the next allocation alone told that it was gone."""

import textwrap
from pathlib import Path

import pytest

from anychip.device.launch import record
from anychip.spec import load_chip
from anychip.timeline.memory import memory

WIDE = """
    import torch
    model = torch.nn.Sequential(torch.nn.Linear(64, 4096), torch.nn.ReLU(), torch.nn.Linear(4096, 64)).cuda()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        loss = model(torch.randn(1024, 64, device="cuda")).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


@pytest.mark.parametrize("fold", ["0", "1"])
def test_gradients_of_activations_are_none_of_parameters(
    fold: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYCHIP_FOLD", fold)
    script = tmp_path / "wide.py"
    script.write_text(textwrap.dedent(WIDE))
    kinds = memory(record([str(script)], load_chip("h100"), show_output=False)).by_kind
    layer = 1024 * 4096 * 4  # what the first layer gives, the ReLU, and the gradient of the one or the other
    assert kinds["activations"] >= 3 * layer
    assert kinds["gradients"] == (4096 * 64 + 64) * 4  # of the second layer; the first has none yet
