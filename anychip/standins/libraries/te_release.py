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

Blackwell's products want the scales of MXFP8 in tiles. Until 2.11 a kernel for each operand lays them out before each product
(`swizzle_scaling_factors` in csrc/extensions/gemm.cpp), since 2.7 one for an operand of up to 64 experts; since 2.12 casts of
activations and gradients write them so, but those of what is gathered over the tensor group (`optimize_for_gemm` in
module/linear.py), and a weight's are laid out each time.
"""

import re
import sys
from functools import cache
from typing import NamedTuple

import torch

from anychip.standins import recording
from anychip.standins.recording import layout

BLOCK = 32  # elements to a scale of MXFP8


class Release(NamedTuple):
    """Ops on no elements that the host takes as long for as for the library's Python, forward and backward: of a layer, of
    one in FP8, of an expert in FP8 beyond 16 bit. casts_lay_out: MXFP8's scales of activations and gradients. at_once:
    experts whose scales one kernel lays out."""

    layer: tuple[int, int]
    layer_fp8: tuple[int, int]
    expert_fp8: tuple[int, int]
    casts_lay_out: bool
    at_once: int


RELEASES = {
    (2, 12): Release((3, 2), (4, 4), (1, 1), casts_lay_out=True, at_once=64),
    (2, 7): Release((6, 2), (8, 4), (1, 1), casts_lay_out=False, at_once=64),
    (0, 0): Release((6, 2), (8, 4), (1, 1), casts_lay_out=False, at_once=1),
}
PRODUCT_OPS = 5  # that the library takes the host for each product of a loop, beyond the product (see `Joined`)


class _Used:
    """The version whose time programs are to take; None: the one that they are told."""

    version: str | None = None


def use(version: str) -> None:
    """Take the time of that release, whichever is told to programs."""
    _Used.version = version


def release() -> Release:
    """Whose time products take just now."""
    return _release_of(_Used.version or str(getattr(sys.modules.get("transformer_engine"), "__version__", "")))


@cache
def _release_of(version: str) -> Release:
    """Of a version that is none (a build from source may say "0+unknown"): the oldest."""
    found = re.match(r"v?(\d+)(?:\.(\d+))?", version)
    number = (int(found[1]), int(found[2] or 0)) if found else (0, 0)
    return next(one for since, one in RELEASES.items() if number >= since)


def only_called(beside: torch.Tensor, calls: int) -> None:
    """Ops on no elements, which take the host what ops take it and launch nothing: a library's own code around its launches."""
    for _ in range(calls):
        beside.new_empty(0)


def called(out: torch.Tensor, calls: tuple[int, int]) -> torch.Tensor:
    """out as it is, after what a layer's own code takes the host; once more on the way back. calls: forward and backward."""

    def before(grads: tuple[torch.Tensor, ...]) -> None:
        if grads[0] is not None:
            only_called(grads[0], calls[1])

    only_called(out, calls[0])
    if out.grad_fn is not None:
        out.grad_fn.register_prehook(before)
    return out


def lay_out(beside: torch.Tensor, elements: int, kernels: int = 1) -> None:
    """Kernels that lay out MXFP8's scales of so many elements for a product that comes next, on the chip of `beside`."""
    size = elements // BLOCK // kernels
    for _ in range(kernels if size else 0):
        made = layout(torch.empty(size, dtype=torch.uint8, device="meta"))
        told = (("bytes", 2 * size), ("flop", 0))
        recording.launch("custom.transformer_engine.swizzle_scales", (beside.detach()[:0],), [made], (), told)
