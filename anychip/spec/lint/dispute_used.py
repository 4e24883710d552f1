"""A dispute about a figure that is not there, or whose used value is not the figure's."""

import re
from collections.abc import Iterator

from anychip.spec.context import Context, Subject
from anychip.spec.problem import Problem
from anychip.spec.units import UNITS, to_si

RULE = "dispute-used"
ABOUT = "A dispute names a figure of the file, and the used value is that figure's."

_VALUE = re.compile(r"([0-9.]+)\s*([A-Za-z/]+)")


def check(subject: Subject, context: Context) -> Iterator[Problem]:
    for index, entry in enumerate(subject.doc.table.get("disputed", ())):
        at = f"disputed.{index}"
        figure = subject.figures.get(entry["figure"])
        if figure is None:
            yield subject.problem(RULE, f"{at}.figure", f"no figure {entry['figure']}", "a dotted path of this file")
            continue
        used = _VALUE.match(entry["used"])
        if used and figure.value is not None and used[2] in UNITS:
            value = to_si(float(used[1]), used[2])
            if abs(value - figure.value) > 0.005 * figure.value:
                message = f"used {entry['used']}, but the figure is {figure.printed}"
                yield subject.problem(RULE, f"{at}.used", message, f'used = "{figure.printed}"')
