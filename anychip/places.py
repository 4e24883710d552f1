"""Where a program is to run: each target that was asked for, with its chip and its network."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from anychip import targets
from anychip.errors import BadUse
from anychip.spec import Chip, load_chip

if TYPE_CHECKING:
    from anychip.network import Fabric

OnChips = str | Chip | Sequence[str | Chip]


@dataclass(frozen=True)
class Place:
    """One target: a number of chips, in a named cluster or as the chip's own file joins them. name: as it was asked for."""

    name: str
    chip: Chip
    num_chips: int = 1
    cluster: str | None = None

    @cached_property
    def fabric(self) -> "Fabric | None":
        """The network; None for one chip, whose cluster is looked at none the less. Raises BadNetwork for what it lacks."""
        if self.num_chips == 1 and self.cluster is None:
            return None
        from anychip.network import Fabric

        fabric = Fabric.of(self.chip, self.num_chips, self.cluster)
        return fabric if self.num_chips > 1 else None

    @property
    def node_chips(self) -> int:
        """Chips that a rank sees."""
        if self.fabric is None:
            return 1
        from anychip.job import node_chips

        return node_chips(self.fabric)

    def __str__(self) -> str:
        return self.chip.id + (f":{self.num_chips}" if self.num_chips > 1 else "")


def places_of(on: OnChips, ranks: int = 1) -> list[Place]:
    """Every target, ranges written out, each once. ranks: how many chips a target without a count is of.

    Raises UnknownChip, BadChipFile, BadTarget, BadUse for none.
    """
    wanted = [on] if isinstance(on, str | Chip) else list(on)
    if not wanted:
        raise BadUse("no chip given; see: anychip chips")
    found: dict[tuple[Chip, int, str | None], Place] = {}
    for one in wanted:
        if isinstance(one, Chip):
            found.setdefault((one, ranks, None), Place(one.id, one, ranks))
            continue
        for target in targets.expand(one):
            count = ranks if ":" not in one and target.count == 1 else target.count
            chip = load_chip(target.chip)
            name = str(target) if count == target.count else f"{target.chip}:{count}"
            found.setdefault((chip, count, target.cluster), Place(name, chip, count, target.cluster))
    return list(found.values())
