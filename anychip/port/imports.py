"""Imports that edits made useless are taken out; every other import stays as it is written.

Only names of modules that edits replace (torch.cuda, flash_attn, apex, xformers) are looked at, and only where each use of the
name in the file was replaced. A statement that would lose all its names goes with its line.
"""

import ast

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
        elif unused and isinstance(node, ast.ImportFrom):
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


def _remove(unit: Unit, node: ast.Import | ast.ImportFrom) -> None:
    """The statement with its line, where it has lines of its own and is not all that its block does."""
    source, parent = unit.module, unit.module.parent(node)
    body = next(
        (
            b
            for b in (getattr(parent, f, []) for f in ("body", "orelse", "finalbody"))
            if isinstance(b, list) and node in b
        ),
        [],
    )
    first, last = source.line(node.lineno), source.line(node.end_lineno or node.lineno)
    text = source.of(node).split("\n")
    alone = first.strip() == text[0].strip() and last.split("#")[0].strip() == text[-1].strip()
    if len(body) < 2 or not alone or "#" in last or isinstance(parent, ast.Try):
        return
    start = source.offset(node.lineno, 0)
    end = (
        source.starts[node.end_lineno or node.lineno]
        if (node.end_lineno or node.lineno) < len(source.starts)
        else len(source.data)
    )
    unit.change([(start, end, "")], RULE, REASON, f"import {node.names[0].name}")
    # What rules said of the import, before it was known to go, is settled.
    unit.left = [left for left in unit.left if not start <= left.offset < end]


def _shorten(unit: Unit, node: ast.ImportFrom, unused: list[ast.alias]) -> None:
    """Take names out of one line; statements over several lines keep theirs, and their comments."""
    source = unit.module
    if node.lineno != node.end_lineno or not all(alias.lineno == node.lineno for alias in node.names):
        return
    kept = [alias for alias in node.names if alias not in unused]
    start, end = source.start(node.names[0]), source.end(node.names[-1])
    unit.change([(start, end, ", ".join(source.of(alias) for alias in kept))], RULE, REASON, f"from {node.module}")
