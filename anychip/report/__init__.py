"""Answers as people and programs read them: the terminal, JSON, traces and memory snapshots."""

import os
from typing import TYPE_CHECKING

from anychip.report.as_json import to_json
from anychip.report.files import with_name, write_whole

if TYPE_CHECKING:
    from anychip.api import Answer

__all__ = ["show", "to_json", "write_memory_snapshots", "write_traces", "write_whole"]


def show(answer: "Answer") -> None:
    """Print the answer on stdout."""
    from anychip.report import terminal

    terminal.show(answer)


def write_traces(answer: "Answer", path: str | os.PathLike[str]) -> None:
    """A Chrome trace for each target; with several, the chip's id goes before the suffix."""
    from anychip.report import trace
    from anychip.timeline import price

    for chip, program in zip(answer.chips, answer.programs, strict=True):
        place = path if len(answer.chips) == 1 else with_name(path, chip.id)
        write_whole(place, trace.to_bytes(price(program, chip)))


def write_memory_snapshots(answer: "Answer", path: str | os.PathLike[str]) -> None:
    """A memory snapshot for each target; with several, the chip's id goes before the suffix."""
    from anychip.report import snapshot

    for chip, program in zip(answer.chips, answer.programs, strict=True):
        write_whole(path if len(answer.chips) == 1 else with_name(path, chip.id), snapshot.to_bytes(program))
