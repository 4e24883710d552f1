"""`python -m accuracy.fit --rows FILE.csv --chip ID --ids a,b,c`: the level at which a chip's products run in a step.

One number so that the median error of at most three runs is nothing: `gemm.sustained`, or what `--constant` names, for all dtypes or
for `--dtype`. (Where products were measured in long runs, `gemm.warm`, the first cancels; `gemm.warm.sustained` is theirs.) It is
printed, not written: whoever puts it into standard/rates names the runs there and in fit.toml, which takes them out of every figure.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from statistics import median
from typing import NamedTuple

from accuracy.plan import Plan, plan
from accuracy.recorder import Recorder
from accuracy.rows import read
from accuracy.runner import forecast
from accuracy.truth_of_runs import step_time_s
from anychip.cost.rates import Rate, Rates, rates_of_chip
from anychip.spec import Chip

MOST = 3
LOWEST, HIGHEST, STEPS = 0.3, 1.6, 4
machines = import_module("anychip.cost.machine")  # (the package's `machine` is a function of it)


class Constant(NamedTuple):
    """A row of a chip's rates. dtype: "" is any."""

    op: str = "gemm.sustained"
    dtype: str = ""

    @contextmanager
    def at(self, value: float) -> Iterator[None]:
        """Every chip priced meanwhile has this value of it."""

        def changed(chip: Chip) -> Rates:
            rates = rates_of_chip(chip)
            kept = tuple(row for row in rates.rows if row.op != self.op or self.dtype not in ("", row.dtype))
            row = Rate(self.op, self.dtype, "", value, "ratio", "derived", "", "", "a trial", "")
            return Rates((*kept, row), rates.default)

        before = machines.rates_of_chip
        machines.rates_of_chip = changed  # type: ignore[attr-defined]
        machines.machine.cache_clear()
        try:
            yield
        finally:
            machines.rates_of_chip = before  # type: ignore[attr-defined]
            machines.machine.cache_clear()


def error(plans: list[Plan], recorder: Recorder, constant: Constant, value: float) -> float:
    """Median error of the plans at this level."""
    with constant.at(value):
        return median(forecast(one, recorder).time_s / step_time_s(one) - 1 for one in plans)


def fit(plans: list[Plan], recorder: Recorder, constant: Constant) -> float:
    """By secants of 1 / level, in which the time is nearly straight: a faster level makes every forecast shorter."""
    left, right = 1 / 0.7, 1.0
    one, other = error(plans, recorder, constant, 1 / left), error(plans, recorder, constant, 1 / right)
    for _ in range(STEPS):
        if abs(one - other) < 1e-6 or abs(other) < 1e-4:
            break
        left, right, one = right, right - other * (right - left) / (other - one), other
        right = min(max(right, 1 / HIGHEST), 1 / LOWEST)
        other = error(plans, recorder, constant, 1 / right)
    return 1 / right


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m accuracy.fit", description=__doc__)
    parser.add_argument("--rows", action="append", required=True)
    parser.add_argument("--chip", required=True)
    parser.add_argument("--ids", required=True)
    parser.add_argument("--constant", default=Constant().op)
    parser.add_argument("--dtype", default="")
    args = parser.parse_args()
    constant = Constant(args.constant, args.dtype)
    ids = args.ids.split(",")
    if len(ids) > MOST:
        print(f"accuracy.fit: {len(ids)} runs; at most {MOST} may fit a constant", file=sys.stderr)
        return 2
    plans = [found for run in read(args.rows) if run.id in ids and (found := plan(run)).chip == args.chip]
    with Recorder() as recorder:
        value = fit(plans, recorder, constant)
        with constant.at(value):
            left = [f"{one.run.id} {forecast(one, recorder).time_s / step_time_s(one) - 1:+.1%}" for one in plans]
    print(f"{args.chip} {' '.join(filter(None, constant))} {value:.3f}: {', '.join(left)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
