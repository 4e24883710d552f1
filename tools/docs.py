"""Write again what is generated: README's demo and table of chips, one page per chip and one of the whole field, the
tables of rules and fields in docs/standard.md, the walkthrough's output.

Tests compare them with what the standard and a run say, so a change of either shows up as a difference to be committed
or mended. Run by `make docs`.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from anychip.audit.pages import rules_page
from anychip.port.pages import port_page
from anychip.spec.pages import all_chips, chip_page, field_page, field_tables, maker_table, rule_table

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
HEAD = "<!-- Written by `make docs` from anychip/standard/. Do not edit: change the chip's file. -->\n\n"
PORT_HEAD = "<!-- Written by `make docs` from anychip/port/. Do not edit: change the rule's file. -->\n\n"
SCREEN = {"COLUMNS": "120", "NO_COLOR": "1"}
FIELD = f"""{HEAD}# The whole field

What is known of whom, and what is not. A gap is named, never filled with another chip's figure. A grade says how far
forecasts are to be trusted ([standard.md](standard.md)); rates of links are one way, all ports of a chip together.

"""


def walkthrough() -> str:
    """What docs/walkthrough.py prints."""
    run = [sys.executable, str(DOCS / "walkthrough.py")]
    return subprocess.run(run, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def demo() -> list[str]:
    """What `make demo` prints, without the list of operations."""
    (targets,) = re.findall("^TARGETS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    command = [sys.executable, "-m", "anychip", "forecast", *targets.split(), "examples/train_gpt_cuda.py"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=os.environ | SCREEN)
    table = printed.stdout.partition("\ntop operations")[0].rstrip()
    return [f"    {line}".rstrip() for line in table.split("\n")]


def pages() -> dict[str, str]:
    """Path under docs/ -> text."""
    chips = all_chips()
    return {
        "chips.md": f"{FIELD}{field_page(chips, 'chips')}\n",
        "audit-rules.md": rules_page(),
        "port.md": f"{PORT_HEAD}{port_page()}",
        **{f"chips/{chip.id}.md": f"{HEAD}{chip_page(chip)}\n" for chip in chips},
    }


TABLES: dict[str, Callable[[], list[str]]] = {
    "demo": demo,
    "chips": lambda: maker_table(all_chips(), "docs/chips"),
    "rules": rule_table,
    "fields": field_tables,
}


def with_tables(text: str, names: Iterable[str] = TABLES) -> str:
    """A page with what stands between `<!-- NAME: written by make docs -->` and `<!-- end of NAME -->` written again."""
    for name in names:
        before, begin, rest = text.partition(f"<!-- {name}: written by make docs -->")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if begin:
            assert end, f"no end of {name}"
            text = "".join([before, begin, "\n\n", "\n".join(TABLES[name]()), "\n\n", end, after])
    return text


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    (DOCS / "chips").mkdir(exist_ok=True)
    written = pages()
    for old in (DOCS / "chips").glob("*.md"):
        if f"chips/{old.name}" not in written:
            old.unlink()
    for path, text in written.items():
        (DOCS / path).write_text(text, encoding="utf-8")
    for page in (ROOT / "README.md", DOCS / "standard.md"):
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
    (DOCS / "walkthrough.out").write_text(walkthrough(), encoding="utf-8")


if __name__ == "__main__":
    main()
