"""The lock-in score: how much of the code is bound to CUDA, from 0 (nothing) to 100.

    points = sum over (file, rule, symbol) of weight x (1 + 0.1 x (times - 1))
    score  = 100 x d / (d + 50),  d = points per 1000 lines

The first use of a name in a file costs what its severity says, each further one a tenth of that: whoever has decided what
becomes of it once repeats the decision. 50 points per 1000 lines, such as ten decisions, give 50.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from anychip.audit.finding import AGE, SEVERITIES, Finding

WEIGHTS: Mapping[str, float] = {
    "flow": 0.0,
    "cosmetic": 0.1,
    "automatic": 1.0,
    "thought": 5.0,
    "rewrite": 20.0,
    "blocks": 50.0,
}
REPEAT = 0.1
HALF = 50.0
assert set(WEIGHTS) == set(SEVERITIES)


def points(findings: Iterable[Finding]) -> float:
    """Of all findings but those for age."""
    times = Counter((f.path, f.rule, f.symbol, f.severity) for f in findings if f.severity != AGE)
    return sum(WEIGHTS[key[3]] * (1 + REPEAT * (count - 1)) for key, count in times.items())


def score(findings: Iterable[Finding], num_lines: int) -> float:
    """0 to 100; 0 for no lines."""
    density = points(findings) / num_lines * 1000 if num_lines else 0.0
    return 100 * density / (density + HALF)
