"""Matrix products by dtype, shape and how the operands lie: forward (nt), data gradient (nn) and weight gradient (tn) of a
linear layer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle

import torch

from anychip.measure.device import DTYPES, MIB, Device
from anychip.measure.point import Call, Point

LAYOUTS = ("nn", "nt", "tn")
CUBES = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
# m, n, k: few rows through a layer, layers of a narrow and of a wide model, a vocabulary
OTHERS = (
    (1, 256, 256), (1, 1024, 1024), (1, 4096, 1024), (1, 1024, 4096), (1, 8192, 1024), (1, 4096, 4096),
    (8, 256, 256), (8, 1024, 1024), (8, 4096, 1024), (32, 1024, 1024), (64, 256, 256), (64, 1024, 4096),
    (256, 64, 64), (256, 1024, 64), (256, 64, 1024), (1024, 64, 64), (512, 512, 128), (512, 128, 512), (1024, 256, 256),
    (4096, 64, 64), (128, 4096, 128), (128, 128, 4096), (256, 8192, 256), (2048, 1024, 256), (4096, 1024, 1024), (1024, 8192, 1024),
    (8192, 4096, 1024), (4096, 16384, 4096), (16384, 4096, 4096),
)  # fmt: skip
QUICK_CUBES = (32, 64, 128, 256, 512, 1024, 4096)
QUICK_OTHERS = ((1, 256, 256), (1, 1024, 1024), (1, 4096, 1024), (1, 1024, 4096), (8, 1024, 1024), (64, 256, 256), (256, 64, 64), (256, 1024, 64),
                (256, 64, 1024), (1024, 64, 64), (512, 512, 128), (512, 128, 512), (128, 4096, 128), (128, 128, 4096), (1024, 256, 256), (4096, 1024, 1024))  # fmt: skip
SKINNY = 64  # of so few rows the weights are most of what moves, and a model's weights do not stay in a cache
COLD_BYTES = 96 * MIB  # so much is walked through before a weight is met again
MOST_COPIES = 256


def points(device: Device, quick: bool) -> Iterator[Point]:
    shapes = sorted({(n, n, n) for n in (QUICK_CUBES if quick else CUBES)} | set(QUICK_OTHERS if quick else OTHERS),
                    key=lambda shape: shape[0] * shape[1] * shape[2])  # fmt: skip
    for dtype in device.dtypes:
        yield Point("gemm.overhead", dtype, "", "us", _make(device, dtype, 8, 8, 8, "nt"), note="8x8x8")
        for m, n, k in shapes:
            for layout in LAYOUTS:
                yield Point("gemm", dtype, f"{m}x{n}x{k} {layout}", "TFLOP/s", _make(device, dtype, m, n, k, layout),
                            amount=2.0 * m * n * k)  # fmt: skip


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """fp32 products in full, tf32 ones shortened."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _make(device: Device, dtype: str, m: int, n: int, k: int, layout: str) -> Callable[[], Call]:
    def make() -> Call:
        kind = DTYPES[dtype]
        copies = max(min(COLD_BYTES // (n * k * kind.itemsize), MOST_COPIES), 1) if m <= SKINNY else 1

        def operand(rows: int, columns: int, letter: str) -> torch.Tensor:
            shape = (rows, columns) if letter == "n" else (columns, rows)
            made = torch.randn(shape, device=device.torch).to(kind)
            return made if letter == "n" else made.t()

        a = operand(m, k, layout[0])
        weights = cycle([operand(k, n, layout[1]) for _ in range(copies)])

        def call() -> torch.Tensor:
            with precision(dtype):
                return a @ next(weights)

        return call if dtype == "tf32" else lambda: a @ next(weights)

    return make
