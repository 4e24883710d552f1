"""Records one program text on a chip and hands back what was recorded and what the program reported."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from anychip.cost import Work, work
from anychip.device.launch import record
from anychip.record import Kind, Op, Program
from anychip.spec import load_chip


class Recorded:
    """program: the recording. said: what the program wrote as JSON to the file that is its first argument."""

    def __init__(self, path: Path, out: Path, chip: str = "h100") -> None:
        self.program: Program = record([str(path), str(out)], load_chip(chip), steps=10**9, show_output=False)
        self.said: Any = json.loads(out.read_text(encoding="utf-8")) if out.exists() else None
        launched = self.program.payloads[self.program.kinds == Kind.OP]
        self.ops: list[Op] = [self.program.ops[index] for index in launched.tolist()]

    def count(self, name: str) -> int:
        """How often ops whose name begins so were launched."""
        return sum(count for one, count in Counter(op.name for op in self.ops).items() if one.startswith(name))

    def op(self, name: str) -> Op:
        """The only distinct op of this name."""
        found = [op for op in self.program.ops if op.name == name]
        assert len(found) == 1, (name, found)
        return found[0]

    def work(self, name: str) -> Work:
        return work(self.op(name))

    @property
    def warnings(self) -> list[str]:
        found: list[str] = self.program.meta["warnings"]
        return found
