"""tools/real_programs.py on programs of our own: what is absent is said, what steps is told from what only ends."""

import importlib.util
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = """
[[program]]
name = "absent"
source = "https://example.org/absent"
folder = "nowhere"
run = ["train.py"]

[[program]]
name = "steps"
source = "https://example.org/small"
folder = "small"
data = { tokens = "data" }
run = ["train_small.py"]

[[program]]
name = "fails"
source = "https://example.org/small"
folder = "small"
driver = "raise KeyError('no such thing')"

[[program]]
name = "wants"
source = "https://example.org/small"
folder = "small"
needs = ["a_module_that_nobody_has"]
run = ["train_small.py"]
"""


def tool(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a run, and the command that did it."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "table.toml").write_text(TABLE, encoding="utf-8")
    (folder / "programs" / "small").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "programs" / "train_small.py", folder / "programs" / "small")
    command = [sys.executable, str(ROOT / "tools" / "real_programs.py"), "--table", str(folder / "table.toml"),
               "--programs", str(folder / "programs"), "--out", str(folder / "out"), "--on", "h100"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr  # one of them failed
    return folder, command


def test_each_program_is_judged_by_its_recording(ran: tuple[Path, list[str]]) -> None:
    results = json.loads((ran[0] / "out" / "real_programs.json").read_text())
    assert {name: result["status"] for name, result in results.items()} == {
        "absent": "skipped", "steps": "stepping", "fails": "failed", "wants": "skipped",
    }  # fmt: skip
    assert "nowhere" in results["absent"]["why"]
    assert "https://example.org/absent" in results["absent"]["why"]
    assert "no such thing" in results["fails"]["why"]
    assert "a_module_that_nobody_has" in results["wants"]["why"]
    (target,) = results["steps"]["targets"]
    assert (target["steps"], target["kind"]) == (3, "train")
    assert target["parameter_bytes"] > 0
    assert target["ops"] > 0
    assert sum(target["evidence"].values()) == pytest.approx(1)


def test_the_table_has_a_row_for_each_and_the_run_goes_on_where_it_ended(ran: tuple[Path, list[str]]) -> None:
    folder, command = ran
    table = (folder / "out" / "real_programs.md").read_text()
    assert "| [steps](https://example.org/small) | h100 | 1 | 3 train |" in table
    assert "**skipped**" in table
    assert "1 of 4 are stepping." in table
    kept = folder / "out" / "results" / "steps.json"
    before = kept.stat().st_mtime_ns
    subprocess.run([*command, "absent"], capture_output=True, timeout=300)
    assert kept.stat().st_mtime_ns == before
    assert "1 of 4 are stepping." in (folder / "out" / "real_programs.md").read_text()


def test_ending_well_is_not_enough() -> None:
    judged = tool("real_programs").judged
    fine = {
        "on": "h100",
        "kind": "train",
        "steps": 3,
        "parameter_bytes": 8,
        "evidence": {"bytes_only": 0.0},
        "exit_code": 0,
    }
    assert judged([fine]) == {"status": "stepping", "why": ""}
    assert "no step" in judged([{**fine, "kind": "run"}])["why"]
    assert "no parameters on the chip" in judged([{**fine, "parameter_bytes": 0}])["why"]
    assert "11% of the time by bytes alone" in judged([{**fine, "evidence": {"bytes_only": 0.11}}])["why"]
    assert "exit code 3" in judged([{**fine, "exit_code": 3}])["why"]


def test_the_table_of_programs_is_whole() -> None:
    entries = tomllib.loads((ROOT / "tools" / "real_programs.toml").read_text())["program"]
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names)
    kinds = tool("real_data").KINDS
    for entry in entries:
        assert entry["source"].startswith("https://")
        assert "run" in entry or "driver" in entry
        assert set(entry.get("data", {})) <= set(kinds)


def test_made_data_have_the_layouts_that_are_read(tmp_path: Path) -> None:
    kinds = tool("real_data").KINDS
    for kind in ("mnist", "tokens", "cora", "text"):
        kinds[kind](tmp_path / kind)
    # 16 bytes of header and 2,048 pictures of 28 x 28
    assert (tmp_path / "mnist/MNIST/raw/train-images-idx3-ubyte").stat().st_size == 16 + 2048 * 28 * 28
    assert (tmp_path / "tokens/train.bin").stat().st_size == 2 * 200_000
    assert len((tmp_path / "cora/cora.content").read_text().splitlines()) == 2708
    assert json.loads((tmp_path / "text/train.jsonl").read_text().splitlines()[0])["text"]
