"""Figures drawn at random, to be read again at their sources: `python tools/draw.py [SEED [NUMBER]]`.

Drawn from every known figure that names an address, inherited ones included, chips in the order of their ids.
"""

import random
import sys
from collections.abc import Sequence

from anychip.spec.pages import all_chips


def draw(seed: int, number: int) -> list[str]:
    """Lines of chip, figure, what the file says, kind, source, note."""
    chips = all_chips()
    figures = [(chip, path, one) for chip in chips for path, one in chip.figures.items() if one.source[:4] == "http"]
    picked = random.Random(seed).sample(figures, number)
    return [
        f"{chip.id}  {path}  {one.printed}  {one.kind}  {one.source}" + (f"  ({one.note})" if one.note else "")
        for chip, path, one in picked
    ]


def main(argv: Sequence[str]) -> None:
    seed, number = int(argv[0]) if argv else 1, int(argv[1]) if len(argv) > 1 else 20
    print("\n".join(draw(seed, number)))


if __name__ == "__main__":
    main(sys.argv[1:])
