"""Numbers on the command line: what options take, refused in words (`type=` of argparse)."""

import argparse
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Number = TypeVar("Number", int, float)


def positive(text: str) -> int:
    return _number(text, int, lambda value: value >= 1, "a whole number from 1")


def positive_float(text: str) -> float:
    return _number(text, float, lambda value: 0 < value < float("inf"), "a number above 0")


def at_least_one(text: str) -> float:
    value = positive_float(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"the fullest has no less than the mean: expected 1 or more, got {text!r}")
    return value


def price(text: str) -> tuple[str, float]:
    """CHIP=USD."""
    chip, equals, usd = text.rpartition("=")
    if not (chip and equals):
        raise argparse.ArgumentTypeError(
            f"expected a chip and what an hour of it costs, such as h100=2.49, got {text!r}"
        )
    return chip, positive_float(usd)


def score(text: str) -> float:
    return _number(text, float, lambda value: 0 <= value <= 100, "a score from 0 to 100")


def _number(text: str, kind: type[Number], fits: Callable[[Number], bool], expected: str) -> Number:
    with suppress(ValueError):
        value = kind(text)
        if fits(value):
            return value
    raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
