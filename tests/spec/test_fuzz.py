"""Files that somebody, or something, has broken: problems are told, nothing is raised, no nonsense is taken for a figure.

ANYCHIP_FUZZ=10000 sets how many files are mutated; few by default.
"""

import os
import random
import re
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anychip.errors import AnychipError
from anychip.spec import catalogue, load_chip
from anychip.spec.checking import check_document, schema_of
from anychip.spec.context import Context, subject
from anychip.spec.fields import SCHEMAS
from anychip.spec.load import read_parents
from anychip.spec.problem import Problem
from anychip.spec.toml import parse
from anychip.spec.units import BOUNDS, UNITS

COUNT = int(os.environ.get("ANYCHIP_FUZZ", "100"))
FILES = [file for kind in SCHEMAS for file in catalogue.files(kind)]
CHIPS = [file for file in catalogue.files("chips") if "extends" not in file.read_text(encoding="utf-8")]
QUICK = settings(max_examples=COUNT, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

NUMBER = re.compile(rb"value = ([0-9.e+-]+)")
UNIT = re.compile(rb', unit = "([^"]+)"')
NONSENSE = (
    "-1",
    "0",
    "-0.0",
    "nan",
    "inf",
    "-inf",
    "1e300",
    "1e-300",
    "true",
    '"7"',
    "[]",
    "{}",
    "2026-01-02",
    "9" * 5000,
)


@cache
def context() -> Context:
    return Context.of_all()


def told(file: Path, data: bytes) -> list[Problem]:
    """The problems of the mutated file; whatever is accepted has only figures that can be."""
    doc = parse(file, data)
    problems = check_document(doc, context())
    assert all(str(problem) for problem in problems)
    if not problems:
        kind = schema_of(doc)
        parents = read_parents(doc) if kind == "chips" else []
        for path, figure in subject(doc, kind, parents).figures.items():
            low, high = BOUNDS.get(figure.unit, (0.0, 1e30))
            assert figure.value is None or low <= figure.value <= high, (path, figure)
    return problems


def flipped(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, cut out, doubled or put in."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) or 1)
        length = rng.choice((1, 1, 1, 8, 200))
        piece = out[at : at + length]
        out[at : at + length] = rng.choice(
            (bytes([rng.randrange(256)]), bytes(b ^ (1 << rng.randrange(8)) for b in piece), b"", bytes(piece * 2),
             rng.randbytes(length))
        )  # fmt: skip
    return bytes(out)


def test_bytes_flipped() -> None:
    rng = random.Random(4)
    for _ in range(COUNT):
        file = rng.choice(FILES)
        told(file, flipped(file.read_bytes(), rng))


def test_lines_lost_doubled_and_moved() -> None:
    rng = random.Random(5)
    for _ in range(COUNT // 3):
        file = rng.choice(FILES)
        lines = file.read_bytes().splitlines(keepends=True)
        a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[a], lines[b] = rng.choice(((lines[b], lines[a]), (b"", lines[b]), (lines[a] * 2, lines[b])))
        told(file, b"".join(lines))


@QUICK
@given(st.sampled_from(FILES), st.integers(0, 10**6), st.sampled_from(NONSENSE))
def test_a_figure_that_is_nonsense_is_told(file: Path, which: int, nonsense: str) -> None:
    data = file.read_bytes()
    places = list(NUMBER.finditer(data))
    if places:
        place = places[which % len(places)]
        assert told(file, data[: place.start(1)] + nonsense.encode() + data[place.end(1) :])


@QUICK
@given(
    st.sampled_from(FILES), st.integers(0, 10**6), st.sampled_from([*UNITS, "", "TFLOPS", "gb/s", "\N{MICRO SIGN}s"])
)
def test_a_unit_of_another_dimension_is_told(file: Path, which: int, unit: str) -> None:
    data = file.read_bytes()
    places = list(UNIT.finditer(data))
    if places:
        place = places[which % len(places)]
        old = UNITS[place[1].decode()][1]
        problems = told(file, data[: place.start(1)] + unit.encode() + data[place.end(1) :])
        assert problems or UNITS[unit][1] == old


@QUICK
@given(st.sampled_from(FILES), st.binary(max_size=300), st.integers(0, 10**4))
def test_anything_put_into_a_file(file: Path, piece: bytes, at: int) -> None:
    data = file.read_bytes()
    at %= len(data)
    told(file, data[:at] + piece + data[at:])


@QUICK
@given(st.text(max_size=400))
def test_any_text_is_a_bad_file_and_nothing_worse(text: str) -> None:
    assert told(Path("chips/x-y.toml"), text.encode("utf-8", "surrogatepass"))


# What a slipped digit, or GB for MB, does to the figures that forecasts rest on.
CORE = ("peaks.matrix.bf16", "peaks.matrix.fp16", "peaks.matrix.fp8", "memory.main.bandwidth", "memory.main.capacity")
# These lack the figures against which others are checked.
UNCHECKED = 0.1


@pytest.mark.parametrize("factor", [1000.0, 0.001])
def test_a_thousandfold_slip_is_told(factor: float) -> None:
    """On nine of ten figures at least; where a file knows hardly anything else, nothing can be compared."""
    missed = seen = 0
    for file in CHIPS:
        text, table = file.read_text(encoding="utf-8"), ""
        for line in text.splitlines(keepends=True):
            table = line.strip("[]\n") if line.startswith("[") else table
            found = re.match(r"(\w+) = \{ value = ([0-9.e+]+)", line)
            if found and f"{table}.{found[1]}" in CORE:
                slipped = line.replace(found[2], repr(float(found[2]) * factor), 1)
                seen += 1
                missed += not told(file, text.replace(line, slipped, 1).encode())
    assert seen > 100
    assert missed <= UNCHECKED * seen, f"{missed} of {seen}"


def test_a_mutated_file_loads_or_says_why(tmp_path: Path) -> None:
    rng = random.Random(6)
    for number in range(min(COUNT, 1000)):
        source = rng.choice(CHIPS)
        folder = tmp_path / str(number)
        folder.mkdir()
        file = folder / source.name
        file.write_bytes(flipped(source.read_bytes(), rng))
        try:
            chip = load_chip(file)
            assert str(chip.figures)
            assert chip.links is not None
        except AnychipError:
            continue
