"""One rule set for the user: what a codemod edits, the audit finds, under the same name."""

import pytest

from anychip.audit.one import audit_text
from anychip.port.rules import name_of, rules

CASES = [(name_of(rule), case[0]) for rule in rules() for case in rule.INVALID]


@pytest.mark.parametrize(("name", "code"), CASES, ids=lambda value: value.split("\n")[0][:40])
def test_what_port_edits_audit_finds(name, code):
    assert name in {finding.rule for finding in audit_text(code, "python", "case.py").findings}
