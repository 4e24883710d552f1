"""Where a program is to run: each target that was asked for, with its chip and its network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from anychip import targets
from anychip.errors import BadTarget, BadUse
from anychip.spec import Chip, load_chip

if TYPE_CHECKING:
    from anychip.network import Fabric

OnChips = str | Chip | Sequence[str | Chip]


@dataclass(frozen=True)
class Place:
    """One target: a number of chips, in a named cluster or as the chip's own file joins them. name: as it was asked for.
    is_job: a number of chips was given, even one: the program is started as torchrun starts each of so many ranks."""

    name: str
    chip: Chip
    num_chips: int = 1
    cluster: str | None = None
    is_job: bool = False

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
        return self.chip.id + (f":{self.num_chips}" if self.is_job else "")


def places_of(on: OnChips, ranks: int = 1) -> list[Place]:
    """Every target, ranges written out, each once. ranks: how many chips a target without a count is of.

    Raises UnknownChip, BadChipFile (of its rates, too, before a program is run on it), BadTarget, BadUse for none.
    """
    from anychip.cost.rates import rates_of_chip

    wanted = [on] if isinstance(on, str | Chip) else list(on)
    if not wanted:
        raise BadUse("no chip given; see: anychip chips")
    found: dict[tuple[Chip, int, str | None, bool], Place] = {}
    for one in wanted:
        if isinstance(one, Chip):
            found.setdefault((one, ranks, None, ranks > 1), Place(one.id, one, ranks, is_job=ranks > 1))
            continue
        for target in targets.expand(one):
            if target.counts is None and ranks > 1:
                target = replace(target, counts=(ranks, ranks))
            if target.counts is None and target.cluster:
                better = replace(target, counts=(8, 8))
                raise BadTarget(
                    f"{target}: no COUNT is given, and a cluster is of several chips: CHIP:COUNT@CLUSTER. Try: --on {better}"
                )
            chip, is_job = load_chip(target.chip), target.counts is not None
            place = Place(str(target), chip, target.count, target.cluster, is_job)
            found.setdefault((chip, place.num_chips, place.cluster, is_job), place)
    for place in found.values():
        rates_of_chip(place.chip)
    return list(found.values())
