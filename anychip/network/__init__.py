"""Networks: the tiers between chips, collective algorithms on them, and what a collective costs.

`collective_of(op)` says what an operator communicates; `Fabric.of(chip, num_chips, cluster)` is a network as the
standard's files describe it; `fabric.cost(kind, nbytes, ranks)` are the seconds. Needs no torch.
"""

from anychip.network.collective import KINDS, Collective, collective_of
from anychip.network.fabric import CollectiveCost, Fabric
from anychip.network.tiers import USUAL_NODE, Tier

__all__ = ["KINDS", "USUAL_NODE", "Collective", "CollectiveCost", "Fabric", "Tier", "collective_of"]
