"""TARGET = CHIP[:COUNT[..COUNT]][@CLUSTER][+STACK]."""

import pytest

from anychip.errors import BadTarget
from anychip.targets import Target, parse, single


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("h100", Target("h100")),
        ("h100:8", Target("h100", (8, 8))),
        ("h100:8..64", Target("h100", (8, 64))),
        ("ascend-910b:16384@pod", Target("ascend-910b", (16384, 16384), "pod")),
        ("mi300x@pod+rocm", Target("mi300x", (1, 1), "pod", "rocm")),
        ("./my chips/acme.toml", Target("./my chips/acme.toml")),
    ],
)
def test_parse(text, target):
    assert parse(text) == target


@pytest.mark.parametrize("text", ["", ":8", "h100:", "h100:x", "h100:0", "h100:8..4", "h100@", "h100+", "h100:-1"])
def test_what_is_no_target_is_named(text):
    with pytest.raises(BadTarget, match="h100:8"):
        parse(text)


@pytest.mark.parametrize("text", ["h100:8", "h100:1..8", "h100@pod", "h100+rocm"])
def test_what_is_not_there_yet_says_so(text):
    with pytest.raises(BadTarget, match=r"not there yet.*--on h100"):
        single(text)


def test_one_chip():
    assert single("h100") == single("h100:1") == "h100"
