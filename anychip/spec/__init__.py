"""The open chip standard: what is known of each chip and its software, read from declarative files.

`load_chip("h100")` gives a `Chip`; `list_chips()` the list; `check()` all problems of all files. Imports neither torch
nor numpy.
"""

from anychip.spec.chip import Chip, Figure, Link, MemoryTier, TorchAnswers, UnknownFigure
from anychip.spec.load import ChipEntry, list_chips, load_chip
from anychip.spec.platform import Platform
from anychip.spec.problem import Problem

__all__ = [
    "Chip",
    "ChipEntry",
    "Figure",
    "Link",
    "MemoryTier",
    "Platform",
    "Problem",
    "TorchAnswers",
    "UnknownFigure",
    "list_chips",
    "load_chip",
]
