"""What the time of a step is made of, in a sentence; and where the host sets its pace, whose host that is."""

from collections.abc import Mapping

from anychip import units
from anychip.cost.machine import Machine
from anychip.figures.sums import TopOp
from anychip.record import Program

# Where the host issues ops for this share of a step, and the chip waits for it for this share, the host sets the pace.
HOST_ISSUES, CHIP_WAITS = 0.9, 0.1
ON_CHIP = {
    "compute": "compute",
    "memory_bound": "memory and launches",
}  # parts of a step that go on while the host issues


def limit_of(breakdown: Mapping[str, float], step_time: float, top: tuple[TopOp, ...], kernels: float,
           host_s: float, along: Mapping[str, str] | None = None, own_s: float = 0.0) -> str:  # fmt: skip
    """What the step's time is made of, in a sentence. host_s: what the host needs to issue a step's ops. along: for parts
    of a job's time the mesh axis that takes most of it. own_s: what the host spends on what launches nothing."""
    if not step_time:
        return "Nothing ran on the chip."
    largest = max(breakdown, key=lambda part: breakdown[part])
    name = "host" if is_paced_by_host(breakdown, step_time, host_s) else largest
    share = f"{breakdown[name] / step_time:.0%}"
    most = next((f"; {one.name.removeprefix('aten.')} {one.shape} alone takes {one.time_s / step_time:.0%}"
                 for one in top if one.limit != "network"), "")  # fmt: skip
    if name == "host" and largest in ON_CHIP:
        return (f"The host: it issues kernels for {units.duration(host_s)} of the step, {kernels:,.0f} of them. The chip takes "
                f"{units.duration(breakdown[largest])} for {ON_CHIP[largest]} in the meantime and waits {units.duration(breakdown['host'])}; "
                "larger batches, compilation or graphs would help.")  # fmt: skip
    if name == "host" and own_s > breakdown[name] / 2:
        return (f"The host: the chip waits for it {share} of the step. The program sleeps or works there for "
                f"{units.duration(own_s)} of it without the chip; its {kernels:,.0f} kernels take the host {units.duration(host_s)}.")  # fmt: skip
    if name == "host":
        return (f"The host: the chip waits for it {share} of the step, which launches {kernels:,.0f} kernels; "
                "larger batches, compilation or graphs would help.")  # fmt: skip
    axis = f", most of it along {along[name]}" if along and along.get(name) else ""
    if name == "exposed_comm":
        return f"Communication: {share} of the step is spent in it alone{axis}."
    if name == "bubble":
        return f"Waiting: {share} of the chips' time passes idle until other ranks have come as far{axis}."
    if name == "compute":
        return f"Compute: {share} of the step is in ops limited by flop/s{most}."
    return f"Memory: {share} of the step is in ops limited by bandwidth or by their launch{most}."


def is_paced_by_host(breakdown: Mapping[str, float], step_time: float, host_s: float) -> bool:
    """Whether the host decides how long a step takes: it issues ops all the time, or most of a step passes waiting for it."""
    busy = host_s >= HOST_ISSUES * step_time and breakdown["host"] >= CHIP_WAITS * step_time
    return busy or max(breakdown, key=lambda part: breakdown[part]) == "host"


def host_of(program: Program, on: Machine, breakdown: Mapping[str, float], step_time: float, total: Mapping[str, float]) -> str:  # fmt: skip
    """Where the host sets the pace, whose time its is, in words; else empty. total: as `totals_of` gives it."""
    if on.graph or on.called or not step_time or not is_paced_by_host(breakdown, step_time, total["host_s"]):
        return ""
    if program.meta.get("host") == "measured":
        return "as it passed on this machine between calls of models, backward passes and optimizers"
    if total["own_s"] > breakdown["host"] / 2:  # the program sleeps, whatever the CPU
        return ""
    op_s = on.host_op_s + on.host_launch_s
    whose = (on.rates.first("host.op") or on.rates.need("host.product")).stack
    said = f"{units.duration(op_s)} an operation with its launch, {units.duration(on.host_product_s)} more a product"
    return said + (f", as {whose}" if whose else "")
