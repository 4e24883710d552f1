"""Benchmarks run, their bytes are those that pricing counts, a file is resumed, and a forecast uses it."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import anychip
from anychip.cli import main
from anychip.cost.price import price_op
from anychip.cost.rates import rates_of
from anychip.errors import BadUse
from anychip.measure import attention, collectives, command, conv, gemm, host, memory, ops, run
from anychip.measure.device import DTYPES, Device
from anychip.measure.point import Point, Timing
from anychip.record import Op, TensorMeta
from anychip.spec.checking import check

CPU = Device("cpu")


def test_every_kind_has_points_that_run():
    for kind in (gemm, conv, attention, host, memory):
        smallest = {}
        for point in kind.points(CPU, quick=True):
            smallest.setdefault((point.op, point.dtype), point)
        for point in smallest.values():
            point.make()()


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--out", "/no/such/x.csv"], "no folder /no/such"),
        (["--out", "x.csv", "--only", "hosts"], "did you mean host?"),
    ],
)
def test_what_is_mistyped_is_told_before_torch_is_imported(argv, told, monkeypatch, capsys):
    """It took as long as torch does, 15 s on a busy machine."""
    assert (*run.KINDS, "collectives") == command.KINDS
    monkeypatch.setitem(sys.modules, "anychip.measure.run", None)
    try:
        code = main(["measure", *argv])
    except SystemExit as end:
        code = end.code
    assert (code, told in capsys.readouterr().err) == (2, True)


@pytest.mark.parametrize("name", ops.CASES)
def test_every_op_runs_and_counts_bytes(name):
    build = ops.CASES[name]
    maker = ops.Maker(ops.SIZES[0], torch.float32, torch.device("cpu"))
    build(maker).call()
    # a loss reads one of 512 elements, a sort walks over them sixty times
    assert maker.n / 512 < ops._bytes(name.partition(" ")[0], build, maker) < 64 * 4 * maker.n


def test_bytes_of_an_addition_by_hand():
    # 2048 bf16 elements: two read, one written, of 2 bytes each
    maker = ops.Maker(2048, torch.bfloat16, torch.device("cpu"))
    assert ops._bytes("aten.add", ops.CASES["aten.add"], maker) == 3 * 2 * 2048


def test_flop_of_a_convolution_by_hand():
    # [8, 3, 32, 32] through 16 windows of 3x3: 2 * 8*32*32 positions * 16 * 27
    assert conv.Shape(8, 3, 16, 32, 3).flop == 2 * 8192 * 16 * 27


def test_dtypes_are_torch_s():
    assert set(CPU.dtypes) <= set(DTYPES)


def test_a_device_that_is_not_here_is_told():
    with pytest.raises(BadUse, match="finds no such device here"):
        Device.find("xpu")
    with pytest.raises(BadUse, match="does not know it"):
        Device.find("gpu9")


def few(monkeypatch, *points):
    """Only these points, as if they were all that there is."""
    monkeypatch.setattr(run, "KINDS", {"gemm": SimpleNamespace(points=lambda device, quick: iter(points))})
    monkeypatch.setattr(run, "measure_collectives", lambda *args: None)


def counted(calls, shape, amount=2e6):
    def make():
        calls.append(shape)
        return lambda: torch.ones(4) @ torch.ones(4)

    return Point("gemm", "fp32", shape, "TFLOP/s", make, amount=amount)


def test_a_killed_run_is_not_measured_twice(monkeypatch, tmp_path):
    calls = []

    def dies():
        raise KeyboardInterrupt

    first, last = counted(calls, "10x10x10 nt"), counted(calls, "20x20x20 nt")
    few(monkeypatch, first, replace(last, make=dies))
    with pytest.raises(KeyboardInterrupt):
        run.measure("cpu", tmp_path / "a.csv")
    few(monkeypatch, first, last)
    measured = run.measure("cpu", tmp_path / "a.csv")
    assert calls == ["10x10x10 nt", "20x20x20 nt"]
    assert [row.shape for row in measured.rows if row.op == "gemm"] == calls


def test_what_the_device_lacks_is_told_and_not_tried_again(monkeypatch, tmp_path):
    tried = []

    def fails():
        tried.append(1)
        raise RuntimeError('"addmm_impl" not implemented for fp4')

    few(monkeypatch, replace(counted([], "10x10x10 nt"), make=fails))
    for _ in range(2):
        measured = run.measure("cpu", tmp_path / "a.csv")
    assert len(tried) == 1
    assert measured.skipped[0][0] == "gemm fp32 10x10x10 nt"
    assert "not implemented" in measured.skipped[0][1]


def test_a_point_that_would_take_too_long_is_left_out(monkeypatch, tmp_path):
    calls = []
    few(monkeypatch, counted(calls, "10x10x10 nt"), counted(calls, "99x99x99 nt", amount=1e15))
    run.measure("cpu", tmp_path / "a.csv")
    assert calls == ["10x10x10 nt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"clock": "cpu", "threads": 2}, "--threads 1"), ({"clock": "sun"}, "wall or cpu"), ({"only": ("gem",)}, "one of host"),
     ({"chip": "x.csv"}, "--chip FILE.toml is for the CPU")],
)  # fmt: skip
def test_bad_use(options, message, tmp_path):
    with pytest.raises(BadUse, match=message):
        run.measure("cpu", tmp_path / "a.csv", **options)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A small real measurement, with a chip file, by the API."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        points = [p for p in gemm.points(CPU, quick=True) if p.dtype == "fp32" and p.amount < 1e7]
        points += [p for p in memory.points(CPU, quick=True) if p.op == "memory.copy"]
        points += list(host.points(CPU, quick=True))
        points += [p for p in ops.points(CPU, quick=True) if p.op in ("aten.mul", "aten.exp") and p.dtype == "fp32"]
        few(patch, *points)
        anychip.measure("cpu", folder / "my-cpu.csv", quick=True, threads=1, clock="cpu", chip=folder / "my-cpu.toml")
    return folder


def test_the_check_accepts_what_was_written(measured):
    assert check([measured / "my-cpu.csv", measured / "my-cpu.toml"]) == []


def test_a_forecast_takes_the_measured_point_back(measured):
    chip = anychip.Chip.load(str(measured / "my-cpu.toml"))
    assert chip.grade == "C"
    assert chip.execution == "host"
    rates = rates_of(chip.id, chip.file)
    (row,) = [row for row in rates.all("aten.mul") if row.shape == str(12 * 2**20)]
    x = TensorMeta((2**20,), (1,), "float32")
    cost = price_op(Op("aten.mul.Tensor", (x, x), (), (x,)), chip)
    floor = rates.need("kernel.floor").value
    assert cost.evidence == "measured"
    assert cost.time_s == pytest.approx(floor + 12 * 2**20 / row.value)


def test_measured_rates_come_before_the_standard_s(measured, tmp_path, monkeypatch):
    (tmp_path / "rates").mkdir()
    (tmp_path / "rates" / "generic-cpu.csv").write_text((measured / "my-cpu.csv").read_text())
    assert not rates_of("generic-cpu").all("gemm", "fp32")
    monkeypatch.setenv("ANYCHIP_PATH", str(tmp_path))
    assert rates_of("generic-cpu").all("gemm", "fp32")


def test_a_table_of_collectives(tmp_path, monkeypatch):
    monkeypatch.setattr(collectives, "QUICK_SIZES", (4096,))
    path = collectives.measure_collectives(CPU, tmp_path / "my-cpu.csv", True, "torch", "a test")
    assert path == tmp_path / "my-cpu.collectives.csv"
    assert check([path]) == []
    text = path.read_text()
    assert {line.split(",")[0] for line in text.splitlines()[1:]} >= {"all_reduce", "all_gather", "broadcast"}
    assert collectives.place(tmp_path / "rates" / "a-b.csv") == tmp_path / "collectives" / "a-b.csv"
    # what is there is not measured again
    before = path.stat().st_mtime_ns
    collectives.measure_collectives(CPU, tmp_path / "my-cpu.csv", True, "torch", "a test")
    assert path.stat().st_mtime_ns == before


def test_the_verb(tmp_path):
    out = tmp_path / "a.csv"
    command = [
        sys.executable,
        "-m",
        "anychip",
        "measure",
        "--device",
        "cpu",
        "--only",
        "host",
        "--quick",
        "--out",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert str(out) in done.stdout
    assert "measured 0 of" in done.stderr
    assert "host.op" in out.read_text()
    assert main(["measure", "--out", "/nowhere/a.csv"]) == 2


def test_a_chip_file_of_an_earlier_run_is_written_again(measured, monkeypatch):
    """It was taken for a source, over which nothing is written."""
    monkeypatch.setattr(run, "_take_all", lambda points, file, *_: file)
    monkeypatch.setattr(run, "measure_collectives", lambda *_: None)
    before = (measured / "my-cpu.toml").stat().st_mtime_ns
    anychip.measure("cpu", measured / "my-cpu.csv", quick=True, threads=1, clock="cpu", chip=measured / "my-cpu.toml")
    assert (measured / "my-cpu.toml").stat().st_mtime_ns > before


def test_timing_of_one_sample_has_no_spread():
    assert Timing((1.0,)).spread == 0.0


def test_a_chip_file_without_products_is_refused_before_anything_is_measured(tmp_path):
    """It was refused when all had been measured."""
    with pytest.raises(BadUse, match="add --only gemm --only memory"):
        run.measure("cpu", tmp_path / "my.csv", quick=True, only=("host",), chip=tmp_path / "my.toml")
    assert not list(tmp_path.iterdir())
