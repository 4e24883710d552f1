"""Every CUDA idiom that many programs use, run on a virtual chip: one test per idiom.

`cuda_idioms.csv` is the list; the programs in `idioms/` show each of them with assertions that fail without it. A
program runs once, in one recording process, and reports on all its idioms.
"""

import csv
import json
import re
import tempfile
from functools import cache
from pathlib import Path

import pytest

from anychip.device.launch import record
from anychip.spec import load_chip

HERE = Path(__file__).parent
DEVICES = {"several": 4}  # chips that a program sees, where it is not one
PROGRAMS = sorted(one for one in (HERE / "idioms").glob("*.py") if one.name != "idiom.py")
STRING = r"""'[^'\n]*'|"[^"\n]*\""""


def shown() -> dict[str, list[Path]]:
    """Idiom -> the programs that show it, read from their `@idiom(...)` lines."""
    found: dict[str, list[Path]] = {}
    for path in PROGRAMS:
        text = path.read_text(encoding="utf-8")
        shows = re.findall(r"^@idiom\((.*?)\)$", text, re.M | re.S)
        table = re.search(r"^SOURCES = \{(.*?)^\}", text, re.M | re.S)
        shows += re.findall(rf"^    ({STRING}): ", table[1], re.M) if table else []
        for names in shows:
            for name in re.findall(STRING, names):
                found.setdefault(name[1:-1], []).append(path)
    return found


def listed() -> list[str]:
    with (HERE / "cuda_idioms.csv").open(encoding="utf-8") as file:
        return [row["name"] for row in csv.DictReader(line for line in file if not line.startswith("#"))]


@cache
def report(program: Path) -> dict[str, str]:
    """What one idiom program says: "" or a traceback for each of its idioms."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        record(
            [str(program), str(out)],
            load_chip("h100"),
            steps=10**9,
            devices=DEVICES.get(program.stem, 1),
            show_output=False,
        )
        text: dict[str, str] = json.loads(out.read_text(encoding="utf-8"))
        return text


SHOWN = shown()


@pytest.mark.parametrize("name", listed())
def test_idiom_that_programs_use(name: str) -> None:
    assert name in SHOWN, f"no program in tests/device/idioms shows {name!r}"
    for program in SHOWN[name]:
        assert report(program)[name] == ""


@pytest.mark.parametrize("name", sorted(set(SHOWN) - set(listed())))
def test_what_else_cuda_programs_do(name: str) -> None:
    for program in SHOWN[name]:
        assert report(program)[name] == ""
