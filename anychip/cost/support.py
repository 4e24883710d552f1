"""Dtypes that a chip cannot compute in, by what its platform's file says: said plainly, never priced in silence.

In: the ops that a program ran and a chip. Out: one sentence per dtype and use. Such ops are still priced, in the dtype that
the chip would compute them in (`machine.RUNS_AS`), so that the rest of the forecast can be read.
"""

from collections.abc import Iterable
from typing import NamedTuple

from anychip.cost.machine import Machine, machine
from anychip.cost.work import Work, packet, work
from anychip.record import Op
from anychip.spec import Chip

# kind of Work -> use of a dtype, as platform files name it
USES = {"elementwise": "elementwise", "fused": "elementwise", "reduction": "reduction", "copy": "storage"}
SAYS = {
    "error": "{chip} has no {dtype} {what}: the program would fail there",
    "emulated": "{chip} emulates {dtype} {what}",
    "cast": "{chip} computes {dtype} {what} in another dtype, with other results",
    "fallback": "{chip} sends {dtype} {what} back to the host's CPU: copies and CPU time are not priced",
}
WHAT = {"matmul": "matrix products", "elementwise": "arithmetic", "reduction": "reductions", "storage": "tensors"}


class Use(NamedTuple):
    """A torch dtype and what is done in it."""

    dtype: str
    use: str


def use_of(op: Op, task: Work) -> Use | None:
    """What the op computes in; None for what computes nothing."""
    use = "matmul" if task.unit == "matrix" else USES.get(task.kind)
    floating = [t.dtype for t in op.tensors + op.outputs if t.on_chip and t.dtype.startswith(("float", "bfloat"))]
    return Use(floating[0], use) if use and floating and task.kernels else None


def unsupported(ops: Iterable[Op], chip: Chip) -> tuple[str, ...]:
    """One sentence for each dtype and use that is not native on the chip, with how it was priced."""
    found: dict[Use, list[Op]] = {}
    for op in ops:
        use = use_of(op, work(op))
        if use is not None:
            found.setdefault(use, []).append(op)
    on = machine(chip)
    return tuple(filter(None, (_sentence(use, members, on) for use, members in found.items())))


def _sentence(use: Use, ops: list[Op], on: Machine) -> str | None:
    answer, short = on.chip.platform.supports(use.dtype, use.use), work(ops[0]).dtype
    runs_as = on.runs_as(short) if use.use == "matmul" else short
    has_rate = runs_as == short or short == "tf32" or any(rate.dtype == short for rate in on.rates.all("gemm.rate"))
    if answer not in SAYS and has_rate:
        return None
    says = SAYS.get(answer, "{chip} publishes no rate of {dtype} {what}")
    names = sorted({packet(op.name) for op in ops})
    shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
    text = says.format(chip=on.chip.id, dtype=use.dtype, what=WHAT[use.use])
    priced = "" if has_rate else f" Priced as {runs_as}." if runs_as else " Priced by an assumed rate."
    return f"{text} ({shown}).{priced}"
