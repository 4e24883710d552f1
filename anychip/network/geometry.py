"""What a set of ranks looks like in the tiers of a fabric: how many share a domain, how many domains it touches.

In: chip numbers as an array. Out: `Geometry`, small and hashable: sets that look alike cost alike, so a fabric prices
the look, not the set. One numpy pass over the array; nothing here loops over ranks.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from anychip.network.tiers import Tier

Chips = npt.NDArray[np.int64]


class Reach(NamedTuple):
    """A set inside the domains of one tier. most, least: members in one domain that it touches. domains: how many it
    touches. extents, spacing: on a torus, distinct coordinates along each dimension and the steps between neighbours;
    boxed: the members of a domain are every combination of those coordinates."""

    most: int
    least: int
    domains: int
    extents: tuple[int, ...] = ()
    spacing: tuple[int, ...] = ()
    boxed: bool = True


class Geometry(NamedTuple):
    """size: ranks. reaches: one for each tier, innermost first, up to the tier that holds them all."""

    size: int
    reaches: tuple[Reach, ...]

    def fan_out(self, tier: int) -> int:
        """Domains of the next inner tier that meet in one domain of this one; ranks in the innermost."""
        inner = self.reaches[tier - 1].domains if tier else self.size
        return -(-inner // self.reaches[tier].domains)

    def senders(self, tier: int) -> int:
        """Ranks of the group that share the wires by which a domain below this tier is left."""
        return self.reaches[tier - 1].least if tier else 1

    def parts(self, tier: int) -> int:
        """Domains below this tier that the group touches; its ranks for the innermost."""
        return self.reaches[tier - 1].domains if tier else self.size


def geometry(chips: Chips, tiers: tuple[Tier, ...]) -> Geometry:
    """The look of a set of distinct chips, none beyond the outermost tier."""
    reaches: list[Reach] = []
    for tier in tiers:
        domain, counts = np.unique(chips // tier.chips, return_counts=True)
        reach = Reach(int(counts.max()), int(counts.min()), len(domain))
        if tier.dims:
            reach = _on_torus(chips[chips // tier.chips == domain[counts.argmax()]] % tier.chips, tier, reach)
        reaches.append(reach)
        if len(domain) == 1:
            break
    return Geometry(len(chips), tuple(reaches))


def _on_torus(chips: Chips, tier: Tier, reach: Reach) -> Reach:
    """Coordinates along each dimension, the last dimension running fastest."""
    extents, spacing = [], []
    for coordinates in np.unravel_index(chips, tier.dims):
        places = np.unique(coordinates)
        extents.append(len(places))
        spacing.append(int(np.diff(places).max()) if len(places) > 1 else 1)
    boxed = int(np.prod(extents)) == len(chips)
    return reach._replace(extents=tuple(extents), spacing=tuple(spacing), boxed=boxed)
