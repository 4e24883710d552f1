"""What a collective's price costs: the first look at 16,384 ranks, a size not priced before, one that was."""

import sys
import time

from base import report

from anychip.network import Fabric
from anychip.spec import load_chip

RANKS = tuple(range(16384))
FIRST_MS, FRESH_US, KNOWN_US = 40.0, 100.0, 5.0


def main() -> int:
    chip = load_chip("h100")
    Fabric.of(chip, 8)  # the points of all chips are read once
    first, fresh, known = [], [], []
    for repeat in range(5):
        began = time.perf_counter()
        fabric = Fabric.of(chip, 16384, "meta-24k-roce")
        fabric.cost("all_gather", 2**30, tuple(RANKS[: 16384 - repeat]))
        first.append(time.perf_counter() - began)
        fabric.cost("all_reduce", 1, RANKS)
        for found in (fresh, known):
            began = time.perf_counter()
            for nbytes in range(1000, 2000):
                fabric.cost("all_reduce", nbytes, RANKS)
            found.append((time.perf_counter() - began) / 1000)
    fine = [
        report("network.first_look_16k", min(first) * 1e3, "ms", FIRST_MS),
        report("network.fresh_size", min(fresh) * 1e6, "us", FRESH_US),
        report("network.known_size", min(known) * 1e6, "us", KNOWN_US),
    ]
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
