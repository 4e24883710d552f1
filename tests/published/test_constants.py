"""A number in cost/, network/ or cluster/ that moves a forecast has its evidence in accuracy/constants.csv."""

import ast
import csv
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KINDS = {"measured", "fitted", "counted", "assumed", "algorithm", "unit", "display"}
# Numbers that say nothing of a chip: nothing, all, half, twice, units, and what keeps a division from zero.
PLAIN = {0.0, 1.0, 0.5, 2.0, 1e-12, 1e-9, 1e-30, 99.0, 1e9}


def numbers(tree):
    """Names of module-level constants that hold a number, and decimal fractions written in the midst of code."""
    found, named = set(), set()
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            inside = [one for one in ast.walk(node) if isinstance(one, ast.Constant)]
            named |= {id(one) for one in inside}
            if isinstance(target, ast.Name) and any(type(one.value) in (int, float) for one in inside):
                found.add(target.id)
    for node in ast.walk(tree):
        inline = isinstance(node, ast.Constant) and type(node.value) is float and id(node) not in named
        if inline and node.value not in PLAIN:
            found.add(str(node.value))
    return found


def in_code():
    return {
        (f"{package}/{path.name}", name)
        for package in ("cost", "network", "cluster")
        for path in (ROOT / "anychip" / package).glob("*.py")
        for name in numbers(ast.parse(path.read_text(encoding="utf-8")))
    }


def rows():
    with (ROOT / "accuracy" / "constants.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_constant_has_its_evidence():
    missing = in_code() - {(row["file"], row["name"]) for row in rows()}
    assert not missing, f"say in accuracy/constants.csv what these rest on: {sorted(missing)}"


def test_no_evidence_is_kept_of_what_is_gone():
    assert not {(row["file"], row["name"]) for row in rows()} - in_code()


def test_evidence_is_of_a_known_kind():
    for row in rows():
        assert row["kind"] in KINDS, row
        assert row["evidence"] or row["kind"] == "unit", row


@pytest.mark.parametrize(("source", "found"), [
    ("RATE = 0.83", {"RATE"}), ("def f(x):\n    return x * 0.93", {"0.93"}), ("def f(x):\n    return x / 2", set()),
    ("NAMES = {'a'}", set()), ("def f(x):\n    return max(x, 0.0)", set()),
])  # fmt: skip
def test_what_counts_as_a_constant(source, found):
    assert numbers(ast.parse(source)) == found


def fitted():
    return tomllib.loads((ROOT / "accuracy" / "fit.toml").read_text(encoding="utf-8"))["fit"]


def test_at_most_three_runs_of_a_family_were_fitted():
    assert all(len(entry["ids"]) <= 3 for entry in fitted())


def test_runs_that_rates_name_as_fitted_are_left_out_of_every_figure():
    known = {one for entry in fitted() for one in entry["ids"]}
    named = set()
    for path in (ROOT / "anychip" / "standard" / "rates").glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            texts = [row["source"] for row in csv.DictReader(file) if "fit on" in row["source"]]
        named |= set(re.findall(r"(?:megatron|torchtitan|torchao|dgxc|mbridge|mlp|msl|tpu)-\d{3}", " ".join(texts)))
    assert named
    for path in (ROOT / "anychip" / "standard" / "links").glob("*.toml"):
        named |= set(re.findall(r"fit on one published run \(([a-z]+-\d{3})", path.read_text(encoding="utf-8")))
    assert "inf-190" in named
    assert named <= known
