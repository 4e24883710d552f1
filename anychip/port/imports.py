"""Imports that edits made useless are taken out; every other import stays as it is written.

Only names of modules that edits replace (torch.cuda, flash_attn, apex, xformers) are looked at, and only where each use of the
name in the file was replaced. A statement that would lose all its names goes with its line; what a comment says there stays, but for words
to a checker.
"""

import ast
import re
from collections.abc import Iterator

from anychip.port.module import Module
from anychip.port.unit import Unit

RULE = "imports"
REASON = "nothing uses it any more"
_REPLACED = ("torch.cuda", "flash_attn", "flash_attn_interface", "apex", "xformers")


def tidy(unit: Unit) -> None:
    """Changes that remove what is now unused."""
    for node in unit.module.found.imports:
        unused = [alias for alias in node.names if _is_unused(unit, node, alias)]
        if unused and len(unused) == len(node.names):
            _remove(unit, node)
        elif unused:
            _shorten(unit, node, unused)


def _qualified(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    return alias.name if isinstance(node, ast.Import) else f"{'.' * node.level}{node.module or ''}.{alias.name}"


def _is_unused(unit: Unit, node: ast.Import | ast.ImportFrom, alias: ast.alias) -> bool:
    name = _qualified(node, alias)
    if not any(name == prefix or name.startswith(prefix + ".") for prefix in _REPLACED) or alias.name == "*":
        return False
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch.cuda.amp"):
        return False  # moved to torch.amp as a whole
    bound = alias.asname or (alias.name.split(".")[0] if isinstance(node, ast.Import) else alias.name)
    if bound == "torch" or bound in _exported(unit.module):
        return False
    uses = unit.module.loads(bound)
    return bool(uses) and all(_replaced(unit, use) for use in uses)


def _replaced(unit: Unit, use: ast.Name) -> bool:
    at = unit.module.start(use)
    return any(start <= at < end for start, end in unit.done)


def _exported(module: Module) -> set[str]:
    """Names in strings of the file, such as those of __all__."""
    return {str(node.value) for node in module.strings if str(node.value).isidentifier()}


# A comment that is about the statement before it, and of no use without it.
_TO_A_CHECKER = re.compile(r"#\s*(noqa|type:|pylint:|isort:|fmt:|pyright:|mypy:|ruff:|nosec|pragma:)")


def _remove(unit: Unit, node: ast.Import | ast.ImportFrom) -> None:
    """The statement: with its line, where it has lines of its own; as `pass`, where it is all that its block does."""
    parent = unit.module.parent(node)
    if isinstance(parent, ast.Try):
        return
    blocks = (getattr(parent, name, []) for name in ("body", "orelse", "finalbody"))
    body = next((block for block in blocks if isinstance(block, list) and node in block), [])
    start, end, text = _span(unit.module, node, body)
    unit.change([(start, end, text)], RULE, REASON, f"import {node.names[0].name}")
    # What rules said of the import, before it was known to go, is settled.
    unit.left = [left for left in unit.left if not start <= left.offset < end]


def _span(source: Module, node: ast.Import | ast.ImportFrom, body: list[ast.stmt]) -> tuple[int, int, str]:
    """What to put in the place of which bytes."""
    if len(body) < 2:
        return source.start(node), source.end(node), "pass"
    at, last = body.index(node), node.end_lineno or node.lineno
    if at and body[at - 1].end_lineno == node.lineno:  # import torch; import apex
        return source.end(body[at - 1]), source.end(node), ""
    if at + 1 < len(body) and body[at + 1].lineno == last:
        return source.start(node), source.start(body[at + 1]), ""
    behind = source.slice(source.end(node), source.end_of_line(node)).strip()
    if behind.startswith("#") and not _TO_A_CHECKER.match(behind):
        return source.start(node), source.end_of_line(node) - len(behind.encode()), ""
    return source.offset(node.lineno, 0), _next_line(source, last), ""


def _next_line(source: Module, number: int) -> int:
    return source.starts[number] if number < len(source.starts) else len(source.data)


def _shorten(unit: Unit, node: ast.Import | ast.ImportFrom, unused: list[ast.alias]) -> None:
    """Take names out of a statement that keeps others."""
    pieces = list(_cuts(unit.module, node, unused))
    if pieces:
        unit.change(pieces, RULE, REASON, f"from {node.module}" if isinstance(node, ast.ImportFrom) else "import")


def _cuts(source: Module, node: ast.Import | ast.ImportFrom, unused: list[ast.alias]) -> Iterator[tuple[int, int, str]]:
    """Each name with its line, where it has one of its own, else with the comma that follows it, or of the last ones precedes them."""
    names, is_apart = node.names, "\\" not in source.of(node)
    lines = [alias.lineno for alias in names]
    kept = [index for index, alias in enumerate(names) if alias not in unused]
    for index, alias in enumerate(names):
        first = source.line(alias.lineno)
        if alias not in unused:
            continue
        if is_apart and lines.count(alias.lineno) == 1 and first[: alias.col_offset].isspace() and ")" not in first:
            yield source.offset(alias.lineno, 0), _next_line(source, alias.end_lineno or alias.lineno), ""
        elif index < kept[-1]:
            yield source.start(alias), source.start(names[index + 1]), ""
        elif "#" not in source.slice(source.end(names[index - 1]), source.start(alias)):
            yield source.end(names[index - 1]), source.end(alias), ""
