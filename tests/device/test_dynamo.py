"""Dynamo is not imported where only torch itself asks for it, to be told that it has nothing to do."""

import textwrap
from pathlib import Path

import pytest

from anychip.device.launch import record
from anychip.spec import load_chip

PROGRAM = """
    import sys
    import torch

    {first}
    model = torch.nn.Linear(8, 8).cuda()
    for kind in (torch.optim.SGD, torch.optim.AdamW, torch.optim.Adafactor):
        optimizer = kind(model.parameters())
        grads = []
        optimizer.register_step_pre_hook(lambda *_: grads.append(torch.is_grad_enabled()))
        model(torch.randn(4, 8, device="cuda")).sum().backward()
        optimizer.step(lambda: grads.append(torch.is_grad_enabled()))
        optimizer.zero_grad()
        optimizer.load_state_dict(optimizer.state_dict())
        assert torch.is_grad_enabled()
        assert kind.step.__name__ == "step" and kind.zero_grad.__doc__
        print(kind.__name__, grads, "torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize(("first", "there"), [("", False), ("import torch._dynamo", True)], ids=["spared", "imported"])
def test_optimizers_step_without_dynamo_and_with_it(
    first: str, there: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM).format(first=first))
    record([str(script)], load_chip("h100"), steps=9)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.endswith(str(there))]
    # the hook is called before gradients are off, the closure with them on again, as torch has it
    assert lines == [f"{kind} [True, True] {there}" for kind in ("SGD", "AdamW", "Adafactor")]
