"""Fused attention, forward and backward, by head size, mask and length; one query against a cache as well."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from anychip.measure.device import DTYPES, Device
from anychip.measure.point import Call, Point

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
QUICK_LENGTHS = (64, 128, 256, 512, 1024, 4096)
HEAD_DIMS = (64, 128)
CACHE = 512  # keys that a single query meets


def points(device: Device, quick: bool) -> Iterator[Point]:
    batch, heads = (1, 8) if device.is_cpu else (4, 16)
    for dtype in ("bf16", "fp32"):
        for dim in HEAD_DIMS[: 1 if quick and device.is_cpu else 2]:
            for backward in (False, True):
                op = f"attention.{'backward' if backward else 'forward'}"
                for causal in (True, False):
                    ends = ((1, CACHE),) if not causal and not backward else ()
                    for queries, keys in (*ends, *((s, s) for s in (QUICK_LENGTHS if quick else LENGTHS))):
                        # Two products forward, five backward (scores are made again); a causal mask leaves half of them.
                        flop = (10 if backward else 4) * batch * heads * queries * keys * dim * (0.5 if causal else 1.0)
                        name = f"flash d{dim} {'causal' if causal else 'full'} s{queries}"
                        make = _make(device, dtype, (batch, heads, dim), (queries, keys), causal, backward)
                        yield Point(op, dtype, name, "TFLOP/s", make, amount=flop)


def _make(device: Device, dtype: str, sizes: tuple[int, int, int], lengths: tuple[int, int], causal: bool,
          backward: bool) -> Callable[[], Call]:  # fmt: skip
    def make() -> Call:
        batch, heads, dim = sizes

        def tensor(length: int) -> torch.Tensor:
            made = torch.randn(batch, heads, length, dim, device=device.torch).to(DTYPES[dtype])
            return made.requires_grad_(backward)

        q, k, v = tensor(lengths[0]), tensor(lengths[1]), tensor(lengths[1])
        if not backward:
            return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        grad = torch.randn_like(out)
        return lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True)

    return make
