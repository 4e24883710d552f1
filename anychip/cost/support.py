"""What a chip cannot run, by what its platform's file says: said plainly, never priced in silence.

In: the ops that a program ran and a chip. Out: one sentence per dtype and use, and per language of the program's own kernels. Such ops
are still priced, in the dtype that the chip would compute them in (`machine.products`), so that the rest of the forecast can be read.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from anychip import units
from anychip.cost.custom import language_of
from anychip.cost.machine import Machine, Products, machine
from anychip.cost.matrix import NARROW_WEIGHTS
from anychip.cost.work import Work, packet, work
from anychip.record import Op
from anychip.spec import Chip

# kind of Work -> use of a dtype, as platform files name it; what computes nothing stores
USES = {"elementwise": "elementwise", "fused": "elementwise", "reduction": "reduction"}
SAYS = {
    "error": "{chip} has no {dtype} {what}: the program would fail there",
    "emulated": "{chip} emulates {dtype} {what}",
    "cast": "{chip} computes {dtype} {what} in another dtype, with other results",
    "fallback": "{chip} sends {dtype} {what} back to the host's CPU: copies and CPU time are not priced",
}
ALWAYS = ("error", "fallback")  # told of every tensor, the others only of what an op computes in
WHAT = {"matmul": "matrix products", "elementwise": "arithmetic", "reduction": "reductions", "storage": "tensors"}
# Products made for small integers, where torch.mm of these is refused: as good as the chip's own products of them.
INTEGER_PRODUCTS = ("aten._int_mm",)


class Unsupported(NamedTuple):
    """A sentence for a dtype and its use, or a language of kernels. fails: the program would end there."""

    text: str
    fails: bool


class Use(NamedTuple):
    """A torch dtype and what is done in it."""

    dtype: str
    use: str


def uses_of(op: Op, task: Work) -> tuple[Use | None, set[Use]]:
    """What the op computes in, None for what computes nothing, and in which dtypes it has its tensors on the chip.

    Of a product only the operands count: what it keeps beside its result (row sums in float32) is no product.
    """
    if packet(op.name) in NARROW_WEIGHTS:  # multiplied in the dtype of what meets the weight, which is stored as it is
        x, *stored = op.tensors
        return Use(x.dtype, "matmul"), {Use(x.dtype, "matmul"), *(Use(one.dtype, "storage") for one in stored)}
    use = "matmul" if task.unit == "matrix" else USES.get(task.kind, "storage") if task.flop else "storage"
    tensors = op.tensors[:2] if use == "matmul" else op.tensors + op.outputs
    dtypes = [tensor.dtype for tensor in tensors if tensor.on_chip]
    computed = dtypes if use == "matmul" else [one for one in dtypes if one.startswith(("float", "bfloat"))]
    if not computed or not task.kernels or task.kind in ("view", "none"):
        return None, {Use(dtype, use) for dtype in dtypes}
    return Use(computed[0], use), {Use(dtype, use) for dtype in dtypes}


def unsupported(ops: Iterable[Op], chip: Chip) -> tuple[Unsupported, ...]:
    """One for each dtype and use that is not native on the chip, with how it was priced, and for each language of the program's own
    kernels that is not compiled there."""
    ops = list(ops)
    computed: dict[Use, list[Op]] = {}
    stored: dict[Use, list[Op]] = {}
    on = machine(chip)
    for op in ops:
        if packet(op.name) in INTEGER_PRODUCTS and chip.peak_flop_per_s("int8", "matrix"):
            continue
        main, all_uses = uses_of(op, work(op))
        if main is not None:
            computed.setdefault(main, []).append(op)
        for use in all_uses:
            if chip.platform.supports(use.dtype, use.use) in ALWAYS:
                stored.setdefault(use, []).append(op)
    said = {use: _computed(use, members, on) for use, members in computed.items()}
    said |= {use: _told(use, members, chip) for use, members in stored.items() if not said.get(use)}
    dtypes = (
        Unsupported(text, chip.platform.supports(*use) == "error") for use, text in said.items() if text is not None
    )
    return (*dtypes, *_not_compiled(ops, chip))


def _not_compiled(ops: list[Op], chip: Chip) -> Iterator[Unsupported]:
    """Kernels of the program's own in languages that the chip's software does not compile."""
    kernels: dict[str, list[Op]] = {}
    for op in ops:
        if (language := language_of(op)) is not None:
            kernels.setdefault(language, []).append(op)
    theirs = chip.platform.raw.get("kernels", {}).get("language")
    instead = f" Kernels are written in {theirs} there." if theirs else ""
    for language, members in kernels.items():
        if chip.platform.compiles(language) is False:
            yield Unsupported(
                f"{chip.id} does not compile {language}: the program would fail there, at kernels of its own ({_shown(members)}).{instead}",
                True,
            )


def _computed(use: Use, ops: list[Op], on: Machine) -> str | None:
    answer = on.chip.platform.supports(use.dtype, use.use)
    # by op: products of one torch dtype run in float32 or tf32
    without = [op for op in ops if use.use == "matmul" and not _is_stated(work(op).dtype, on)]
    if answer not in SAYS and not without:
        return None
    priced = _priced(on.products(work(without[0]).dtype)) if without else ""
    return _told(use, ops if answer in SAYS else without, on.chip) + priced


def _is_stated(short: str, on: Machine) -> bool:
    """Somebody states how fast the chip multiplies this dtype itself; what need not be more than tf32 may be float32."""
    found = on.products(short)
    return found.known != "assumed" and found.dtype in (short, {"tf32": "fp32"}.get(short))


def _priced(found: Products) -> str:
    if found.known != "assumed":
        return f" Priced as {found.dtype}."
    return f" Priced by an assumed peak of {units.count(found.peak, 'FLOP/s')}: {found.why}."


def _told(use: Use, ops: list[Op], chip: Chip) -> str:
    says = SAYS.get(chip.platform.supports(use.dtype, use.use), "{chip} publishes no rate of {dtype} {what}")
    return f"{says.format(chip=chip.id, dtype=use.dtype, what=WHAT[use.use])} ({_shown(ops)})."


def _shown(ops: list[Op]) -> str:
    names = sorted({packet(op.name) for op in ops})
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
