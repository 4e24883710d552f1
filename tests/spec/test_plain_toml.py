"""The fast reader says what tomllib says, or nothing."""

import os
import random
import tomllib

import pytest

from anychip.spec import catalogue
from anychip.spec.fields import SCHEMAS
from anychip.spec.plain_toml import parse

FILES = [file for kind in SCHEMAS for file in catalogue.files(kind)]
COUNT = int(os.environ.get("ANYCHIP_FUZZ", "1000"))


def agrees(text: str) -> bool:
    """Was the text read? Then tomllib reads the same, to the type of every number and the order of every key."""
    read = parse(text)
    if read is None:
        return False
    assert repr(read) == repr(tomllib.loads(text)), text
    return True


def test_files_of_the_standard_are_plain() -> None:
    plain = [file.stem for file in FILES if agrees(file.read_text(encoding="utf-8"))]
    assert len(plain) > 0.9 * len(FILES)


@pytest.mark.parametrize(
    "text",
    [
        'a = "x" # c\n\n[t.u]\nb = { value = 1.50, unit = "GB", src = "s", note = "n" }\n[t]\nc = -7\nd = 1e9',
        "[[list]]\nx = [1, 2.5, [true, false]]\n[[list]]\nx = []",
        'a = { b = { c = "d" }, e = [ "f" , "g", ] }',
        '\ta = 1\n  [t]\n b = "c"',
    ],
)
def test_what_is_plain_means_the_same(text: str) -> None:
    agrees(text)
    assert tomllib.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "a = 1\na = 2",
        'a = "x"\na = "y"',
        "[t]\n[t]",
        "[t.u]\n[t]\nu = 1",
        "a = 1\n[a]",
        "a = { b = 1 }\n[a.c]",
        "[[a]]\n[a]",
        "[a]\n[[a]]",
        "a = []\n[[a]]",
        "a = { b = 1, b = 2 }",
        "a = { b = 1, }",
        "a = 01",
        "a = 1 2",
        'a = "x" "y"',
        'a = """x"""',
        "a = 1.",
        "a = .5",
        "a = [1,,2]",
        "a = truer",
        'a = "\x01"',
        "a = 1 # \x7f",
        "a =",
        "[a",
        "[a.]",
    ],
)
def test_what_is_wrong_is_left_to_tomllib(text: str) -> None:
    assert parse(text) is None


def test_broken_files_are_read_alike() -> None:
    """Characters flipped, lost and doubled, lines moved: what the plain reader still takes, tomllib takes alike."""
    rng, texts = random.Random(9), [file.read_text(encoding="utf-8") for file in FILES]
    taken = 0
    for _ in range(COUNT):
        text = rng.choice(texts)
        for _ in range(rng.randint(1, 3)):
            at, length = rng.randrange(len(text)), rng.choice((0, 1, 1, 3, 60))
            new = rng.choice(("", rng.choice("[]{}\"'=,.#\\\n\r\t 0-1e_+"), text[at : at + length] * 2))
            text = text[:at] + new + text[at + length :]
        taken += agrees(text)
    assert taken > COUNT / 20
