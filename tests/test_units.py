"""Quantities as people read them."""

import pytest

from anychip import units


@pytest.mark.parametrize(
    ("value_s", "text"),
    [
        (3e-5, "30.0 us"),
        (0.1234, "123 ms"),
        (0.99996, "1.00 s"),  # rounds up into the next unit
        (1.0, "1.00 s"),
        (9.996e-3, "10.0 ms"),  # rounding adds a figure
        (12e-9, "12.0 ns"),
        (0.0, "0 ns"),
        (2e-19, "0 ns"),
        (150, "2 min 30 s"),
        (2 * 3600 + 61, "2 h 01 min"),
        (None, "-"),
        (float("inf"), "-"),
    ],
)
def test_duration(value_s, text):
    assert units.duration(value_s) == text


@pytest.mark.parametrize(
    ("value_bytes", "text"),
    [(0, "0 B"), (1023, "1,023 B"), (8 << 30, "8.00 GiB"), (80e9, "74.5 GiB"), (1 << 40, "1.00 TiB"), (None, "-")],
)
def test_memory(value_bytes, text):
    assert units.memory(value_bytes) == text.replace(",", "")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(124e6, "", "124M"), (989e12, "FLOP/s", "989 TFLOP/s"), (7, "", "7"), (999.9, "", "1.00k"), (None, "", "-")],
)
def test_count(value, unit, text):
    assert units.count(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.4567, "46%"),
        (0.004, "0.4%"),
        (0, "0%"),
        (0.0003, "<0.1%"),
        (1e-15, "0.0%"),
        (1, "100%"),
        (-1e-9, "0.0%"),
        (None, "-"),
    ],
)
def test_share(value, text):
    assert units.share(value) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 files"), (1, "1 file"), (1024, "1,024 files")])
def test_several(number, text):
    assert units.several(number, "file") == text


def test_rate():
    assert units.rate(123456.7) == "123,457"
    assert units.rate(12.34) == "12.3"
    assert units.rate(None) == "-"


def test_a_mean_of_counts_is_shown_as_the_count():
    assert units.count(82 * (1 / 3 + 1 / 3 + 1 / 3 - 1e-16)) == "82"
    assert units.count(0.5) == "0.500"
