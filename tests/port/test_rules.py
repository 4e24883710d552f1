"""Every rule by its own cases: what it must edit, into what, and what it must not touch."""

import ast

import pytest

from anychip.port.engine import port_source
from anychip.port.rules import name_of, rules
from anychip.port.target import make_target

TARGETS = {"portable": make_target(None), "chip": make_target("ascend-910b")}


def cases(kind):
    return [
        pytest.param(rule, case, id=f"{name_of(rule)}-{i}")
        for rule in rules()
        for i, case in enumerate(getattr(rule, kind))
    ]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("rule", "text"), cases("VALID"))
def test_code_that_a_rule_must_not_touch(rule, text, target):
    made = port_source(text, TARGETS[target])
    assert [change.symbol for change in made.changes if change.rule == name_of(rule)] == []
    ast.parse(text)


@pytest.mark.parametrize(("rule", "case"), cases("INVALID"))
@pytest.mark.parametrize(("target", "at"), [("portable", 1), ("chip", 2)])
def test_code_that_a_rule_edits(rule, case, target, at):
    made = port_source(case[0], TARGETS[target])
    assert made.text.endswith(case[at]), made.text
    assert not made.problem
    if case[at] not in case[0]:
        assert name_of(rule) in {change.rule for change in made.changes}


@pytest.mark.parametrize(("rule", "case"), cases("INVALID"))
@pytest.mark.parametrize("target", TARGETS)
def test_porting_twice_is_porting_once(rule, case, target):
    once = port_source(case[0], TARGETS[target]).text
    assert port_source(once, TARGETS[target]).text == once


def test_every_rule_says_what_it_does_and_has_cases():
    for rule in rules():
        assert rule.__doc__, rule.__name__
        assert rule.VALID, rule.__name__
        assert name_of(rule) == (getattr(rule, "RULE", None) or rule.NAME)


@pytest.mark.parametrize(("symbol", "differs"), [("default_stream()", True), ("empty_cache()", False)])
def test_a_twin_that_is_documented_to_differ_is_edited_with_a_word_of_it(symbol, differs):
    """The audit asked for a decision, and port edited the same call without a word."""
    made = port_source(f"import torch\ntorch.cuda.{symbol}\n", TARGETS["chip"])
    (reason,) = {change.reason for change in made.changes}
    assert f"torch.npu.{symbol}" in made.text
    assert ("documented to differ" in reason) == differs


def test_a_twin_that_may_not_answer_is_left():
    """torch_npu's capability is None: port made None[0] of a program's check, and its proof held."""
    made = port_source("import torch\nif torch.cuda.get_device_capability()[0] >= 8: pass\n", TARGETS["chip"])
    assert not made.changes
    assert any("None" in one.reason for one in made.left)
