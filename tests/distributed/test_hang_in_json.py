"""A job that would hang is an answer in JSON, too: which ranks, what they call, where."""

import json
from pathlib import Path
from typing import Any

import pytest

from anychip.cli import main
from tests.distributed.jobs import PROGRAMS


def answered(path: Path, *program: str) -> Any:
    path.write_text("an older answer")
    argv = ["forecast", "--quiet", "--on", "h100:2", "--json", str(path), str(PROGRAMS / program[0]), *program[1:]]
    assert main(argv) == 2
    return json.loads(path.read_text())


@pytest.mark.parametrize("program", [("deadlock.py",), ("one_branch.py", "tags_differ")])
def test_ranks_that_wait_for_one_another(tmp_path: Path, program: tuple[str, ...]) -> None:
    """Found while they run, or when they have ended."""
    answer = answered(tmp_path / "answer.json", *program)
    assert (answer["outcome"], answer["exit_code"], answer["targets"], answer["failure"]) == ("would_hang", 2, [], None)
    assert answer["left_out"] == ["h100:2"]
    assert not answer["hang"]["is_mismatch"]
    one, other = answer["hang"]["ranks"]
    assert (one["rank"], one["waits_for"]) == (0, [1])
    assert (other["rank"], other["waits_for"]) == (1, [0])
    assert Path(other["file"]).name == program[0]
    assert other["line"] > 0
    assert "recv" in other["call"]


def test_ranks_that_meet_and_do_not_fit(tmp_path: Path) -> None:
    answer = answered(tmp_path / "answer.json", "one_branch.py", "gather_object")
    assert answer["hang"]["is_mismatch"]
    assert answer["hang"]["ranks"][0]["call"].startswith("gather_object to rank 0 in group")
    assert "collectives do not match" in answer["warnings"][0]
