"""Chips whose software compiles whole steps: `torch.compile` is nothing new to them."""

import pytest

import anychip
from anychip.device.launch import record
from anychip.forecast import forecast
from anychip.record import Kind
from anychip.spec import load_chip

TRAIN = """
import sys, torch
class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = torch.nn.LayerNorm(512), torch.nn.Linear(512, 2048), torch.nn.Linear(2048, 512)
    def forward(self, x):
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))
model = torch.nn.Sequential(Block(), Block()).cuda().bfloat16()
model = torch.compile(model) if "--compile" in sys.argv else model
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(4):
    model(torch.randn(4096, 512, device="cuda", dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
"""


@pytest.mark.parametrize(("chip", "gains"), [("tpu-v5p", False), ("trn2", False), ("h100", True)])
def test_compile_gains_nothing_where_steps_are_compiled_anyway(tmp_path, chip, gains):
    """Point-wise operations were each a kernel of its own on a TPU unless the program asked for what its software does."""
    (tmp_path / "train.py").write_text(TRAIN)
    place = load_chip(chip)
    plain, compiled = (
        record([str(tmp_path / "train.py"), *options], place, show_output=False) for options in ([], ["--compile"])
    )
    times = [forecast(program, place).step_time_s for program in (plain, compiled)]
    assert (times[1] < 0.99 * times[0]) == gains
    assert bool((plain.kinds == Kind.COMPILED).any()) != gains


def test_chips_that_compile_alike_share_a_recording(tmp_path):
    """Two kinds of chips, two recordings: each chip that answered otherwise than the first had one of its own."""
    (tmp_path / "train.py").write_text(TRAIN)
    answer = anychip.forecast(str(tmp_path / "train.py"), ["h100", "tpu-v5p", "mi300x", "trn2"], show_output=False)
    first, tpu, mi300x, trn2 = answer.programs
    assert first is mi300x
    assert tpu is trn2
    assert tpu is not first
