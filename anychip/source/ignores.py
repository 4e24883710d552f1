"""Comments that silence rules: `# anychip: ignore`, `# anychip: ignore[cuda-api, amp]`, `# anychip: ignore-file[...]`.

One at the end of a line is for that line, one alone on a line for the next line as well. `//` and `/*` comments count too.
"""

import re
from dataclasses import dataclass

from anychip.source.text import lines_of

_IGNORE = re.compile(r"(?:#|//|/\*)\s*anychip:\s*ignore(-file)?(?:\[([\w\s,-]*)\])?")
ALL = "*"


@dataclass(frozen=True)
class Ignores:
    """lines: line -> names of rules, or ALL. whole: names for the whole file."""

    lines: dict[int, frozenset[str]]
    whole: frozenset[str] = frozenset()

    def covers(self, line: int, rule: str, end_line: int = 0) -> bool:
        for number in {line, end_line or line}:
            names = self.lines.get(number, frozenset()) | self.whole
            if ALL in names or rule in names:
                return True
        return False


NONE = Ignores({})


def ignores(text: str) -> Ignores:
    if "anychip:" not in text:
        return NONE
    lines: dict[int, frozenset[str]] = {}
    whole: frozenset[str] = frozenset()
    for number, line in enumerate(lines_of(text), 1):
        found = _IGNORE.search(line)
        if not found:
            continue
        names = frozenset(name.strip() for name in (found[2] or ALL).split(","))
        if found[1]:
            whole |= names
            continue
        lines[number] = lines.get(number, frozenset()) | names
        if not line[: found.start()].strip():
            lines[number + 1] = lines.get(number + 1, frozenset()) | names
    return Ignores(lines, whole)
