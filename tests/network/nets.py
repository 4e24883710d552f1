"""Made-up networks whose rates are easy to divide by: closed forms without curves."""

from anychip.network import Fabric, Tier
from anychip.network.curve import Curve
from anychip.network.levels import Measured
from anychip.spec import load_chip

GB = 10**9
US = 1e-6
# Takes exactly the time that the bytes need, plus the latency of the steps.
STRAIGHT = Curve((1e-6, 1.0), (1e-6, 1.0), 0.0)


def tier(name="node", chips=8, rate=100 * GB, topology="switch", peer=None, latency=0.0, role="scale_up", **more):
    return Tier(name, role, chips, topology, rate, peer or rate, latency, latency, 1.0, True, **more)


def outer(name="network", chips=1 << 40, rate=10 * GB, latency=0.0, **more):
    return tier(name, chips, rate, latency=latency, role="scale_out", **more)


def fabric(*tiers, num_chips=1024, algorithms=("ring",), placement=None):
    facts = Measured({}, {("scale_up", ""): STRAIGHT, ("scale_out", ""): STRAIGHT})
    return Fabric(load_chip("generic-cpu"), num_chips, None, tiers, tuple(algorithms), facts, placement)
