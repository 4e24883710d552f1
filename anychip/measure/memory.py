"""Copies by size on the device, between host and device, between devices; on the CPU, the first write to new memory."""

from collections.abc import Callable, Iterator

import torch

from anychip.measure.device import MIB, Device
from anychip.measure.point import Call, Point

SIZES = (2**14, 2**16, 2**18, 2**20, 2**21, 2**22, 2**23, 2**24, 2**25)  # bytes read and written of a copy on the CPU
LARGE_SIZES = (2**16, 2**20, 2**22, 2**24, 2**26, 2**28, 2**30)
LINK_BYTES = 256 * MIB
PAGES_BYTES = 64 * MIB
WARM_UP = 20  # until the heap has grown as far as it will
PROBES = (1, 2, 4, 8, 16, 24, 32, 48)  # MiB


def points(device: Device, quick: bool) -> Iterator[Point]:
    sizes = SIZES if device.is_cpu else LARGE_SIZES
    for size in sizes[:: 2 if quick else 1]:
        yield Point("memory.copy", "", str(size), "GB/s", _copy(device.torch, device.torch, size // 2), amount=float(size),
                    floor="kernel.floor")  # fmt: skip
    if device.is_cpu:
        yield Point("page.written", "", "", "us", _write(PAGES_BYTES, fresh=False), note=f"{PAGES_BYTES} bytes")
        yield Point("page.rate", "", "", "GB/s", _write(PAGES_BYTES, fresh=True), amount=float(PAGES_BYTES),
                    floor="page.written", note=f"{PAGES_BYTES} bytes that are new to the process")  # fmt: skip
        return
    host = torch.device("cpu")
    for op, source, target in (("host_link.rate", host, device.torch), ("host_link.read", device.torch, host)):
        yield Point(op, "", "", "GB/s", _copy(source, target, LINK_BYTES, pinned=True), amount=float(LINK_BYTES),
                    note="pinned memory")  # fmt: skip
    if device.count > 1:
        other = torch.device(device.type, (device.index + 1) % device.count)
        yield Point("peer.copy", "", "", "GB/s", _copy(device.torch, other, LINK_BYTES), amount=float(LINK_BYTES),
                    note="one way, between two devices")  # fmt: skip


def _copy(source: torch.device, target: torch.device, nbytes: int, pinned: bool = False) -> Callable[[], Call]:
    def make() -> Call:
        def tensor(place: torch.device) -> torch.Tensor:
            made = torch.ones(nbytes, dtype=torch.uint8, device=place)
            return made.pin_memory() if pinned and place.type == "cpu" else made

        x, y = tensor(source), tensor(target)
        return lambda: y.copy_(x, non_blocking=True)

    return make


def _write(nbytes: int, fresh: bool) -> Callable[[], Call]:
    def make() -> Call:
        if fresh:
            return lambda: torch.empty(nbytes, dtype=torch.uint8).fill_(1)
        kept = torch.ones(nbytes, dtype=torch.uint8)
        return lambda: kept.fill_(1)

    return make


def kept_bytes(once: Callable[[Call], float], page_rate: float) -> int:
    """The size from which on freed blocks go back to the system: the first whose write, each time to a block that was just
    allocated, takes longer by half of what new pages take at `page_rate` bytes/s. once: seconds that a call takes."""
    for size in (probe * MIB for probe in PROBES):
        warm, new = _write(size, fresh=False)(), _write(size, fresh=True)()
        for _ in range(WARM_UP):
            new()
        if min(once(new) for _ in range(5)) - min(once(warm) for _ in range(5)) > 0.5 * size / page_rate:
            return size
    return PROBES[-1] * MIB
