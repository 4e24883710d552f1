"""The classes of `torch._C` that only a CUDA build has: streams, events, graphs, memory pools, device properties.

In: the runtime. Out: classes that torch's Python layer derives from or hands to programs, by their names there.
"""

from collections.abc import Callable
from typing import Any

import torch

from anychip.device.graphs import Captured
from anychip.device.runtime import Runtime

DEFAULT_STREAM_RANGE = (0, -5)  # least and greatest priority, as CUDA has them
CUDA_DEVICE = 1  # c10::DeviceType::CUDA


def classes(runtime: Runtime, current_device: Callable[[], int]) -> dict[str, Any]:
    """Name in `torch._C` -> class."""

    class CudaStreamBase(torch._C.Stream):
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("device_type") or kwargs.get("stream_id"):
                return super().__new__(
                    cls,
                    stream_id=kwargs["stream_id"],
                    device_index=kwargs.get("device_index", 0),
                    device_type=CUDA_DEVICE,
                )
            return super().__new__(
                cls, device=torch.device("cuda", current_device()), priority=kwargs.get("priority", 0)
            )

        @property
        def cuda_stream(self) -> int:
            return int(self.stream_id)

        @property
        def priority(self) -> int:
            return 0

        @staticmethod
        def priority_range() -> tuple[int, int]:
            return DEFAULT_STREAM_RANGE

    class CudaEventBase(torch._C.Event):
        def __new__(
            cls,
            enable_timing: bool = False,
            blocking: bool = False,
            interprocess: bool = False,
            external: bool = False,
        ) -> Any:
            return super().__new__(cls, torch.device("cuda"), enable_timing=enable_timing, blocking=blocking)

        @property
        def cuda_event(self) -> int:
            return int(self.event_id)

        def elapsed_time(self, end_event: Any) -> float:
            """Milliseconds; torch's own takes no subclass of its event for the end."""
            return runtime.elapsed_ms(self.event_id, end_event.event_id)

    class Graph(CudaGraph):
        pass

    Graph.runtime = runtime
    return {
        "_CudaStreamBase": CudaStreamBase, "_CudaEventBase": CudaEventBase, "_CudaDeviceProperties": DeviceProperties,
        "_CUDAGraph": Graph, "_MemPool": MemPool,
    }  # fmt: skip


class MemPool:
    """`torch._C._MemPool`: a pool of its own for what is allocated under `torch.cuda.use_mem_pool`. The allocator keeps
    one pool for everything, so memory is counted the same."""

    made = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        MemPool.made += 1
        self._id = (0, MemPool.made)
        self.allocator = args[0] if args else kwargs.get("allocator")

    @property
    def id(self) -> tuple[int, int]:
        return self._id

    def use_count(self) -> int:
        return 1


class DeviceProperties:
    """As `torch.cuda.get_device_properties` gives it. Each figure that is read is a question asked."""

    def __init__(self, runtime: Runtime) -> None:
        object.__setattr__(self, "_runtime", runtime)

    # What every CUDA-like chip of the last years says; the rest comes from the chip's file.
    FIXED = {
        "max_threads_per_block": 1024, "max_threads_per_multi_processor": 2048, "regs_per_multiprocessor": 65536,
        "shared_memory_per_block": 49152, "shared_memory_per_block_optin": 232448,
        "shared_memory_per_multiprocessor": 233472, "is_integrated": 0, "is_multi_gpu_board": 0,
        "clock_rate": 1_500_000, "memory_clock_rate": 1_500_000, "memory_bus_width": 5120, "pci_bus_id": 1,
        "pci_device_id": 0, "pci_domain_id": 0, "uuid": "00000000-0000-0000-0000-000000000000",
    }  # fmt: skip
    ASKED = {
        "name": "name", "total_memory": "memory_bytes", "multi_processor_count": "multi_processor_count",
        "warp_size": "warp_size", "L2_cache_size": "L2_bytes", "gcnArchName": "arch",
    }  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        ask = object.__getattribute__(self, "_runtime").ask
        if name in ("major", "minor"):
            return ask("capability")[name == "minor"]
        if name in self.ASKED:
            return ask(self.ASKED[name])
        if name in self.FIXED:
            return self.FIXED[name]
        raise AttributeError(f"'_CudaDeviceProperties' object has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*self.ASKED, *self.FIXED, "major", "minor"})

    def __repr__(self) -> str:
        return (
            f"_CudaDeviceProperties(name='{self.name}', major={self.major}, minor={self.minor}, "
            f"total_memory={self.total_memory // 2**20}MB, multi_processor_count={self.multi_processor_count})"
        )


class CudaGraph:
    """`torch._C._CUDAGraph`: what is captured is noted, and each replay puts it on the tape again, as one launch."""

    runtime: Runtime
    _has_graph_exec = True  # torch 2.14 asks before it replays; what was captured needs no second form here

    def __new__(cls, keep_graph: bool = False) -> "CudaGraph":
        return super().__new__(cls)

    def __init__(self, keep_graph: bool = False) -> None:
        self._captured = Captured([], 0, False)
        self._pool = (0, 0)

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global", *_: Any, **__: Any) -> None:
        self._pool = pool or (0, 1)
        self.runtime.graphs.begin()

    def capture_end(self) -> None:
        self._captured = self.runtime.graphs.end()

    # From torch 2.14 on a capture is ended in two calls, with hooks between them.
    def capture_end_pre(self) -> None:
        self._captured = self.runtime.graphs.end()

    def capture_end_post(self) -> None:
        pass

    def instantiate(self) -> None:
        pass

    def replay(self) -> None:
        self.runtime.graphs.replay(self._captured)

    def reset(self) -> None:
        self._captured = Captured([], 0, False)

    def pool(self) -> Any:
        return self._pool

    def pools(self) -> list[Any]:
        return [self._pool]

    def debug_dump(self, path: str) -> None:
        pass

    def enable_debug_mode(self) -> None:
        pass

    def register_generator_state(self, generator: Any) -> None:
        pass


class FftPlans:
    """`torch.backends.cuda.cufft_plan_cache.max_size`."""

    value = 4096

    def __get__(self, cache: Any, kind: Any = None) -> int:
        return self.value

    def __set__(self, cache: Any, value: int) -> None:
        self.value = value
