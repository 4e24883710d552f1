"""Write again what is generated under docs/: the walkthrough's output, the list of chips and a page for each of them.

A test compares the walkthrough's output with what a run prints, and the pages with the standard, so a change of either
shows up as a difference to be committed or mended. Run by `make docs`.
"""

import subprocess
import sys
from pathlib import Path

from anychip.report import chips as page
from anychip.spec import list_chips, load_chip

DOCS = Path(__file__).resolve().parents[1] / "docs"
HEAD = "<!-- Written by `make docs` from anychip/standard/. Do not edit: change the chip's file. -->\n\n"


def walkthrough() -> str:
    """What docs/walkthrough.py prints."""
    run = [sys.executable, str(DOCS / "walkthrough.py")]
    return subprocess.run(run, check=True, capture_output=True, text=True, cwd=DOCS.parent).stdout


def chip_pages() -> dict[str, str]:
    """Path under docs/ -> text."""
    entries = list_chips()
    links = page.list_markdown(entries)
    for entry in entries:
        links = links.replace(f"| {entry.id} |", f"| [{entry.id}](chips/{entry.id}.md) |")
    pages = {"chips.md": f"{HEAD}# Chips\n\n{links}\n"}
    for entry in entries:
        pages[f"chips/{entry.id}.md"] = f"{HEAD}{page.chip_markdown(load_chip(entry.file))}\n"
    return pages


def main() -> None:
    (DOCS / "chips").mkdir(exist_ok=True)
    for old in (DOCS / "chips").glob("*.md"):
        old.unlink()
    for path, text in chip_pages().items():
        (DOCS / path).write_text(text)
    (DOCS / "walkthrough.out").write_text(walkthrough())


if __name__ == "__main__":
    main()
