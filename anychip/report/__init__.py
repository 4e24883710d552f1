"""Answers as people and programs read them: the terminal, JSON, traces and memory snapshots."""

import os
from typing import TYPE_CHECKING

from anychip.report.as_json import no_answer, to_json
from anychip.report.files import with_name, write_whole

if TYPE_CHECKING:
    from anychip.api import Answer

__all__ = ["no_answer", "show", "to_json", "write_memory_snapshots", "write_traces", "write_whole"]


def show(answer: "Answer") -> None:
    """Print the answer on stdout."""
    from anychip.report import terminal

    terminal.show(answer)


def write_traces(answer: "Answer", path: str | os.PathLike[str]) -> list[str | os.PathLike[str]]:
    """A Chrome trace for each target; with several, the target goes before the suffix. Where they are."""
    from anychip.report import trace
    from anychip.timeline import price

    places = []
    for index, (chip, program) in enumerate(zip(answer.chips, answer.programs, strict=True)):
        job = answer.timeline(index)
        text = trace.job_to_bytes(job) if job is not None else trace.to_bytes(price(program, chip))
        places.append(_place(answer, path, index))
        write_whole(places[-1], text)
    return places


def write_memory_snapshots(answer: "Answer", path: str | os.PathLike[str]) -> list[str | os.PathLike[str]]:
    """A memory snapshot for each target; with several, the target goes before the suffix, and of a job with several
    distinct ranks the rank. Where they are."""
    from anychip.report import snapshot

    places = []
    for index, program in enumerate(answer.programs):
        place = _place(answer, path, index)
        for rank in program.ranks:
            places.append(with_name(place, f"rank{rank.rank}") if program.others else place)
            write_whole(places[-1], snapshot.to_bytes(rank))
    return places


def _place(answer: "Answer", path: str | os.PathLike[str], index: int) -> str | os.PathLike[str]:
    """The file of one target: out.json, or out.h100-8.json among several."""
    if len(answer.chips) == 1:
        return path
    count = answer.forecasts[index].num_chips
    cluster = answer.forecasts[index].cluster if len(set(answer.chips)) < len(answer.chips) else None
    parts = (answer.chips[index].id, str(count) if count > 1 else "", cluster or "" if count > 1 else "")
    return with_name(path, "-".join(part for part in parts if part))
