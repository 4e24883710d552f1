"""TARGET = CHIP[:COUNT[..COUNT]][@CLUSTER][+STACK]."""

import pytest

from anychip.errors import BadTarget
from anychip.targets import Target, expand, parse


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("h100", Target("h100")),
        ("h100:8", Target("h100", (8, 8))),
        ("h100:8..64", Target("h100", (8, 64))),
        ("ascend-910b:16384@pod", Target("ascend-910b", (16384, 16384), "pod")),
        ("mi300x@pod+rocm", Target("mi300x", None, "pod", "rocm")),
        ("./my chips/acme.toml", Target("./my chips/acme.toml")),
    ],
)
def test_parse(text, target):
    assert parse(text) == target


@pytest.mark.parametrize("text", ["", ":8", "h100@", "h100+", "h100:8:8"])
def test_what_is_no_target_is_named(text):
    with pytest.raises(BadTarget, match="h100:8") as error:
        parse(text)
    assert "STACK" not in str(error.value)  # it is not there yet


@pytest.mark.parametrize(
    ("count", "why"),
    [
        ("-1", "'-1' is no number of chips"),
        ("0", "'0' is no number of chips"),
        ("x", "'x' is no number of chips"),
        ("1.5", "'1.5' is no number of chips"),
        ("8..x", "'x' is no number of chips"),
        ("1" * 5000, "1' is no number of chips"),
        ("", "a number of chips is missing"),
        ("8..", "a number of chips is missing"),
        ("8..16..32", "a range has two ends"),
        ("8..4", "a range begins with the smaller number, as acme.toml:4..8"),
    ],
)
def test_what_is_wrong_with_a_count_is_told_with_a_right_one(count, why):
    with pytest.raises(BadTarget) as error:
        parse(f"acme.toml:{count}@pod")
    assert f"{why}. " in str(error.value)
    assert "a whole number from 1 (acme.toml:8) or a range (acme.toml:8..64)" in str(error.value)


def test_what_is_not_there_yet_says_so():
    with pytest.raises(BadTarget, match=r"not there yet.*--on h100"):
        expand("h100+rocm")


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("h100:1", [1]),
        ("h100:8", [8]),
        ("h100:8..64", [8, 16, 32, 64]),
        ("h100:3..20", [3, 6, 12, 20]),
        ("h100:1..16384", [2**i for i in range(15)]),
    ],
)
def test_a_range_is_doubled_up_to_its_end(text, counts):
    assert [target.counts for target in expand(text)] == [(count, count) for count in counts]
    assert [target.count for target in expand(text)] == counts


@pytest.mark.parametrize("text", ["h100", "h100:1", "h100:8", "h100:1..64", "ascend-910b:16384@pod", "mi300x@pod+rocm"])
def test_a_target_prints_as_it_is_written(text):
    assert str(parse(text)) == text


def test_a_chip_without_a_number_is_not_a_job_of_one():
    assert expand("h100") == [Target("h100")] != expand("h100:1")
    assert Target("h100").count == 1


def test_every_target_of_a_range_keeps_its_cluster():
    assert [str(target) for target in expand("h100:8..16@pod")] == ["h100:8@pod", "h100:16@pod"]


@pytest.mark.parametrize(("text", "better"), [
    ("8xh100", "--on h100:8"), ("8 x H100", "--on H100:8"), ("16*mi300x", "--on mi300x:16"),
    ("h100,mi300x", "--on h100 --on mi300x"), ("h100:8, mi300x:8", "--on h100:8 --on mi300x:8"),
])  # fmt: skip
def test_what_others_write_is_answered_by_what_is_meant(text, better):
    with pytest.raises(BadTarget) as error:
        parse(text)
    assert str(error.value).endswith(f"Try: {better}")


def test_an_alias_that_begins_like_a_number_of_chips_is_one():
    assert parse("7900xtx").chip == "7900xtx"


def test_more_chips_than_there_can_be_are_refused():
    """A billion ranks took all of the machine's memory, and the program was said to be killed."""
    assert expand("h100:1000000")[0].count == 1_000_000
    with pytest.raises(BadTarget, match="1,000,000 chips are the most"):
        expand("h100:8..1000001")
