"""What was measured on a chip holds for one that extends it, where it leaves what that depends on as it is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from anychip.cost.machine import machine
from anychip.cost.rates import rates_of_chip
from anychip.network.points import points_of_chip
from anychip.report.chips import chip_text
from anychip.spec import list_chips, load_chip

Write = Callable[..., Path]
BEGIN = """\
schema_version = 1
id = "acme-one"
extends = "nvidia-h100-sxm"
name = "One"

[sources.me]
title = "what if"
kind = "estimated"
date = "2026-01-02"

"""


def test_a_variant_in_price_and_size_is_as_well_known_as_what_it_extends(write: Write) -> None:
    """One's own copy of H100 with another price had grade D, and an eighth less speed."""
    write(
        BEGIN + '[memory.main]\nusable = { value = 70, unit = "GiB", src = "me" }\n[price]\nper_hour_low = "unknown"\n'
    )
    chip, base = load_chip("acme-one"), load_chip("h100")
    assert (chip.grade, chip.runs_of) == (base.grade, base.id)
    assert rates_of_chip(chip) == rates_of_chip(base)
    assert points_of_chip(chip) == points_of_chip(base)
    assert next(entry.grade for entry in list_chips() if entry.id == "acme-one") == base.grade
    assert "whole runs" in chip_text(chip, "acme-one")
    assert chip.inherits is not None
    assert not chip.inherits.fails


@pytest.mark.parametrize(
    ("changes", "grade", "fails", "differs"),
    [
        ('[memory.main]\nbandwidth = { value = 5, unit = "TB/s", src = "me" }', "C", ("memory",), "memory.main.bandwidth"),
        ('[power]\nlimit = { value = 500, unit = "W", src = "me" }', "D", ("products and attention",), "power.limit"),
        ('[links.host]\none_way = { value = 9, unit = "GB/s", src = "me" }', "C", ("the link to the host",), "links.host.one_way"),
        ('[links.scale_up]\none_way = { value = 9, unit = "GB/s", src = "me" }', "C", ("collectives",), "links.scale_up.one_way"),
    ],
)  # fmt: skip
def test_what_depends_on_a_changed_figure_is_not_inherited(write: Write, changes: str, grade: str, fails: tuple[str, ...], differs: str) -> None:  # fmt: skip
    write(BEGIN + changes + "\n")
    chip = load_chip("acme-one")
    assert (chip.grade, chip.runs_of) == (grade, "acme-one")  # the runs of H100 are not of this one
    assert chip.inherits is not None
    assert (chip.inherits.fails, chip.inherits.differs) == (fails, (differs,))
    assert f"not {fails[0]}, whole runs: it differs in {differs}" in str(chip.inherits)


def test_a_faster_memory_leaves_products_as_they_were_measured(write: Write) -> None:
    write(BEGIN + '[memory.main]\nbandwidth = { value = 6.7, unit = "TB/s", src = "me" }\n')
    chip, base = machine(load_chip("acme-one")), machine(load_chip("h100"))
    assert chip.gemm("bf16").rate == base.gemm("bf16").rate
    assert chip.memory_bytes_per_s != base.memory_bytes_per_s
    assert not chip.memory_measured


def test_another_execution_is_another_chip(write: Write) -> None:
    write(BEGIN.replace("name =", 'execution = "graph"\nname ='))
    chip = load_chip("acme-one")
    assert rates_of_chip(chip).rows == ()
    assert str(chip.inherits) == (
        "nothing that was measured on nvidia-h100-sxm, which it extends, holds for it: it differs in execution"
    )


def test_a_variant_that_was_measured_itself_inherits_nothing(write: Write) -> None:
    file = write(BEGIN)
    file.with_suffix(".csv").write_text(
        "op,dtype,shape,value,unit,kind,stack,date,source,note\nmemory.rate,,,3000,GB/s,measured,,,here,\n"
    )
    chip = load_chip("acme-one")
    assert (chip.grade, chip.inherits) == ("C", None)
    assert [row.op for row in rates_of_chip(chip).rows] == ["memory.rate"]
    assert load_chip("h200").inherits is None  # the same die as H100, with rates of its own
