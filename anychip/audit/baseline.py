"""A baseline: what is known and accepted, so that only what is new is reported. A JSON file that a project commits.

Findings are known by their fingerprint (rule, file, symbol and the line's text), which survives edits elsewhere in the file;
a line that stands twice is counted twice.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from anychip.audit.finding import Finding
from anychip.errors import BadUse


def write_baseline(findings: Iterable[Finding]) -> str:
    """The text of a baseline of these findings, one line for each."""
    counts = Counter((f.path, f.rule, f.symbol, f.fingerprint) for f in findings)
    rows = [
        {"file": p, "rule": r, "symbol": s, "fingerprint": mark, "count": n}
        for (p, r, s, mark), n in sorted(counts.items())
    ]
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    return f'{{"schema": 1, "accepted": [\n  {lines}\n]}}'


def read_baseline(path: str | Path) -> Counter[str]:
    """Fingerprint -> how often. Raises BadUse for a file that is no baseline."""
    try:
        whole = json.loads(Path(path).read_text(encoding="utf-8"))
        return Counter({row["fingerprint"]: int(row["count"]) for row in whole["accepted"]})
    except OSError as error:
        raise BadUse(f"baseline {path}: {error.strerror}. Write one with --write-baseline {path}.") from None
    except (ValueError, KeyError, TypeError):
        raise BadUse(
            f"baseline {path}: not a baseline of anychip audit. Write one with --write-baseline {path}."
        ) from None


def split(findings: Iterable[Finding], accepted: Counter[str]) -> tuple[tuple[Finding, ...], int]:
    """The findings that are not accepted, and how many are."""
    left, new, known = accepted.copy(), [], 0
    for finding in findings:
        if left[finding.fingerprint] > 0:
            left[finding.fingerprint] -= 1
            known += 1
        else:
            new.append(finding)
    return tuple(new), known
