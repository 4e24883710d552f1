"""A program of a few lines, recorded on the virtual chip."""

import json
import textwrap
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anychip.device.launch import record
from anychip.record import Kind, Program
from anychip.spec import load_chip


@cache
def run(text: str, **options: Any) -> tuple[Program, Any]:
    """Record a program; also what it left in `out`, through JSON."""
    with TemporaryDirectory() as folder:
        path, out = Path(folder) / "program.py", Path(folder) / "out.json"
        tail = f"\nimport json\njson.dump(out, open({str(out)!r}, 'w'))\n"
        path.write_text("out = None\n" + textwrap.dedent(text) + tail, encoding="utf-8")
        program = record([str(path)], load_chip("h100"), show_output=False, **options)
        return program, json.loads(out.read_text()) if out.exists() else None


def names(program: Program) -> list[str]:
    """The ops in the order in which they were launched."""
    return [program.ops[index].name for index in program.payloads[program.kinds == Kind.OP]]


TRAIN = """
    import torch
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 1)).cuda()
    model = torch.compile(model) if COMPILE else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(100):
        model(torch.randn(32, 64, device="cuda")).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
"""
