"""The pages about the audit say what the code does."""

import re
from pathlib import Path

from anychip.audit.offers import VERDICTS
from anychip.audit.pages import rules_page
from anychip.audit.score import HALF, REPEAT, WEIGHTS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_of_rules_is_what_the_rules_say():
    """Fails after a change of a rule: run `make docs` and commit what it writes."""
    assert (DOCS / "audit-rules.md").read_text() == rules_page()


def test_the_formula_and_its_weights_are_those_of_the_code():
    page = (DOCS / "audit.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| ([\d.]+) \|$", page, re.MULTILINE))
    assert {name: float(weight) for name, weight in rows.items()} == WEIGHTS
    assert f"(1 + {REPEAT} x (times - 1))" in page
    assert f"d / (d + {HALF:g})" in page


def test_every_verdict_is_explained():
    page = (DOCS / "audit.md").read_text()
    assert re.findall(r"^\| ([a-z ]+) \| [^|]+ \|$", page.partition("| verdict |")[2], re.MULTILINE) == list(VERDICTS)
