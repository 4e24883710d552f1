"""Dtypes that a program uses and a chip has not: what its platform says becomes of them there.

In: a program and a chip. Out: sentences for the user. The forecast itself prices such operations in the next dtype that
the chip has, so without these sentences a program that cannot run there would only look slow.
"""

from anychip.cost import work
from anychip.cost.work import packet
from anychip.record import Op, Program
from anychip.spec import Chip

BECOMES = {
    "error": "end in an error there",
    "fallback": "run on the host there, which is slower than this forecast says",
    "emulated": "are emulated there",
    "cast": "are computed in another dtype there",
}
# Products made for small integers, where torch.mm of these is refused: as good as the chip's own products of them.
INTEGER_PRODUCTS = ("aten._int_mm", "aten._weight_int8pack_mm", "aten._weight_int4pack_mm")
USES = {"matmul": "products", "elementwise": "elementwise operations", "storage": "tensors"}


def use_of(op: Op) -> str:
    """The row of a platform's dtype table that an op comes under."""
    task = work(op)
    if task.unit == "matrix":
        return "matmul"
    return "storage" if task.kind in ("copy", "view", "none") else "elementwise"


def unlike(program: Program, chip: Chip) -> list[str]:
    """One sentence for each dtype and use that the chip does not have natively, with an op that needs it.

    Emulation is only told of products: elsewhere it costs next to nothing.
    """
    found: dict[tuple[str, str, str], str] = {}
    for op in program.ops:
        if packet(op.name) in INTEGER_PRODUCTS and chip.peak_flop_per_s("int8", "matrix"):
            continue
        use = use_of(op)
        # A product's operands come first; what it keeps beside its result (row sums in float32) is no product.
        tensors = op.tensors[:2] if use == "matmul" else (*op.tensors, *op.outputs)
        for dtype in {tensor.dtype for tensor in tensors if tensor.on_chip}:
            answer = chip.platform.supports(dtype, use)
            if answer in BECOMES and (use == "matmul" or answer in ("error", "fallback")):
                found.setdefault((dtype, use, answer), op.name.removesuffix(".default"))
    return [
        f"{chip.id}: {dtype} {USES[use]} ({name}) {BECOMES[answer]}." for (dtype, use, answer), name in found.items()
    ]
