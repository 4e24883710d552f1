"""Imports of packages of tables/packages.csv, and importlib.import_module("...") of them."""

import ast
from collections.abc import Iterator

from anychip.audit.finding import Finding, finding
from anychip.audit.packages import by_module
from anychip.source.module import Module

_BY_NAME = ("import_module", "find_spec", "__import__", "is_package_available", "_is_package_available", "importorskip")


def find_imports(module: Module, rule: str) -> Iterator[Finding]:
    """The project's own modules are not meant: `from .triton import x`, and `import cuda` beside a cuda.py."""
    table = by_module()
    for node in module.found.imports:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _found(module, alias, alias.name, rule)
        elif node.level == 0 and node.module and node.module.split(".")[0] in table:
            yield from _found(module, node, node.module, rule)
    for call in module.calls:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if (
            name in _BY_NAME
            and call.args
            and isinstance(call.args[0], ast.Constant)
            and isinstance(call.args[0].value, str)
        ):
            yield from _found(module, call.args[0], call.args[0].value, rule)


def _found(module: Module, node: ast.AST, name: str, rule: str) -> Iterator[Finding]:
    package = by_module().get(name.split(".")[0])
    if package is not None and package.rule == rule:
        yield finding(module, node, rule, package.imports, name, package.message, package.fix, package.need)
