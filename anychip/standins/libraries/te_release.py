"""What releases of Transformer Engine differ in, of what takes time: Python around products, and kernels for scales.

Python was counted, not timed: calls of functions that the library's own modules make, run with a C++ part that does
nothing. For each layer and pass, and for each expert of a grouped layer:

    release           v2.8 16 bit    FP8    v2.12 16 bit    FP8
    forward                   256    340             112    185
    backward                   74    170              69    160
    forward, expert            33     76              25     49
    backward, expert           14     49              15     40

A Linear in 16 bit takes a Xeon 23 us more than torch's, and a Grace 62, each as long as six ops on no elements
(https://github.com/NVIDIA/TransformerEngine/issues/2053, August 2025): 43 calls an op. What experts take in 16 bit is in
what was measured of their products (`PRODUCT_OPS`).

Blackwell's products want the scales of MXFP8 in tiles. Until 2.11 a kernel lays out those of both operands before each
product (`swizzle_scaling_factors` in csrc/extensions/gemm.cpp); since 2.12 casts of activations and gradients write them so
(`optimize_for_gemm` in module/linear.py), and a weight's are laid out each time.
"""

import sys
from typing import NamedTuple

import torch


class Release(NamedTuple):
    """Ops on no elements that the host takes as long for as for the library's Python, forward and backward: of a layer, of
    one in FP8, of an expert in FP8 beyond 16 bit. lays_out_all: MXFP8 scales of both operands, not of weights alone."""

    layer: tuple[int, int]
    layer_fp8: tuple[int, int]
    expert_fp8: tuple[int, int]
    lays_out_all: bool


RELEASES = {
    (2, 12): Release((3, 2), (4, 4), (1, 1), lays_out_all=False),
    (0, 0): Release((6, 2), (8, 4), (1, 1), lays_out_all=True),
}
PRODUCT_OPS = 5  # that the library takes the host for each product of a loop, beyond the product (see `Joined`)


class _Used:
    """The version whose time programs are to take; None: the one that they are told."""

    version: str | None = None


def use(version: str) -> None:
    """Take the time of that release, whichever is told to programs."""
    _Used.version = version


def release() -> Release:
    version = _Used.version or str(getattr(sys.modules.get("transformer_engine"), "__version__", "0"))
    number = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
    return next(found for since, found in RELEASES.items() if number >= since)


def only_called(beside: torch.Tensor, calls: int) -> None:
    """Ops on no elements, which take the host what ops take it and launch nothing: a library's own code around its launches."""
    for _ in range(calls):
        beside.new_empty(0)


def called(out: torch.Tensor, calls: tuple[int, int]) -> torch.Tensor:
    """out as it is, after what a layer's own code takes the host; once more on the way back. calls: forward and backward."""
    only_called(out, calls[0])
    if out.requires_grad:
        out.register_hook(lambda grad: only_called(grad, calls[1]))
    return out
