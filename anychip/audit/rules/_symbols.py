"""Uses and imports of names that tables/symbols.csv lists, found for all rules in one pass over a module.

A row's symbol stands for itself and for everything below it; the longest row that fits is the one.
"""

import ast
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from anychip.audit.finding import Finding, finding
from anychip.source.module import Module

TABLE = Path(__file__).parent.parent / "tables" / "symbols.csv"
Use = tuple[ast.AST, str]


@dataclass(frozen=True)
class Row:
    """need: what a chip is asked for, as (kind, name)."""

    rule: str
    symbol: str
    severity: str
    need: tuple[str, str]
    message: str
    fix: str


@cache
def rows() -> dict[str, Row]:
    """By symbol. AssertionError if one stands twice."""
    found: dict[str, Row] = {}
    with TABLE.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            assert line["symbol"] not in found, line["symbol"]
            kind, _, name = line["need"].partition(":")
            need = (kind, name)
            found[line["symbol"]] = Row(
                line["rule"], line["symbol"], line["severity"], need, line["message"], line["fix"]
            )
    return found


@cache
def _roots() -> frozenset[str]:
    return frozenset(symbol.split(".")[0] for symbol in rows())


def row_of(name: str) -> Row | None:
    """The row of the longest symbol that the name begins with, word by word (torch._C._cuda: also letter by letter)."""
    table = rows()
    prefix = name
    while prefix:
        if prefix in table:
            return table[prefix]
        prefix = prefix.rpartition(".")[0]
    return table["torch._C._cuda"] if name.startswith("torch._C._cuda") else None


def names(module: Module) -> list[Use]:
    """Every use and import of another module's name: (node, dotted name), in the order of the text. Once per module."""
    known = module.__dict__.get("_names")
    if known is None:
        imported = [(alias, name) for alias, name in imports(module) if name]
        known = module.__dict__["_names"] = [*imported, *module.uses]
    return known


def imports(module: Module) -> Iterator[tuple[ast.alias, str]]:
    """Every imported name, in full: `from torch.cuda import amp` gives torch.cuda.amp, a star the module."""
    from anychip.source.scopes import absolute

    for node in module.found.imports:
        if isinstance(node, ast.Import):
            yield from ((alias, alias.name) for alias in node.names)
        else:
            source = absolute(node, module.package)
            for alias in node.names:
                yield alias, source if alias.name == "*" else f"{source}.{alias.name}"


def matches(module: Module) -> dict[str, list[tuple[ast.AST, str, Row]]]:
    """Rule -> (node, name, row) of what its rows fit. Once per module."""
    known = module.__dict__.get("_matches")
    if known is None:
        known = {}
        roots = _roots()
        for node, name in names(module):
            if name.partition(".")[0] in roots and (row := row_of(name)):
                known.setdefault(row.rule, []).append((node, name, row))
        module.__dict__["_matches"] = known
    return known


def find_listed(module: Module, rule: str) -> Iterator[Finding]:
    """The findings of all rows of a rule."""
    for node, name, row in matches(module).get(rule, ()):
        yield finding(module, node, rule, row.severity, name, row.message, row.fix, row.need)
