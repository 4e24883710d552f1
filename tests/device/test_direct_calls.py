"""`model.forward(x)`, which skips `Module.__call__`: Meta's Llama generates so, and its layers were taken for the calls."""

import textwrap
from pathlib import Path

import anychip

MODEL = """
    import torch
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.layers = torch.nn.Linear(64, 64), torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(5))
        {decorator}
        def forward(self, x):
            x = self.first(x)
            for layer in self.layers:
                x = layer(x)
            return x
    model = Net().cuda()
    x = torch.randn(32, 64, device="cuda")
"""
TRAIN = """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        model{call}(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
"""
GENERATE = """
    for _ in range(20):
        x = model{call}(x)
"""


def forecast(folder: Path, text: str, **options: int) -> anychip.Forecast:
    program = folder / "program.py"
    program.write_text(textwrap.dedent(text), encoding="utf-8")
    return anychip.forecast(anychip.record([str(program)], on="h100", **options), on=["h100"]).forecasts[0]


def test_a_forward_that_is_called_by_its_name_is_a_call_of_the_model(tmp_path: Path) -> None:
    model = MODEL.replace("{decorator}", "@torch.inference_mode()")
    by_name, as_module = (
        forecast(tmp_path, model + GENERATE.replace("{call}", call), calls=6) for call in (".forward", "")
    )
    assert by_name.step_kind == as_module.step_kind == "call"
    assert by_name.kernels_per_step == as_module.kernels_per_step == 6
    assert by_name.step_time_s == as_module.step_time_s
    assert by_name.samples_per_step == as_module.samples_per_step == 32


def test_training_by_forward_is_the_same_as_by_call(tmp_path: Path) -> None:
    model = MODEL.replace("{decorator}", "")
    by_name, as_module = (forecast(tmp_path, model + TRAIN.replace("{call}", call)) for call in (".forward", ""))
    assert (by_name.step_time_s, by_name.peak_memory_bytes) == (as_module.step_time_s, as_module.peak_memory_bytes)
    assert by_name.samples_per_step == as_module.samples_per_step == 32
