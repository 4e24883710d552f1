"""What was measured on a chip holds for one that extends it, where it leaves what that depends on as it is."""

from collections.abc import Callable
from pathlib import Path

import pytest

import anychip
from anychip.cost.machine import machine
from anychip.cost.rates import rates_of_chip
from anychip.errors import BadChipFile
from anychip.network import Fabric
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
    # across nodes both borrow from other chips
    times = {Fabric.of(one, 16).cost("all_reduce", 1 << 26, range(16)).time_s for one in (chip, base)}
    assert len(times) == 1
    assert next(entry.grade for entry in list_chips() if entry.id == "acme-one") == base.grade
    assert "whole runs" in chip_text(chip, "acme-one")
    (lent,) = chip.inherits
    assert not lent.fails


@pytest.mark.parametrize(
    ("changes", "grade", "fails", "differs"),
    [
        ('[memory.main]\nbandwidth = { value = 5, unit = "TB/s", src = "me" }', "C", ("memory",), "memory.main.bandwidth"),
        ('[power]\nlimit = { value = 500, unit = "W", src = "me" }', "D", ("products", "attention"), "power.limit"),
        ('[links.host]\none_way = { value = 9, unit = "GB/s", src = "me" }', "C", ("the link to the host",), "links.host.one_way"),
        ('[links.scale_up]\none_way = { value = 9, unit = "GB/s", src = "me" }', "C", ("collectives",), "links.scale_up.one_way"),
    ],
)  # fmt: skip
def test_what_depends_on_a_changed_figure_is_not_inherited(write: Write, changes: str, grade: str, fails: tuple[str, ...], differs: str) -> None:  # fmt: skip
    write(BEGIN + changes + "\n")
    chip = load_chip("acme-one")
    assert (chip.grade, chip.runs_of) == (grade, "acme-one")  # the runs of H100 are not of this one
    (lent,) = chip.inherits
    assert (lent.fails, lent.differs) == (fails, (differs,))
    assert f"not {', '.join(fails)}, whole runs: it differs in {differs}" in str(lent)


def test_a_faster_memory_leaves_products_as_they_were_measured(write: Write) -> None:
    write(BEGIN + '[memory.main]\nbandwidth = { value = 6.7, unit = "TB/s", src = "me" }\n')
    chip, base = machine(load_chip("acme-one")), machine(load_chip("h100"))
    assert chip.gemm("bf16").rate == base.gemm("bf16").rate
    assert chip.memory_bytes_per_s != base.memory_bytes_per_s
    assert not chip.memory_measured


def test_collectives_beside_a_chip_file_are_its_own(tmp_path: Path) -> None:
    """They were used, and it was said that those of H100 hold."""
    for folder in ("chips", "collectives"):
        (tmp_path / folder).mkdir()
    table = (Path(anychip.__file__).parent / "standard" / "collectives" / "nvidia-h100-sxm.csv").read_text()
    (tmp_path / "collectives" / "acme-one.csv").write_text(table)
    (tmp_path / "chips" / "acme-one.toml").write_text(BEGIN)
    (lent,) = load_chip(tmp_path / "chips" / "acme-one.toml").inherits
    assert "collectives" not in lent.holds


def test_what_a_chip_lacks_does_not_deny_what_it_inherits() -> None:
    """H20 has H100's link to the host: "Its forecasts rest on this file alone" stood below that."""
    text = " ".join(chip_text(load_chip("nvidia-h20"), "nvidia-h20").split())
    assert "which it extends: the link to the host" in text
    assert "No kernel of it was measured." in text
    assert "Kernels were measured, whole runs of it were not" in " ".join(
        chip_text(load_chip("gh200"), "gh200").split()
    )


def test_another_execution_is_another_chip(write: Write) -> None:
    write(BEGIN.replace("name =", 'execution = "graph"\nname ='))
    chip = load_chip("acme-one")
    assert rates_of_chip(chip).rows == ()
    assert str(chip.inherits[0]) == (
        "as measured on nvidia-h100-sxm, which it extends: nothing; not products, attention, memory, the link to the host, collectives, "
        "whole runs: it differs in execution"
    )


def test_of_what_a_variant_has_rates_of_its_own_it_inherits_nothing(write: Write) -> None:
    """A host of one's own is one row; all else stays as it was measured."""
    file, base = write(BEGIN), rates_of_chip(load_chip("h100"))
    file.with_suffix(".csv").write_text(
        "op,dtype,shape,value,unit,kind,stack,date,source,note\nmemory.rate,,,3000,GB/s,measured,,,here,\n"
        "host.op,,,2,us,measured,,,here,\n"
    )
    chip = load_chip("acme-one")
    rates = rates_of_chip(chip)
    assert [row.value for row in rates.rows if row.op in ("memory.rate", "host.op")] == [3e12, 2e-6]
    assert rates.all("gemm") == base.all("gemm")
    assert (chip.grade, chip.runs_of) == ("C", "acme-one")
    assert str(chip.inherits[0]).endswith("collectives; not whole runs: it has other rates")
    assert load_chip("h200").inherits == ()  # the same die as H100, with runs of its own


@pytest.mark.parametrize("base", [entry.id for entry in list_chips() if entry.grade != "D"])
def test_another_price_alone_costs_no_chip_what_was_measured(write: Write, base: str) -> None:
    """GH200, A100 40 GB and H800 inherit and have rates beside: a variant of them had only these, and GH200's grade D."""
    write(BEGIN.replace("nvidia-h100-sxm", base) + '[price]\nper_hour_low = "unknown"\n')
    chip, other = load_chip("acme-one"), load_chip(base)
    assert chip.grade == other.grade
    assert set(rates_of_chip(chip).rows) == set(rates_of_chip(other).rows)
    assert points_of_chip(chip) == points_of_chip(other)


def test_a_table_that_is_no_text_is_told_by_its_name(write: Write) -> None:
    """`chips show` and `chips check` ended in a traceback."""
    file = write(BEGIN)
    file.with_suffix(".csv").write_bytes(b"op,dtype\xff\nhost.op,\n")
    chip = load_chip("acme-one")
    assert "acme-one" in chip_text(chip, "acme-one")
    with pytest.raises(BadChipFile, match=r"acme-one\.csv: byte 8 is not UTF-8 text"):
        rates_of_chip(chip)


def test_more_memory_is_usable_where_nobody_says_how_much_of_it(write: Write) -> None:
    """A card of 120 GB was said not to fit what takes 90: 79.1 GiB could be used, as of the base's 80 GB."""
    write(BEGIN + '[memory.main]\ncapacity = { value = 120, unit = "GB", src = "me" }\n')
    assert load_chip("acme-one").memory_bytes == 120e9


def test_an_alias_of_the_base_is_told_as_its_id(write: Write) -> None:
    write(BEGIN.replace('"nvidia-h100-sxm"', '"h100"'))
    with pytest.raises(BadChipFile, match=r"did you mean nvidia-h100-sxm\?"):
        load_chip("acme-one")
