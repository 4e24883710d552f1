"""`model.forward(x)`, which skips `Module.__call__`: Meta's Llama generates so, and its layers were taken for the calls."""

import textwrap
from pathlib import Path

import pytest

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
    assert by_name.step_time_s == pytest.approx(as_module.step_time_s)
    assert by_name.samples_per_step == as_module.samples_per_step == 32


def test_training_by_forward_is_the_same_as_by_call(tmp_path: Path) -> None:
    model = MODEL.replace("{decorator}", "")
    by_name, as_module = (forecast(tmp_path, model + TRAIN.replace("{call}", call)) for call in (".forward", ""))
    assert (by_name.step_time_s, by_name.peak_memory_bytes) == (as_module.step_time_s, as_module.peak_memory_bytes)
    assert by_name.samples_per_step == as_module.samples_per_step == 32


HIDES_ITS_PART = """
    import torch
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.parts = torch.nn.Linear(8, 8), [torch.nn.Linear(8, 8).cuda()]   # of a list torch knows nothing
        def forward(self, x):
            return self.parts[0](self.first(x).cuda())
    model = Net()
    optimizer = torch.optim.SGD(model.parts[0].parameters(), lr=0.1)
"""
FORWARD_OF_ITS_OWN = """
    import torch, types
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(8, 8)
        def forward(self, x):
            return self.first(x)
    def forward(self, x):
        return type(self).forward(self, x)
    model = Net().cuda()
    model.forward = types.MethodType(forward, model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""


@pytest.mark.parametrize(("model", "x"), [(HIDES_ITS_PART, "cpu"), (FORWARD_OF_ITS_OWN, "cuda")])
def test_forward_is_wrapped_once_however_often_it_is_called(model: str, x: str, tmp_path: Path) -> None:
    """Each call put one more wrapper around `forward`: RecursionError after a few hundred."""
    call = "model" if x == "cpu" else "model.forward"
    text = f"""
    for _ in range(300):
        {call}(torch.ones(4, 8, device="{x}")).sum().backward()
        optimizer.step()
    assert not hasattr(getattr(Net.forward, "__wrapped__", Net.forward), "__wrapped__")
    """
    assert forecast(tmp_path, model + text, steps=1000).steps == 300


def test_calls_after_a_call_by_name_are_of_their_own(tmp_path: Path) -> None:
    """They were inside of the first, whose end is not seen, where no backward follows."""
    found = forecast(tmp_path, MODEL.replace("{decorator}", "@torch.inference_mode()") + """
    other = torch.nn.Linear(64, 64).cuda()
    with torch.no_grad():
        x = model.forward(x)
        for _ in range(20):
            x = other(x)
    """, calls=6)  # fmt: skip
    assert (found.step_kind, found.kernels_per_step) == ("call", 1)


def test_a_model_that_was_called_by_name_can_be_traced(tmp_path: Path) -> None:
    text = """
    model.forward(x), model.forward(x)
    traced = torch.jit.trace(model, x)
    for _ in range(20):
        traced(x)
    """
    assert forecast(tmp_path, MODEL.replace("{decorator}", "@torch.no_grad()") + text, calls=6).step_kind == "call"


SERVE = """
    import torch
    model = torch.nn.Sequential(torch.nn.Embedding(1000, 256), torch.nn.Linear(256, 1000, bias=False)).cuda()
    for _ in range(2):
        model(torch.zeros(1, 512, dtype=torch.int64, device="cuda"))
        for _ in range(10):
            model(torch.zeros(1, 1, dtype=torch.int64, device="cuda"))
"""


def test_what_is_told_of_a_call_is_of_the_usual_one_as_its_time_is(tmp_path: Path) -> None:
    """One token took the time of one, and was told to be 25: the second prompt's were among them on average."""
    figures = forecast(tmp_path, SERVE)
    assert figures.tokens_per_step == 1
    assert figures.model_flop_per_step == 2 * 256 * 1000


def test_calls_of_a_forward_that_was_taken_once_are_calls_of_their_own(tmp_path: Path) -> None:
    """It skips what later calls by name are known by: all were one call."""
    model = """
    import torch
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(3))
        def forward(self, x):
            for _ in range(2):
                for layer in self.layers:
                    x = layer(x)
            return x
    model = Net().cuda()
    x = torch.randn(32, 64, device="cuda")
    forward = model.forward
    with torch.no_grad():
        for _ in range(20):
            x = {call}(x)
    """
    taken, as_module = (forecast(tmp_path, model.replace("{call}", call), calls=6) for call in ("forward", "model"))
    assert taken.step_kind == as_module.step_kind == "call"
    assert taken.kernels_per_step == as_module.kernels_per_step == 6
    assert taken.step_time_s == as_module.step_time_s
    assert taken.peak_memory_bytes == as_module.peak_memory_bytes


def test_calls_of_a_frozen_graph_are_calls_of_a_model(tmp_path: Path) -> None:
    """It has no parameters, as they are constants of the graph: its calls were none, and the run one step."""
    text = """
    made = torch.jit.{make}
    for _ in range(20):
        x = made(x)
    """
    found, frozen = (
        forecast(tmp_path, MODEL.replace("{decorator}", "") + text.replace("{make}", make), calls=6)
        for make in ("script(model)", "freeze(torch.jit.script(model.eval()))")
    )
    assert found.step_kind == frozen.step_kind == "call"
    assert found.kernels_per_step == frozen.kernels_per_step == 6
    assert frozen.step_time_s == pytest.approx(found.step_time_s)
