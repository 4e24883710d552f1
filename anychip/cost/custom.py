"""Kernels whose cost travels with the op: stand-ins for fused libraries, and kernels that the user described."""

from math import ceil

from anychip.cost.work import Gemm, Work, family, main_dtype, traffic
from anychip.record import Op


@family("custom.")
def custom(op: Op) -> Work:
    """FLOP as given (keyword ``flop``); bytes as given (``bytes``), else each tensor's once. FLOP of the matrix unit
    (``unit``) are priced as a cube of the same work, 2 * n**3, as only their number is known. An op that was given
    neither is counted by bytes alone and said so."""
    read, written = traffic(op)
    given, flop = op.kwarg("bytes"), op.kwarg("flop")
    if given is not None:
        written = min(written, given)
        read = given - written
    matrix = op.kwarg("unit") == "matrix" and bool(flop)
    side = max(ceil(((flop or 0) / 2) ** (1 / 3)), 1)
    return Work(
        flop=flop or 0, model_flop=flop or 0, bytes_read=read, bytes_written=written, kind="custom",
        dtype=main_dtype(op), unit="matrix" if matrix else "vector" if flop else "none",
        gemm=(Gemm(1, side, side, side),) if matrix else (), known=flop is not None or given is not None,
    )  # fmt: skip


@family("triton.", "extension.", "cupy.")
def launched(op: Op) -> Work:
    """Kernels of which only the tensors are known: ``bytes`` as their source loads and stores them, else each tensor's."""
    read, written = traffic(op)
    moved = op.kwarg("bytes", read + written)
    written = min(written, moved)
    return Work(bytes_read=moved - written, bytes_written=written, kind="custom", dtype=main_dtype(op), known=False)
