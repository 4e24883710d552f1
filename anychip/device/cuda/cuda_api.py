"""torch's own CUDA C functions, in Python: what `torch.cuda` is written on.

On a machine without CUDA torch's Python layer (`torch.cuda`, AMP, dynamo, the vendors' libraries above it)
is all there; only the C functions beneath are missing. They are put in their place before `torch.cuda` is
imported, so that layer runs unchanged and nothing of it is patched but what asks NVIDIA's own libraries.
"""

import os
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from anychip.device.cuda import comm, profiler, smi
from anychip.device.cuda.cuda_types import CUDA_DEVICE, DeviceProperties, FftPlans, classes
from anychip.device.insides._torch_tensors import check_ordinal
from anychip.device.runtime import Runtime
from anychip.memory import TapeMemory


class CudaApi:
    """`functions()` and `types()` are what `torch._C` lacks; `modules()` what it would hold beside them."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.sync_debug_mode = 0
        self.memory_fraction = 1.0
        self.benchmark_limit = 10
        self.workspace = 32 * 1024 * 1024
        self.raw = dict[int, torch.Tensor]()

    def attributes(self) -> dict[str, Any]:
        """Name in `torch._C` -> function, class or constant."""
        functions = {
            name: getattr(self, name.removeprefix("_cuda_"))
            for name in (
                "_cuda_init", "_cuda_getDeviceCount", "_cuda_getDevice", "_cuda_setDevice", "_cuda_exchangeDevice",
                "_cuda_maybeExchangeDevice", "_cuda_hasPrimaryContext", "_cuda_isInBadFork",
                "_cuda_canDeviceAccessPeer", "_cuda_synchronize", "_cuda_sleep", "_cuda_setStream",
                "_cuda_getCurrentStream", "_cuda_getDefaultStream", "_cuda_getStreamFromExternal",
                "_cuda_getCurrentRawStream", "_cuda_isCurrentStreamCapturing", "_cuda_memoryStats",
                "_cuda_resetPeakMemoryStats", "_cuda_resetAccumulatedMemoryStats", "_cuda_emptyCache",
                "_cuda_memorySnapshot", "_cuda_hostMemoryStats", "_cuda_setMemoryFraction",
                "_cuda_getMemoryFraction", "_cuda_cudaCachingAllocator_raw_alloc", "_cuda_cudaCachingAllocator_raw_delete",
            )
        }  # fmt: skip
        return {**functions, **self.constants(), **self.types()}

    def constants(self) -> dict[str, Any]:
        """Functions of C that answer the same on every chip."""
        nothing = _nothing
        quiet = (
            "_cuda_ipc_collect", "_cuda_clearCublasWorkspaces", "_cuda_resetPeakHostMemoryStats", "_host_emptyCache",
            "_cuda_resetAccumulatedHostMemoryStats", "_cuda_cudaCachingAllocator_set_allocator_settings",
            "_cuda_record_memory_history", "_cuda_record_memory_history_legacy", "_cuda_attach_out_of_memory_observer",
            "_cuda_beginAllocateToPool", "_cuda_endAllocateToPool", "_cuda_releasePool", "_cuda_changeCurrentAllocator",
            "_cuda_beginAllocateCurrentThreadToPool", "_cuda_beginAllocateCurrentStreamToPool",
            "_cuda_cudaCachingAllocator_enable", "_cuda_setMemoryMetadata", "_cuda_resetCublasWorkspaceSize",
            "_cuda_resetCublasLtWorkspaceSize", "_cuda_tunableop_set_numerical_check_tolerances",
            "_cudnn_set_conv_benchmark_empty_cache",
        )  # fmt: skip
        return {
            **dict.fromkeys(quiet, nothing),
            "_cuda_getCompiledVersion": cuda_version,
            "_cuda_getArchFlags": lambda: self.runtime.ask("arch"),
            "_cuda_getAllocatorBackend": lambda: "native",
            "_cuda_cudaCachingAllocator_is_enabled": lambda: True,
            "_cuda_isHistoryEnabled": lambda: False,
            "_cuda_getCurrentBlasHandle": lambda: 1,
            "_cuda_getCurrentSolverHandle": lambda: 1,
            "_cuda_get_sync_debug_mode": lambda: self.sync_debug_mode,
            "_cuda_set_sync_debug_mode": lambda mode: setattr(self, "sync_debug_mode", mode),
            "_cuda_get_cudnn_benchmark_limit": lambda: self.benchmark_limit,
            "_cuda_set_cudnn_benchmark_limit": lambda limit: setattr(self, "benchmark_limit", limit),
            "_cuda_get_conv_benchmark_empty_cache": lambda: False,
            "_cuda_getCublasWorkspaceSize": lambda: self.workspace,
            "_cuda_setCublasWorkspaceSize": lambda size: setattr(self, "workspace", size),
            "_cuda_getCublasLtWorkspaceSize": lambda: self.workspace,
            "_cuda_setCublasLtWorkspaceSize": lambda size: setattr(self, "workspace", size),
            **_tunable_operators(),
            "_cuda_getMemoryMetadata": lambda: "",
            "_graph_pool_handle": self.graph_pool_handle,
            "_nccl_version": lambda: (2 << 32) | (28 << 16) | 9,
            "_nccl_version_suffix": lambda: b"",
            "_has_cuda": True,
            "_has_cudnn": True,
            "_has_magma": True,
            "has_cuda": True,
            "has_cudnn": True,
            "_is_flash_attention_available": lambda: True,
            "_nvtx": profiler.nvtx(),
            "_show_config": _config(torch._C._show_config()),
            "_nccl_init_rank": nothing,
            "_set_cached_tensors_enabled": nothing,
            "_add_cached_tensor": nothing,
            "_remove_cached_tensor": nothing,
            "_cuda_CUDAAllocator_AllocatorState": type("AllocatorState", (), {}),
            "_accelerator_isAllocatorInitialized": lambda: True,
            "_accelerator_emptyCache": self.emptyCache,
            "_accelerator_emptyHostCache": nothing,
            "_accelerator_getDeviceStats": self.memoryStats,
            "_accelerator_resetPeakStats": self.resetPeakMemoryStats,
            "_accelerator_resetAccumulatedStats": self.resetAccumulatedMemoryStats,
            "_accelerator_getMemoryInfo": lambda device: self.memory_info(device),
            **comm.FUNCTIONS,
        }

    # ------------------------------------------------------------ devices

    def init(self) -> None:
        """As CUDA's own: afterwards the properties and the default generators are there."""
        torch.cuda._get_device_properties = self.device_properties  # type: ignore[attr-defined]
        torch.cuda.default_generators = tuple(  # type: ignore[attr-defined,assignment]
            self.runtime.generator(index) for index in range(self.runtime.count)
        )

    def getDeviceCount(self) -> int:
        return self.runtime.count

    def getDevice(self) -> int:
        return int(self.runtime.native.device[0] >> 8)

    def setDevice(self, index: int) -> None:
        check_ordinal(index, self.runtime.count)
        torch.cuda._lazy_init()
        self.runtime.set_device(index)

    def exchangeDevice(self, index: int) -> int:
        old = self.getDevice()
        if index >= 0:
            self.setDevice(index)
        return old

    maybeExchangeDevice = exchangeDevice

    def hasPrimaryContext(self, index: int) -> bool:
        return True

    def isInBadFork(self) -> bool:
        return os.getpid() != self.runtime.pid

    def canDeviceAccessPeer(self, device: int, peer: int) -> bool:
        return device != peer

    def device_properties(self, device: Any = None) -> "DeviceProperties":
        index = device if isinstance(device, int) else self.getDevice()
        if not 0 <= index < self.runtime.count:
            raise AssertionError("Invalid device id")
        return DeviceProperties(self.runtime)

    # ------------------------------------------------------------ streams

    def synchronize(self) -> None:
        self.runtime.driver.synchronize()

    def sleep(self, cycles: int) -> None:
        """Cycles of a spinning kernel, at 1 GHz: enough to order streams by."""
        self.runtime.note_sleep(cycles)

    def setStream(self, stream_id: int, device_index: int, device_type: int) -> None:
        self.setDevice(device_index)
        self.runtime.set_stream(stream_id)

    def getCurrentStream(self, device_index: int) -> tuple[int, int, int]:
        return int(self.runtime.native.stream[0]), max(device_index, 0), CUDA_DEVICE

    def getDefaultStream(self, device_index: int) -> tuple[int, int, int]:
        return 0, max(device_index, 0), CUDA_DEVICE

    def getStreamFromExternal(self, pointer: int, device_index: int) -> tuple[int, int, int]:
        return pointer, max(device_index, 0), CUDA_DEVICE

    def getCurrentRawStream(self, device_index: int) -> int:
        return int(self.runtime.native.stream[0])

    def isCurrentStreamCapturing(self) -> bool:
        return self.runtime.graphs.capturing

    def graph_pool_handle(self) -> tuple[int, int]:
        self.runtime.pools += 1
        return 0, self.runtime.pools

    # ------------------------------------------------------------ memory

    def memory(self) -> TapeMemory:
        """The allocator, after it has heard of every tensor that is gone."""
        self.runtime.tensors.drain()
        return self.runtime.memory

    def memoryStats(self, device: int) -> dict[str, Any]:
        return self.memory().stats()

    def resetPeakMemoryStats(self, device: int) -> None:
        self.memory().reset_peak()

    def resetAccumulatedMemoryStats(self, device: int) -> None:
        self.memory().reset_accumulated()

    def emptyCache(self, *_: Any) -> None:
        self.memory().empty_cache()

    def cudaCachingAllocator_raw_alloc(self, size: int, stream: int) -> int:
        block = torch.empty(size, dtype=torch.uint8, device="cuda")
        self.raw[block.data_ptr()] = block
        return block.data_ptr()

    def cudaCachingAllocator_raw_delete(self, address: int) -> None:
        del self.raw[address]

    def memorySnapshot(self, *_: Any) -> dict[str, Any]:
        return self.memory().snapshot()

    def hostMemoryStats(self) -> dict[str, Any]:
        return {}

    def setMemoryFraction(self, fraction: float, device: int) -> None:
        self.memory_fraction = fraction
        self.runtime.limit_memory(fraction)

    def getMemoryFraction(self, device: int) -> float:
        return self.memory_fraction

    # ------------------------------------------------------------ classes and modules

    def types(self) -> dict[str, Any]:
        return {
            **classes(self.runtime, self.getDevice),
            "_cudart": self.cudart(),
            "_cudnn": SimpleNamespace(
                is_cuda=True,
                getRuntimeVersion=lambda: (9, 10, 2),
                getVersionInt=lambda: 91002,
                getCompileVersion=lambda: (9, 10, 2),
                RNNMode=SimpleNamespace(rnn_relu=0, rnn_tanh=1, lstm=2, gru=3),
            ),
        }

    def memory_info(self, device: int = 0) -> tuple[int, int]:
        """Bytes free and in all, as the driver sees them: what the caching allocator holds is not free."""
        total = self.runtime.ask("memory_bytes")
        return max(total - self.memory().reserved_bytes(), 0), total

    def cudart(self) -> ModuleType:
        """The part of the CUDA runtime that torch exposes to Python."""
        module = ModuleType("torch._C._cudart")

        class CudaError(int):
            success = 0

        succeed = ("cudaProfilerStart", "cudaProfilerStop", "cudaHostRegister", "cudaHostUnregister", "cudaStreamCreate",
                   "cudaStreamDestroy")  # fmt: skip
        for name in succeed:
            setattr(module, name, lambda *_: 0)
        module.cudaError = CudaError  # type: ignore[attr-defined]
        module.cudaGetErrorString = lambda code: f"error {int(code)}"  # type: ignore[attr-defined]
        module.cudaMemGetInfo = self.memory_info  # type: ignore[attr-defined]
        module.cudaRuntimeGetVersion = cuda_version  # type: ignore[attr-defined]
        return module


def cuda_version() -> int:
    return smi.cuda_number(str(torch.version.cuda))


def _config(text: str) -> Callable[[], str]:
    """What `torch.__config__.show()` says, which with CUDA asks its library."""
    return lambda: text + f"  - CUDA Runtime {torch.version.cuda} (virtual chip)\n"


def _tunable_operators() -> dict[str, Callable[..., Any]]:
    """`torch.cuda.tunable`: its settings are kept, and nothing is tuned."""
    kept: dict[str, Any] = {
        "max_tuning_duration": 30, "max_tuning_iterations": 100, "rotating_buffer_size": 0, "cublaslt_requested_algo_count": -1,
        "filename": "tunableop_results0.csv", "results": (), "validators": (),
        "tunableop": False, "tunableop_tuning": True, "record_untuned": False,
    }  # fmt: skip

    def get(name: str) -> Callable[[], Any]:
        return lambda: kept[name]

    def set_(name: str) -> Callable[..., None]:
        return lambda value, *_: kept.update({name: value})

    found: dict[str, Callable[..., Any]] = {"_cuda_tunableop_read_file": lambda _: False}
    for name, value in kept.items():
        if isinstance(value, bool):
            found[f"_cuda_{name}_enable"], found[f"_cuda_{name}_is_enabled"] = set_(name), get(name)
        else:
            found[f"_cuda_tunableop_set_{name}"], found[f"_cuda_tunableop_get_{name}"] = set_(name), get(name)
    return found


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    return None


def await_first_use(runtime: Runtime) -> None:
    """`torch.cuda.is_initialized()` is false until the program has chosen a chip or put something on it: a DeviceMesh that
    finds it so chooses the chip of this rank. Called last, after what is done here at the start."""
    cuda: Any = torch.cuda
    made = len(runtime.recorder.block_bytes)

    def is_initialized() -> bool:
        return cuda._initialized or len(runtime.recorder.block_bytes) > made

    cuda._initialized = False
    for module in (cuda, cuda.memory, cuda.random):  # which have imported it by its name
        module.is_initialized = is_initialized


def patch_torch_cuda(runtime: Runtime) -> None:
    """The few functions of `torch.cuda` that ask NVIDIA's own libraries instead of torch's C functions."""
    cuda = torch.cuda
    cuda._queued_calls.clear()  # checks of the build against the chip, which is another vendor's as often as not
    replaced: dict[str, Any] = {
        "device_count": lambda: runtime.count,
        "is_bf16_supported": lambda including_emulation=True: runtime.ask("supports.bfloat16.matmul"),
        "is_tf32_supported": lambda: runtime.ask("tf32"),
        "utilization": lambda device=None: 100,
        "memory_usage": lambda device=None: 50,
        "temperature": lambda device=None: 60,
        "power_draw": lambda device=None: int(runtime.ask("power_w") * 1000),
        "clock_rate": lambda device=None: 1500,
        "device_memory_used": lambda device=None: runtime.memory.reserved_bytes(),
        "list_gpu_processes": lambda device=None: f"GPU:{device or 0}\nno processes are running",
    }
    for name, function in replaced.items():
        function.__name__ = name
        setattr(cuda, name, function)
    # Nothing waits for CUDA to be initialized: it is, before the program begins (`await_first_use`).
    cuda._lazy_call = cuda.random._lazy_call = lambda callable, **_: callable()  # type: ignore[attr-defined]
    plans = torch.backends.cuda.cuFFTPlanCache  # no plans are made, so any number of them fits
    plans.size, plans.max_size, plans.clear = 0, FftPlans(), _nothing  # type: ignore[assignment,method-assign]
