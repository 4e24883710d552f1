"""A maker that nobody has heard of plugs in by one file from outside of the tree: found, checked, forecast, its page made."""

from pathlib import Path

import numpy as np
import pytest

from anychip.cli import main
from anychip.forecast import forecast
from anychip.record import Kind, Mark, Op, Program, TensorMeta, word
from anychip.spec import load_chip
from anychip.spec.pages import chip_page

ZETA = """\
schema_version = 1
id = "zeta-z9"
aliases = ["z9"]
vendor = "Zeta"
name = "Z9 accelerator"
platform = "opencl"
execution = "kernel"

[sources.ds]
title = "Zeta Z9 product brief"
url = "https://zeta.example/z9.pdf"
kind = "reported"
date = "2026-11-01"

[peaks.matrix]
bf16 = { value = 400, unit = "TFLOP/s", src = "ds" }
fp16 = { value = 400, unit = "TFLOP/s", src = "ds" }
fp8 = { value = 800, unit = "TFLOP/s", src = "ds" }

[peaks.vector]
fp32 = { value = 25, unit = "TFLOP/s", src = "ds" }

[memory.main]
technology = "HBM3"
capacity = { value = 96, unit = "GB", src = "ds" }
bandwidth = { value = 2.4, unit = "TB/s", src = "ds" }

[engine]
cores = { value = 80, unit = "count", src = "ds" }
peak_clock = { value = 1.5, unit = "GHz", src = "ds" }

[links.host]
one_way = { value = 63, unit = "GB/s", src = "ds" }

[power]
limit = { value = 450, unit = "W", src = "ds" }
"""


@pytest.fixture
def z9(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANYCHIP_PATH", str(tmp_path))
    file = tmp_path / "zeta-z9.toml"
    file.write_text(ZETA, encoding="utf-8")
    return file


def product(size: int) -> Program:
    """Three steps of one square bf16 product."""
    x = TensorMeta((size, size), (size, 1), "bfloat16")
    step = [
        word(Kind.MARK, Mark.FORWARD_BEGIN), word(Kind.OP, 0), word(Kind.MARK, Mark.FORWARD_END),
        word(Kind.MARK, Mark.OPTIMIZER_BEGIN), word(Kind.MARK, Mark.OPTIMIZER_END),
    ]  # fmt: skip
    tape = np.array([word(Kind.ALLOC, 0), *step * 3], dtype=np.int64)
    blocks = np.array([3 * 2 * size * size], dtype=np.int64)
    return Program(tape=tape, ops=[Op("aten.mm.default", (x, x), outputs=(x,))], block_bytes=blocks)


def test_it_is_listed_and_checked(z9: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chips", "check", str(z9)]) == 0
    assert main(["chips"]) == 0
    assert "zeta-z9" in capsys.readouterr().out
    assert main(["chips", "show", "z9"]) == 0
    assert "400 TFLOP/s" in capsys.readouterr().out


def test_it_is_forecast_from_its_own_figures(z9: Path) -> None:
    """8192^3 * 2 = 1.0995e12 FLOP; 400 TFLOP/s take 2.75 ms at the peak, which no chip reaches, and less than thrice it."""
    chip = load_chip("z9")
    answer = forecast(product(8192), chip)
    assert 2.75e-3 < answer.step_time_s < 3 * 2.75e-3
    assert answer.fits
    # Twice as quick on paper is quicker in the forecast: the figures are this file's.
    faster = chip.with_figures({"peaks.matrix.bf16": 800e12})
    assert forecast(product(8192), faster).step_time_s < 0.7 * answer.step_time_s


def test_its_memory_is_its_own(z9: Path) -> None:
    """Three 131072^2 matrices of 2 bytes are 103 GB: more than 96 GB."""
    assert not forecast(product(131072), load_chip("z9")).fits


def test_its_page(z9: Path) -> None:
    page = chip_page(load_chip("z9"))
    assert page.startswith("# Zeta Z9 accelerator\n")
    assert (
        "| peaks.matrix.bf16 | 400 TFLOP/s | 400 TFLOP/s | reported | 2026-11-01 | https://zeta.example/z9.pdf |"
        in page
    )
    assert "Gaps: usable memory, scale-up, scale-out, price." in page


def test_a_file_begun_from_another_chip_has_none_of_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                               capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setenv("ANYCHIP_PATH", str(tmp_path))
    assert main(["chips", "new", "--like", "h100", "zeta-new"]) == 0
    (tmp_path / "zeta-new.toml").write_text(capsys.readouterr().out, encoding="utf-8")
    chip = load_chip("zeta-new")
    assert {figure.state for figure in chip.figures.values()} == {"unknown"}
    assert len(chip.figures) > 20
    assert main(["chips", "new", "--like", "mi300x", "h100"]) == 2
    assert "h100 is nvidia-h100-sxm already" in capsys.readouterr().err
