"""docs/audit-rules.md: every rule with its documentation and its cases, made from the rules themselves."""

from collections.abc import Iterator

from anychip.audit.rule import Rule, all_rules

HEAD = """\
<!-- Written by `make docs` from anychip/audit/rules/. Do not edit: change the rule's file. -->

# The rules of `anychip audit`

One file each in `anychip/audit/rules/`; names and packages that rules look for are in `anychip/audit/tables/`. Code that a
rule finds stands with the symbols it reports; code that it must not touch stands below it. How costs become a score and what
chips say: [audit.md](audit.md).
"""


def rules_page() -> str:
    rules = all_rules()
    index = " · ".join(f"[{rule.name}](#{rule.name})" for rule in rules)
    return "\n".join([HEAD, index, *(line for rule in rules for line in _rule(rule)), ""])


def _rule(rule: Rule) -> Iterator[str]:
    yield f"\n## {rule.name}\n"
    yield rule.docs.strip()
    kinds = ", ".join("python and notebooks" if kind == "python" else kind for kind in rule.kinds)
    yield f"\nReads: {kinds}.\n"
    for code, symbols in rule.invalid:
        yield from _code(code, f"Found: {', '.join(f'`{symbol}`' for symbol in symbols)}")
    yield from _code("\n".join(code.rstrip("\n") for code in rule.valid), "Not touched:")


def _code(code: str, title: str) -> Iterator[str]:
    yield f"{title}\n"
    yield from (f"    {line}".rstrip() for line in code.strip("\n").split("\n"))
    yield ""
