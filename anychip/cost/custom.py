"""Kernels whose cost travels with the op: stand-ins for fused libraries, and kernels that the user described."""

import re
from math import ceil

from anychip.cost.work import Gemm, Work, cast_share, family, main_dtype, matrix_dtype, traffic
from anychip.record import Op

BACKWARD = re.compile(r"(^|[._])(bwd|backward)([._]|$)")  # in the name of a kernel


@family("custom.")
def custom(op: Op) -> Work:
    """FLOP as given (keyword ``flop``); bytes as given (``bytes``), else each tensor's once. FLOP of the matrix unit
    (``unit``) are priced as a cube of the same work, 2 * n**3, as only their number is known, unless ``products`` tells
    their shapes (batch, m, n, k); beside those, FLOP of the vector unit take no time. Kernels of a backward, which are named
    so, multiply slower. An op that was given neither FLOP nor bytes is counted by bytes alone and said so."""
    read, written = traffic(op)
    given, flop = op.kwarg("bytes"), op.kwarg("flop")
    if given is not None:
        written = min(written, given)
        read = given - written
    products = tuple(Gemm(*shape) for shape in op.kwarg("products", ()))
    done = (flop or 0) + sum(product.flop for product in products)
    dtype = matrix_dtype(op, allow_tf32=True) if products else main_dtype(op)
    if op.kwarg("unit") == "matrix" and flop:
        side = max(ceil((flop / 2) ** (1 / 3)), 1)
        products = (Gemm(1, side, side, side),)
    return Work(
        flop=done, model_flop=done, bytes_read=read, bytes_written=written, kind="custom", dtype=dtype, gemm=products,
        unit="matrix" if products else "vector" if done else "none", known=flop is not None or given is not None,
        product_share="gemm.custom.backward" if BACKWARD.search(op.name) else "gemm.custom",
        memory_share=cast_share(op),
    )  # fmt: skip


# A program's own, by how it brings them, and what they are written in.
LANGUAGES = {"triton.": "Triton", "extension.": "CUDA C++", "cupy.": "CUDA C++", "cuda.": "CUDA C++"}
OWN_KERNELS = tuple(LANGUAGES)


def language_of(op: Op) -> str | None:
    """What a kernel of the program's own is written in, whether or not it was given a cost; None of all else."""
    name = op.name.removeprefix("custom.")
    return next((language for prefix, language in LANGUAGES.items() if name.startswith(prefix)), None)


@family(*OWN_KERNELS)
def launched(op: Op) -> Work:
    """Kernels of which only the tensors are known: ``bytes`` as their source loads and stores them, else each tensor's. ``products``
    (batch, m, n, k) that their source leaves to torch's library are priced as that."""
    read, written = traffic(op)
    moved = op.kwarg("bytes", read + written)
    written = min(written, moved)
    products = tuple(Gemm(*shape) for shape in op.kwarg("products", ()))
    done = sum(product.flop for product in products)
    return Work(
        flop=done, model_flop=done, bytes_read=moved - written, bytes_written=written, kind="custom", gemm=products,
        dtype=matrix_dtype(op, allow_tf32=True) if products else main_dtype(op), unit="matrix" if products else "none",
        known=bool(products),
    )  # fmt: skip
