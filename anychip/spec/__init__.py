"""The open chip standard: what is known of each chip and its software, read from declarative files.

`load_chip("h100")` gives a `Chip`; `list_chips()` the list; `check()` all problems of all files. Imports neither torch
nor numpy.
"""

from typing import TYPE_CHECKING

from anychip.spec.chip import Chip, Figure, Link, MemoryTier, TorchAnswers, UnknownFigure
from anychip.spec.cluster import Cluster, ClusterTier, Wire, list_clusters, list_wires, load_cluster, load_wire
from anychip.spec.json_schema import json_schema
from anychip.spec.load import ChipEntry, list_chips, load_chip
from anychip.spec.platform import Platform
from anychip.spec.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def check(paths: "Sequence[str | Path] | None" = None) -> list[Problem]:
    """Every problem of the given files and folders, of all files of the standard where none is given. Raises BadUse for one that
    is not there."""
    from anychip.spec.checking import check as run

    return run(paths)


def fix(paths: "Sequence[str | Path] | None" = None) -> "list[Path]":
    """Mend in place what the lint rules can mend; returns the files that changed."""
    from anychip.spec.checking import fix as run

    return run(paths)


__all__ = [
    "Chip",
    "ChipEntry",
    "Cluster",
    "ClusterTier",
    "Figure",
    "Link",
    "MemoryTier",
    "Platform",
    "Problem",
    "TorchAnswers",
    "UnknownFigure",
    "Wire",
    "check",
    "fix",
    "json_schema",
    "list_chips",
    "list_clusters",
    "list_wires",
    "load_chip",
    "load_cluster",
    "load_wire",
]
