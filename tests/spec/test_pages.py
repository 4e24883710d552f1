"""The pages of the field: every chip and platform is there, gaps are named, counts add up."""

import re
from pathlib import Path

from anychip.spec import catalogue, load_chip
from anychip.spec.checking import rules
from anychip.spec.fields import SCHEMAS
from anychip.spec.pages import all_chips, chip_page, counts, field_page, gaps, other_files

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_counts_add_up() -> None:
    chips = all_chips()
    total = counts(chips)
    assert total.chips == len(chips) >= 70
    assert total.known + total.unknown + total.none == total.figures
    assert sum(total.kinds.values()) == total.known
    assert sum(total.grades.values()) == total.chips
    assert total.sourced / total.known > 0.6


def test_the_rest_of_the_standard_is_counted() -> None:
    assert re.fullmatch(r"Beside them \d+ platforms, \d+ links, \d+ clusters; \d+ rates of \d+ chips\.", other_files())


def test_every_chip_and_platform_is_on_the_page() -> None:
    page = field_page()
    for kind in ("chips", "platforms"):
        assert [file.stem for file in catalogue.files(kind) if f"| `{file.stem}` |" not in page] == []


def test_gaps_are_named() -> None:
    assert gaps(load_chip("h100")) == []
    assert "bandwidth" in gaps(load_chip("cambricon-mlu590"))
    assert "16-bit peak" in gaps(load_chip("enflame-l600"))


def test_a_page_shows_what_is_unknown_and_what_is_not_there() -> None:
    page = chip_page(load_chip("ascend-910b"))
    assert "| peaks.matrix.fp32 | unknown |" in page
    assert "| peaks.matrix.fp8 | none |" in page
    assert "peaks.matrix.fp16 is disputed: 256; 280" in page
    assert "Export: Maker on the US Entity List" in page


def test_a_variant_says_what_it_inherits() -> None:
    page = chip_page(load_chip("h800"))
    assert "a variant of `nvidia-h100-sxm`" in page
    (cores,) = (line for line in page.splitlines() if line.startswith("| engine.cores"))
    assert cores.endswith(" (as nvidia-h100-sxm) |")
    (link,) = (line for line in page.splitlines() if line.startswith("| links.scale_up.one_way"))
    assert "(as " not in link
    assert "(as " not in chip_page(load_chip("h100"))


def test_the_manual_names_every_field_and_rule() -> None:
    text = (DOCS / "standard.md").read_text(encoding="utf-8")
    assert [rule.RULE for rule in rules() if f"`{rule.RULE}`" not in text] == []
    assert [
        field.path
        for fields in SCHEMAS.values()
        for field in fields
        if f"`{field.path.replace('*', 'NAME')}`" not in text
    ] == []
