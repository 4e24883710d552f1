"""A rule: one file of anychip/audit/rules, found by listing the folder.

A rule's file has a docstring (its documentation: first line, what it finds; then why it matters and what to do), and

    NAME = "cuda-api"                      as reports and `# anychip: ignore[cuda-api]` write it
    KINDS = ("python",)                    kinds of file it reads (anychip.source.files); "python" where it is left out
    def find(file) -> Iterable[Finding]    a Module for python and notebook, a Text with path and kind for the others
    VALID, INVALID                         cases: code with no finding, code with findings (text, symbols in order)

Tests and docs/audit-rules.md are made from the cases. Codemods (anychip.port) have rules of the same names.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from anychip.audit import rules as folder
from anychip.audit.finding import Finding

Case = tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class Rule:
    name: str
    kinds: tuple[str, ...]
    docs: str
    find: Callable[[Any], Iterable[Finding]]
    valid: tuple[str, ...]
    invalid: tuple[Case, ...]


@cache
def all_rules() -> tuple[Rule, ...]:
    """Every rule, by name. AssertionError if two have one name."""
    names = sorted(module.name for module in pkgutil.iter_modules(folder.__path__) if not module.name.startswith("_"))
    found = tuple(_rule(importlib.import_module(f"{folder.__name__}.{name}")) for name in names)
    assert len({rule.name for rule in found}) == len(found), "two rules of one name"
    return tuple(sorted(found, key=lambda rule: rule.name))


def _rule(module: Any) -> Rule:
    kinds = getattr(module, "KINDS", ("python",))
    return Rule(module.NAME, kinds, module.__doc__ or "", module.find, tuple(module.VALID), tuple(module.INVALID))


@cache
def rules_for(kind: str) -> tuple[Rule, ...]:
    return tuple(rule for rule in all_rules() if kind in rule.kinds)
