"""Every rule by its own cases: code it must not touch, and code with the symbols it finds."""

import re

import pytest

from anychip.audit.finding import AGE, SEVERITIES
from anychip.audit.reading import read_text
from anychip.audit.rule import all_rules

RULES = all_rules()
# A name that says which kind of file a case is: "dockerfile: FROM x"; python where there is none.
KIND = re.compile(r"\A<(\w+)>\n")


def found(rule, code):
    kind = KIND.match(code)
    file = read_text(code[kind.end() :] if kind else code, kind[1] if kind else rule.kinds[0], "case")
    return sorted(rule.find(file), key=lambda f: (f.place.line, f.place.column))


@pytest.mark.parametrize(
    ("rule", "code"), [(r, c) for r in RULES for c in r.valid], ids=lambda v: getattr(v, "name", None)
)
def test_valid_code_has_no_finding(rule, code):
    assert found(rule, code) == []


@pytest.mark.parametrize(
    ("rule", "code", "symbols"),
    [(r, c, s) for r in RULES for c, s in r.invalid],
    ids=lambda v: getattr(v, "name", None),
)
def test_invalid_code_is_found_with_its_symbols(rule, code, symbols):
    findings = found(rule, code)
    assert tuple(finding.symbol for finding in findings) == symbols
    for finding in findings:
        assert finding.rule == rule.name
        assert finding.severity in (*SEVERITIES, AGE)
        assert finding.message
        assert finding.fix
        assert finding.place.line >= 1
        assert finding.place.column >= 1


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rules_are_documented_and_have_cases(rule):
    first, _, rest = rule.docs.partition("\n\n")
    assert first.strip()
    assert rest.strip(), "after the first line: why it matters and what to do"
    assert len(rule.valid) >= 2
    assert len(rule.invalid) >= 2


def test_names_that_are_gone_from_torch_are_gone():
    """Against the torch that is installed: absent, or there only to raise."""
    import importlib.util

    from anychip.audit.rules._symbols import rows

    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    import torch

    for row in rows().values():
        words = row.symbol.split(".")
        if row.severity == AGE and words[0] == "torch":
            owner = torch
            for word in words[1:-1]:
                owner = getattr(owner, word, None)
            there = getattr(owner, words[-1], None)
            assert there is None or there.__module__ == "torch._linalg_utils", row.symbol


def test_kernels_for_both_makers_are_cuda_and_amds_own_are_not():
    code = "#ifdef __HIP_PLATFORM_AMD__\n#endif\n__global__ void k();\n"
    rule = next(rule for rule in RULES if rule.name == "cuda-kernel")
    assert [f.symbol for f in rule.find(read_text(code, "cuda", "k.cu"))] == ["__global__"]
    assert list(rule.find(read_text(code, "cxx", "k.h"))) == []
