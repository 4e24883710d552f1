"""What PyTorch's caching allocator counts of itself, in the form in which `torch.cuda.memory_stats` reads it.

In: what was added to and taken from each statistic. Out: current value, peak, and the sums of both, for all memory and
for each of the two pools; event counts; the sizes of torch's messages. Source: c10/core/CachingDeviceAllocator.h, 2.13.
"""

from collections.abc import Iterable, Sequence
from typing import Any

POOLS = ("all", "small_pool", "large_pool")
COUNTED = (
    "allocation", "segment", "active", "inactive_split", "allocated_bytes", "reserved_bytes", "active_bytes",
    "inactive_split_bytes", "requested_bytes",
)  # fmt: skip
EVENTS = (
    "num_alloc_retries", "num_ooms", "num_sync_all_streams", "num_device_alloc", "num_device_free", "num_oom_rejections",
)  # fmt: skip


class Counter:
    """One statistic: current, peak, and what was ever added and taken away."""

    __slots__ = ("allocated", "current", "freed", "peak")

    def __init__(self) -> None:
        self.current = self.peak = self.allocated = self.freed = 0

    def as_dict(self) -> dict[str, int]:
        return {"current": self.current, "peak": self.peak, "allocated": self.allocated, "freed": self.freed}


class Statistics:
    """Every counter of an allocator. Events are counted in `events` by who sees them.

    counted: the statistics that anybody will ask for; the others stay 0, which is half the time of a long replay.
    """

    def __init__(self, counted: Sequence[str] = COUNTED) -> None:
        self.counters = {name: {pool: Counter() for pool in POOLS} for name in COUNTED}
        self.events = dict.fromkeys(EVENTS, 0)
        # By name and by whether the pool is the small one: the two counters that an amount goes to.
        self._pairs = {
            name: ((pools["all"], pools["large_pool"]), (pools["all"], pools["small_pool"]))
            for name, pools in self.counters.items()
            if name in counted
        }

    def current(self, name: str) -> int:
        return self.counters[name]["all"].current

    def peak(self, name: str) -> int:
        return self.counters[name]["all"].peak

    def count(self, small: bool, amounts: Iterable[tuple[str, int]]) -> None:
        """Add to each statistic, negative amounts too. Called several times for every tensor: no call inside."""
        pairs = self._pairs
        for name, amount in amounts:
            if name not in pairs:
                continue
            for counter in pairs[name][small]:
                now = counter.current + amount
                counter.current = now
                if amount <= 0:
                    counter.freed -= amount
                else:
                    counter.allocated += amount
                    if now > counter.peak:
                        counter.peak = now

    def as_dict(self) -> dict[str, Any]:
        """Nested by statistic, pool and metric, with the event counts beside them."""
        counted = {name: {pool: one.as_dict() for pool, one in pools.items()} for name, pools in self.counters.items()}
        return {**counted, **self.events}

    def reset_peak(self) -> None:
        for pools in self.counters.values():
            for counter in pools.values():
                counter.peak = counter.current

    def reset_accumulated(self) -> None:
        for pools in self.counters.values():
            for counter in pools.values():
                counter.allocated = counter.freed = 0
        self.events = dict.fromkeys(self.events, 0)


def size_text(nbytes: int) -> str:
    """As torch writes sizes in its messages."""
    for limit, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if nbytes >= limit:
            return f"{nbytes / limit:.2f} {unit}"
    return f"{nbytes} bytes"


def out_of_memory_text(nbytes: int, capacity: int, allocated: int, reserved: int) -> str:
    """torch's own words when there is no room for `nbytes`."""
    return (
        f"CUDA out of memory. Tried to allocate {size_text(nbytes)}. GPU 0 has a total capacity of "
        f"{size_text(capacity)} of which {size_text(max(capacity - reserved, 0))} is free. "
        f"Including non-PyTorch memory, this process has {size_text(reserved)} memory in use. Of the allocated "
        f"memory {size_text(allocated)} is allocated by PyTorch, and {size_text(reserved - allocated)} is reserved "
        "by PyTorch but unallocated. If reserved but unallocated memory is large try setting "
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation for Memory "
        "Management  (https://docs.pytorch.org/docs/stable/notes/cuda.html"
        "#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)"
    )
