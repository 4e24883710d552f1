"""The first batch, which a loop holds until the second has come, is an input like those after it and no buffer."""

import textwrap
from pathlib import Path

from anychip.device.launch import record
from anychip.spec import load_chip
from anychip.timeline.memory import memory

LOOP = """
    import torch
    model = torch.nn.BatchNorm1d(1024).cuda()
    table = torch.zeros(1024, 1024, device="cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        x = torch.randn(65536, 1024, device="cuda")
        (model(x[:512]) + table[:512]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
"""


def test_the_first_batch_is_no_buffer(tmp_path: Path) -> None:
    script = tmp_path / "loop.py"
    script.write_text(textwrap.dedent(LOOP))
    kinds = memory(record([str(script)], load_chip("h100"), show_output=False)).by_kind
    batch, table, statistics = 65536 * 1024 * 4, 1024 * 1024 * 4, 2 * 1024 * 4 + 512
    assert kinds["other"] >= 2 * batch  # one that is there and the next
    assert table < kinds["buffers"] <= table + statistics
