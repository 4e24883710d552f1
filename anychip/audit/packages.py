"""Packages that are bound to CUDA: tables/packages.csv, by the module that is imported and by the name it is installed by."""

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).parent / "tables" / "packages.csv"


@dataclass(frozen=True)
class Package:
    """need: the name under which platforms say what stands in for it (their [libraries]). imports: the severity of an import:
    `flow` for packages that run without CUDA as well, where only what installs them has to be looked at."""

    module: str
    dists: tuple[str, ...]
    rule: str
    severity: str
    need: tuple[str, str]
    message: str
    fix: str
    imports: str


@cache
def by_module() -> dict[str, Package]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    packages = [
        Package(
            r["module"],
            tuple(r["dists"].split()),
            r["rule"],
            r["severity"],
            ("library", r["need"]),
            r["message"],
            r["fix"],
            r["imports"] or r["severity"],
        )
        for r in rows
    ]
    assert len({package.module for package in packages}) == len(packages), "a module stands twice"
    return {package.module: package for package in packages}


@cache
def by_dist() -> dict[str, Package]:
    return {plain(dist): package for package in by_module().values() for dist in package.dists}


def plain(dist: str) -> str:
    """A name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", dist).lower()
