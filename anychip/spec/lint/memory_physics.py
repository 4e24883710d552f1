"""Memory that reads itself faster than physics allows, or a fast tier that is slower than the big one."""

from collections.abc import Iterator

from anychip.spec.context import Context, Subject
from anychip.spec.problem import Problem

RULE = "memory-physics"
ABOUT = "Usable is not more than built; DRAM takes between 3 ms and 10 s to be read once."

# The quickest DRAM stacks read themselves in about 15 ms (24 GiB at 1.2 TB/s is 20 ms), DDR modules in about 1 s.
_DRAM_S = (3e-3, 10.0)


def check(subject: Subject, context: Context) -> Iterator[Problem]:
    for name, tier in subject.table.get("memory", {}).items():
        at = f"memory.{name}"
        capacity, usable = subject.value(f"{at}.capacity"), subject.value(f"{at}.usable")
        if capacity and usable and usable > capacity:
            yield subject.problem(RULE, f"{at}.usable", "more is usable than is built", "check the units: GB or GiB")
        bandwidth = subject.value(f"{at}.bandwidth")
        if name == "main" and capacity and bandwidth and "SRAM" not in tier.get("technology", ""):
            time_s = capacity / bandwidth
            if not _DRAM_S[0] <= time_s <= _DRAM_S[1]:
                message = f"{capacity:.4g} bytes at {bandwidth:.4g} bytes/s are read in {time_s:.3g} s"
                yield subject.problem(RULE, f"{at}.bandwidth", message, "check digits and unit")
