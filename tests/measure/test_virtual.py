"""The way to an accelerator, without one: a virtual chip is measured, and gives back what its own file says."""

from pathlib import Path

import pytest

import anychip
from anychip.cost.machine import machine
from anychip.cost.rates import parse
from anychip.record import Op, TensorMeta

PROGRAM = Path(__file__).parent / "virtual_chip.py"


def test_a_virtual_chip_measures_as_it_is_priced(tmp_path):
    out = tmp_path / "nvidia-h100-sxm.csv"
    anychip.record([str(PROGRAM), str(out)], on="h100", steps=10**9, show_output=False)
    rows = {(row.op, row.shape): row.value for row in parse(out.read_text(), out.name)}
    chip = anychip.Chip.load("h100")
    on = machine(chip)
    assert rows["memory.rate", ""] == pytest.approx(on.memory_bytes_per_s, rel=0.02)
    assert rows["host_link.rate", ""] == pytest.approx(on.host_link_bytes_per_s, rel=0.05)
    # an op that the host issues back to back: reaching the launch, and the launch
    assert rows["host.launch", ""] == pytest.approx(on.host_op_s + on.host_launch_s, rel=0.02)
    assert rows["kernel.floor_graph", ""] == pytest.approx(on.graph_floor_s, rel=0.2)
    a = TensorMeta((4096, 4096), (4096, 1), "bfloat16")
    b = TensorMeta((4096, 4096), (1, 4096), "bfloat16")
    from anychip.cost.price import price_op

    priced = price_op(Op("aten.mm.default", (a, b), (), (a,)), chip).time_s
    assert rows["gemm", "4096x4096x4096 nt"] == pytest.approx(2 * 4096**3 / priced, rel=0.03)
