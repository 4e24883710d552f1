"""From a name to a chip: ids, aliases, files, variants, and what cannot be found."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from anychip.errors import BadChipFile, UnknownChip
from anychip.places import places_of
from anychip.spec import UnknownFigure, list_chips, load_chip
from anychip.spec.load import read_platform
from tests.spec.conftest import ACME

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("alias", "chip_id"),
    [
        ("a100", "nvidia-a100-sxm-80gb"),
        ("h100", "nvidia-h100-sxm"),
        ("mi300x", "amd-mi300x"),
        ("tpu-v5p", "google-tpu-v5p"),
        ("ascend-910b", "huawei-ascend-910b2"),
        ("cpu", "generic-cpu"),
        ("4090", "nvidia-rtx-4090"),
        ("a6000", "nvidia-rtx-a6000"),
        ("t4", "nvidia-t4"),
        ("v100", "nvidia-v100-sxm2-32gb"),
        ("a100-pcie-40gb", "nvidia-a100-pcie-40gb"),
        ("gaudi", "intel-gaudi1"),
        ("7900xtx", "amd-rx-7900-xtx"),
        ("H100", "nvidia-h100-sxm"),
        ("nvidia-h100-sxm", "nvidia-h100-sxm"),
    ],
)
def test_aliases_lead_to_one_chip(alias: str, chip_id: str) -> None:
    assert load_chip(alias).id == chip_id


def test_every_chip_is_found_without_its_maker() -> None:
    """README lists them so; `b200-sxm` was told to be an h100-sxm or a v100-sxm2."""
    ids = [entry.id for entry in list_chips()]
    assert {chip: load_chip(chip.partition("-")[2]).id for chip in ids} == {chip: chip for chip in ids}


def test_two_chips_of_one_name_without_their_makers_are_both_named(write: Write) -> None:
    write(ACME.replace("acme-one", "other-x1"), "other-x1")
    write(ACME.replace("acme-one", "acme-x1").replace('"one"', '"x"'), "acme-x1")
    with pytest.raises(UnknownChip, match=r"acme-x1, other-x1|other-x1, acme-x1"):
        load_chip("x1")


def test_h100_figures_in_si_units() -> None:
    chip = load_chip("h100")
    assert chip.peak_flop_per_s("bf16") == 989.4e12
    assert chip.peak_flop_per_s("fp32", "vector") == 67e12
    assert chip.peak_flop_per_s("fp32") is None
    assert chip.memory_bandwidth_bytes_per_s == 3350e9
    # 79.11 GiB is what the driver reports of 80 GiB: 79.11 * 2**30.
    assert chip.memory_bytes == int(79.11 * 2**30)
    assert (chip.cores, chip.matrix_tile, chip.execution) == (132, (128, 256, 64), "kernel")
    assert chip.scale_up is not None
    assert chip.scale_up.one_way_bytes_per_s == 450e9
    # 400 Gbit/s are 50 GB/s.
    assert chip.scale_out is not None
    assert chip.scale_out.one_way_bytes_per_s == 50e9
    assert (chip.torch.device_name, chip.torch.capability) == ("NVIDIA H100 80GB HBM3", (9, 0))
    assert chip.torch.multi_processor_count == 132


@pytest.mark.parametrize(("chip", "half"), [("rtx-4090", 165.2e12), ("rtx-3090", 71.2e12), ("a6000", 154.8e12)])
def test_peaks_of_16_bit_are_those_with_fp32_accumulation(chip: str, half: float) -> None:
    """GeForce halves them, workstation cards of the same die do not."""
    assert (load_chip(chip).peak_flop_per_s("bf16"), load_chip(chip).peak_flop_per_s("fp16")) == (half, half)


@pytest.mark.parametrize("package_id", ["amd-mi250x", "huawei-ascend-910c"])
def test_one_device_of_a_package_is_half_of_it(package_id: str) -> None:
    package = load_chip(package_id)
    assert package.device is not None
    die = load_chip(package.device)
    assert (package.devices_per_package, die.devices_per_package) == (2, 1)
    for figure in ("peaks.matrix.bf16", "peaks.vector.fp32", "memory.main.bandwidth", "memory.main.capacity",
                   "memory.l2.capacity", "engine.cores", "links.scale_out.one_way", "power.limit"):  # fmt: skip
        assert 2 * (die.get(figure) or 0) == (package.get(figure) or 0)


def test_every_figure_says_where_it_comes_from() -> None:
    figure = load_chip("h100").figures["peaks.matrix.bf16"]
    assert (figure.unit, figure.kind, figure.printed) == ("flop/s", "reported", "989.4 TFLOP/s")
    assert figure.source.startswith("https://")
    assert figure.date == "2026-11-23"
    assert len(figure.disputed) == 4
    assert figure.disputed[-1].startswith("used: 989.4 TFLOP/s, because")


def test_a_chip_without_cuda_answers_what_its_platform_says() -> None:
    chip = load_chip("ascend-910b")
    assert (chip.platform.device_type, chip.platform.collective_backends[0]) == ("npu", "hccl")
    assert chip.torch.capability == (8, 0)


@pytest.mark.parametrize(
    ("name", "near"),
    [("h10O", "h100"), ("mi300", "mi300x"), ("ascend910b", "ascend-910b"), ("nvidia_h100_sxm", "nvidia-h100-sxm")],
)
def test_an_unknown_name_gets_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownChip, match=f"'{near}'"):
        load_chip(name)


@pytest.mark.parametrize("name", ["", "../chips/nvidia-h100-sxm", "h100\0", "no.toml", "a" * 5000, "日本"])
def test_a_strange_name_is_unknown_and_nothing_worse(name: str) -> None:
    with pytest.raises(UnknownChip):
        load_chip(name)


def test_a_file_outside_of_the_tree(write: Write) -> None:
    file = write()
    chip = load_chip("one")
    assert (chip.id, chip.grade, chip.memory_bytes) == ("acme-one", "D", 32 * 10**9)
    assert load_chip(file) == load_chip("acme-one") == chip
    assert "acme-one" in [entry.id for entry in list_chips()]
    bandwidth = chip.figures["memory.main.bandwidth"]
    assert (bandwidth.kind, bandwidth.date) == ("derived", "2026-02")


@pytest.mark.parametrize(
    ("chip", "expected"), [("nvidia-h100-sxm", "A"), ("google-tpu-v6e", "B"), ("amd-mi355x", "C"), ("groq-lpu-v1", "D")]
)
def test_grades(chip: str, expected: str) -> None:
    """Whole runs of several sources: A; of one: B. Rates of the chip's own: C. Its specification alone: D."""
    assert load_chip(chip).grade == expected


@pytest.mark.parametrize(
    ("row", "grade"),
    [
        ("memory.rate,,,0.8,TB/s,measured", "D"),
        ("host.op,,,3,us,measured", "D"),
        ("gemm.rate,bf16,,0.7,ratio,assumed", "D"),
        ("gemm,bf16,4096x4096x4096,80,TFLOP/s,measured", "C"),
        ("same_die,,,,,assumed", "C"),
    ],
)
def test_only_products_that_were_measured_raise_the_grade(write: Write, row: str, grade: str) -> None:
    """One point of its memory made C of a chip whose products nobody has seen."""
    head, end = "op,dtype,shape,value,unit,kind,stack,date,source,note", "x,2026-01-01,me,nvidia-h100-sxm: the same"
    write().with_suffix(".csv").write_text(f"{head}\n{row},{end}\n", encoding="utf-8")
    assert load_chip("one").grade == grade
    assert {entry.id: entry.grade for entry in list_chips()}["acme-one"] == grade


def test_rates_that_cannot_be_read_are_told_before_a_program_runs(write: Write) -> None:
    """The program had failed by itself, after a traceback of the virtual chip's."""
    head = "op,dtype,shape,value,unit,kind,stack,date,source,note"
    write().with_suffix(".csv").write_text(
        f"{head}\nmemory.rate,,,fast,TB/s,measured,x,2026-01-01,me,\n", encoding="utf-8"
    )
    with pytest.raises(BadChipFile, match=r"acme-one.csv:2: value 'fast' is not a number"):
        places_of(["h100", "one"])


def test_validated_runs_raise_the_grade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anychip.spec import load, validated

    rows = "chip,source\nx,paper one\nx,paper two\ny,paper one\ny,paper one\n"
    (tmp_path / "validated.csv").write_text(rows, encoding="utf-8")
    monkeypatch.setattr(load.catalogue, "folders", lambda kind: [tmp_path / kind])
    validated.num_sources.cache_clear()
    try:
        assert [load.grade(chip) for chip in ("x", "y", "z")] == ["A", "B", "D"]
    finally:
        validated.num_sources.cache_clear()


def test_unknown_and_none_are_not_zero(write: Write) -> None:
    write()
    chip = load_chip("one")
    assert chip.peak_flop_per_s("fp8") is None
    assert chip.figures["peaks.matrix.fp8"].state == "none"
    assert chip.peak_flop_per_s("int8") is None
    assert chip.figures["peaks.matrix.int8"].state == "unknown"
    assert chip.cores is None
    assert chip.power_w is None
    assert chip.scale_up is None


def test_what_cannot_be_done_without_says_so(write: Write) -> None:
    write(
        ACME.replace('bandwidth = { value = 1, unit = "TB/s", src = "sheet", kind = "derived", date = "2026-02" }', "")
    )
    with pytest.raises(UnknownFigure, match=r"acme-one: memory\.main\.bandwidth is unknown"):
        _ = load_chip("one").memory_bandwidth_bytes_per_s


def test_a_variant_writes_only_what_differs(write: Write) -> None:
    write()
    write(
        'schema_version = 1\nid = "acme-two"\nextends = "acme-one"\nname = "Two"\n'
        '[memory.main]\nbandwidth = { value = 2, unit = "TB/s", src = "sheet" }\n',
        "acme-two",
    )
    two = load_chip("acme-two")
    assert (two.memory_bandwidth_bytes_per_s, two.peak_flop_per_s("bf16")) == (2e12, 100e12)
    assert (two.vendor, two.name, two.aliases) == ("Acme", "Two", ())
    assert two.figures["memory.main.bandwidth"].kind == "reported"
    entry = next(entry for entry in list_chips() if entry.id == "acme-two")
    assert (entry.vendor, entry.platform) == ("Acme", "nvidia-cuda")


def test_a_chip_that_extends_itself(write: Write) -> None:
    write('schema_version = 1\nid = "acme-one"\nextends = "acme-two"\n')
    write('schema_version = 1\nid = "acme-two"\nextends = "acme-one"\n', "acme-two")
    with pytest.raises(BadChipFile, match="extends itself"):
        load_chip("acme-one")


def test_a_changed_file_is_read_again(write: Write) -> None:
    write()
    before = load_chip("one")
    write(ACME.replace("value = 100,", "value = 1000,"))
    after = load_chip("one")
    assert after.peak_flop_per_s("bf16") == 1000e12
    assert before != after
    assert before.digest != after.digest


def test_two_chips_with_one_alias_are_both_named(write: Write) -> None:
    write()
    write(ACME.replace("acme-one", "acme-uno"), "acme-uno")
    with pytest.raises(UnknownChip, match="acme-one, acme-uno"):
        load_chip("one")


def test_what_if_figures(write: Write) -> None:
    chip = load_chip("h100")
    faster = chip.with_figures({"memory.main.bandwidth": 2 * chip.memory_bandwidth_bytes_per_s})
    assert faster.memory_bandwidth_bytes_per_s == 6700e9
    assert faster != chip
    assert faster.figures["memory.main.bandwidth"].kind == "estimated"
    with pytest.raises(ValueError, match="no such figure"):
        chip.with_figures({"memory.main.speed": 1.0})


def test_platform_overrides_by_generation() -> None:
    assert load_chip("h100").platform.supports("float8_e4m3fn") == "native"
    assert load_chip("a100").platform.supports("float8_e4m3fn") == "error"
    assert load_chip("ascend-910b").platform.supports("float64", "elementwise") == "fallback"
    assert load_chip("h100").platform.supports("float3") == "unknown"
    with pytest.raises(ValueError, match="no such use"):
        load_chip("h100").platform.supports("float32", "prayer")


def test_an_unknown_platform_names_the_nearest(write: Write) -> None:
    write(ACME.replace("nvidia-cuda", "nvidia-cudo"))
    with pytest.raises(BadChipFile, match=r"acme-one.toml:6: platform: .*nvidia-cuda"):
        load_chip("one")


def test_a_platform_beside_the_chip(write: Write) -> None:
    write(ACME.replace("nvidia-cuda", "acme-sdk"))
    write(
        'schema_version = 1\nid = "acme-sdk"\nvendor = "Acme"\nname = "SDK"\ndevice_type = "acme"\nmodule = "torch.acme"\n',
        "acme-sdk",
    )
    assert load_chip("one").platform.device_type == "acme"


def test_an_installed_package_brings_chips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "acme_chips"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')\n")
    (package / "acme-one.toml").write_text(ACME)
    info = tmp_path / "acme_chips-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-chips\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[anychip.chips]\nacme = acme_chips\n")
    code = "from anychip.spec import load_chip; print(load_chip('one').id)"
    env = {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("acme-one", "")


def test_only_its_own_files_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read_platform.cache_clear()
    opened: list[str] = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self.name) or original(self))
    from anychip.spec.load import _load, _read_checked

    _load.cache_clear()
    _read_checked.cache_clear()
    load_chip("h100")
    assert sorted(opened) == ["nvidia-cuda.toml", "nvidia-h100-sxm.toml"]


def test_importing_it_needs_neither_torch_nor_numpy() -> None:
    code = "import sys, anychip.spec; anychip.spec.load_chip('h100'); print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_speed() -> None:
    """Heads of all chips in a few ms; all chips and platforms within 150 ms on a quiet machine, twice that here."""
    code = (
        "import time; from anychip.spec import catalogue, list_chips, load_chip; from anychip.spec.load import load_platform\n"
        "a = time.process_time(); entries = list_chips(); b = time.process_time()\n"
        "[load_chip(e.file) for e in entries]; [load_platform(f.stem) for f in catalogue.files('platforms')]\n"
        "print(b - a, time.process_time() - b)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed, loaded = map(float, done.stdout.split())
    assert listed < 0.15
    assert loaded < 0.30
    start = time.process_time()
    for entry in list_chips():
        load_chip(entry.file)
    again = time.process_time()
    for entry in list_chips():
        load_chip(entry.file)
    assert time.process_time() - again < 0.2, f"cached: {time.process_time() - again}, first {again - start}"
