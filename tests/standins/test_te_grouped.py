"""Transformer Engine's grouped layer: a product for each part of its rows, which its host pays for one by one."""

from pathlib import Path

import pytest

from anychip.device.launch import record
from anychip.forecast import forecast
from anychip.spec import load_chip

PROGRAM = """
import sys
import torch
import transformer_engine.pytorch as te

parts = int(sys.argv[1])
layer = te.GroupedLinear(parts, 64, 64, bias=False, params_dtype=torch.bfloat16)
optimizer = torch.optim.SGD(layer.parameters(), 0.1)
x = torch.rand(parts * 16, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
for _ in range(4):
    out = layer(x, [16] * parts)
    assert out.shape == x.shape
    out.sum().backward()
    assert x.grad.shape == x.shape
    optimizer.step()
    optimizer.zero_grad()
"""


def step_s(folder: Path, parts: int, chip: str) -> float:
    (folder / "train.py").write_text(PROGRAM, encoding="utf-8")
    on = load_chip(chip)
    return forecast(record([str(folder / "train.py"), str(parts)], on, show_output=False), on).step_time_s


@pytest.mark.parametrize(("chip", "host_us"), [("nvidia-h100-sxm", 33), ("nvidia-gb200-nvl72", 91)])
def test_each_product_takes_the_host_what_the_library_does(tmp_path, chip, host_us):
    """By the library's own benchmark a Xeon needs 33 us for each, a Grace 2.75 times what a Xeon needs for any op."""
    few, many = (step_s(tmp_path, parts, chip) for parts in (32, 64))
    each = (many - few) / 32 / 3  # one product forward, two backward
    assert each * 1e6 == pytest.approx(host_us, rel=0.1)
