"""The rates file: whole after each point, taken up again, refused where it is of something else."""

import pytest

from anychip.cost.rates import parse
from anychip.errors import BadUse
from anychip.measure.file import open_file
from anychip.measure.point import Point, Timing
from anychip.spec.checking import check

ABOUT = {"device": "cpu", "name": "a CPU", "software": "torch 2.13", "clock": "wall"}


def gemm(shape):
    return Point("gemm", "fp32", shape, "TFLOP/s", lambda: lambda: None, amount=2e6)


def begun(path):
    file = open_file(path, ABOUT, "torch 2.13, AVX2", "a test, of two words")
    file.add(gemm("100x100x100 nt"), 5e10, Timing((40e-6, 41e-6, 39e-6)))
    file.add(Point("host.step", "", "", "us", lambda: lambda: None), 7e-6, Timing((7e-6,)))
    file.skip(gemm("200x200x200 nt"), 'RuntimeError: "addmm" is not\nimplemented')
    return file


def test_the_file_is_a_rates_file_that_the_check_accepts(tmp_path):
    begun(tmp_path / "acme-one.csv")
    (row,) = parse((tmp_path / "acme-one.csv").read_text(), "acme-one.csv")
    assert (row.op, row.dtype, row.shape, row.value, row.kind) == ("gemm", "fp32", "100x100x100 nt", 5e10, "measured")
    assert row.stack == "torch 2.13, AVX2"
    assert "us: 40 41 39" in row.note
    assert "spread" in row.note
    assert check([tmp_path / "acme-one.csv"]) == []


def test_a_wrong_row_is_told_with_its_line(tmp_path):
    path = tmp_path / "acme-one.csv"
    begun(path)
    path.write_text(path.read_text().replace("0.05,TFLOP/s", "-0.05,TFLOPs"))
    problems = check([path])
    assert {problem.path for problem in problems} == {"unit", "value"}
    assert all(problem.line for problem in problems)


def test_a_run_that_was_killed_goes_on(tmp_path):
    begun(tmp_path / "a.csv")
    again = open_file(tmp_path / "a.csv", ABOUT, "torch 2.13, AVX2", "a test")
    assert again.known == {
        ("gemm", "fp32", "100x100x100 nt"),
        ("host.step", "", ""),
        ("gemm", "fp32", "200x200x200 nt"),
    }
    assert again.values["gemm", "fp32", "100x100x100 nt"] == pytest.approx(5e10)
    assert again.skipped["gemm", "fp32", "200x200x200 nt"].startswith("RuntimeError")
    assert again.text().count("\n") == (tmp_path / "a.csv").read_text().count("\n")


def test_derived_rows_are_written_anew_each_time(tmp_path):
    file = begun(tmp_path / "a.csv")
    for value in (1e9, 2e9):
        file.derived.clear()
        file.derive("memory.rate", "", "", value, "GB/s", "the largest copy")
    file.write()
    rows = parse((tmp_path / "a.csv").read_text(), "a.csv")
    assert [row.value for row in rows if row.op == "memory.rate"] == [2e9]
    assert "memory.rate" not in {key[0] for key in open_file(tmp_path / "a.csv", ABOUT, "", "").rows}


def test_a_file_of_another_device_or_of_somebody_else_is_refused(tmp_path):
    begun(tmp_path / "a.csv")
    with pytest.raises(BadUse, match=r"was begun with software 'torch 2[.]13', now 'torch 2[.]6'"):
        open_file(tmp_path / "a.csv", {**ABOUT, "software": "torch 2.6"}, "", "")
    (tmp_path / "b.csv").write_text("op,dtype\n")
    with pytest.raises(BadUse, match="was not written by anychip measure"):
        open_file(tmp_path / "b.csv", ABOUT, "", "")


def test_nothing_is_left_beside_the_file(tmp_path):
    begun(tmp_path / "a.csv")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.csv"]
