"""`pynvml`, the Python face of NVIDIA's management library, answering for the virtual chip.

Where the package is not installed a module of ours stands in; where it is, its functions answer through ours,
because the library below them would speak of a real GPU or of none. A name that is neither here nor in the
package is an AttributeError, as ever.
"""

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

from anychip.device.cuda import smi

VERSION = "12.0.0+anychip"
CONSTANTS = {
    "NVML_SUCCESS": 0, "NVML_ERROR_INVALID_ARGUMENT": 2, "NVML_ERROR_NOT_SUPPORTED": 3, "NVML_ERROR_NOT_FOUND": 6,
    "NVML_TEMPERATURE_GPU": 0, "NVML_CLOCK_GRAPHICS": 0, "NVML_CLOCK_SM": 1, "NVML_CLOCK_MEM": 2,
    "NVML_PCIE_UTIL_TX_BYTES": 0, "NVML_PCIE_UTIL_RX_BYTES": 1, "NVML_FEATURE_ENABLED": 1, "NVML_FEATURE_DISABLED": 0,
    "NVML_P2P_CAPS_INDEX_NVLINK": 2, "NVML_P2P_STATUS_OK": 0,
}  # fmt: skip
CUDA = smi.cuda_number(smi.DRIVER_CUDA)
ERRORS = ("NotSupported", "NotFound", "DriverNotLoaded", "LibraryNotFound", "Uninitialized")


class NVMLError(Exception):
    """`value` is NVML's error number."""

    def __init__(self, value: int = 3) -> None:
        super().__init__({2: "Invalid Argument", 3: "Not Supported"}.get(value, f"NVML error {value}"))
        self.value = value


def functions(runtime: Any, error: type[Exception]) -> dict[str, Callable[..., Any]]:
    """Name in pynvml -> function. A device handle is the device's number in a namespace."""

    def handle(index: int) -> SimpleNamespace:
        if not 0 <= int(index) < runtime.count:
            raise error(2)
        return SimpleNamespace(index=int(index))

    def memory(_: Any = None, version: Any = None) -> SimpleNamespace:
        total, used = runtime.ask("memory_bytes"), runtime.memory.reserved_bytes()
        return SimpleNamespace(total=total, used=used, free=total - used, reserved=0)

    def constant(value: Any) -> Callable[..., Any]:
        return lambda *_: value

    milliwatts = int(runtime.chip.power_w or 0) * 1000
    return {
        "nvmlInit": constant(None), "nvmlInitWithFlags": constant(None), "nvmlShutdown": constant(None),
        "nvmlDeviceGetCount": lambda: runtime.count, "nvmlDeviceGetHandleByIndex": handle,
        "nvmlDeviceGetHandleByUUID": lambda uuid: handle(int(str(uuid)[-12:])),
        "nvmlDeviceGetHandleByPciBusId": lambda _: handle(0), "nvmlDeviceGetIndex": lambda device: device.index,
        "nvmlDeviceGetName": lambda _: runtime.ask("name"), "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetUUID": lambda device: smi.UUID.format(index=device.index),
        "nvmlDeviceGetCudaComputeCapability": lambda _: tuple(runtime.ask("capability")),
        "nvmlDeviceGetUtilizationRates": constant(SimpleNamespace(gpu=100, memory=50)),
        "nvmlDeviceGetPowerUsage": constant(milliwatts), "nvmlDeviceGetEnforcedPowerLimit": constant(milliwatts),
        "nvmlDeviceGetPowerManagementLimit": constant(milliwatts), "nvmlDeviceGetTemperature": constant(60),
        "nvmlDeviceGetTotalEnergyConsumption": lambda _: int(milliwatts * runtime.clock.now_s()),
        "nvmlDeviceGetClockInfo": constant(1500), "nvmlDeviceGetMaxClockInfo": constant(1500),
        "nvmlDeviceGetFanSpeed": constant(0), "nvmlDeviceGetComputeRunningProcesses": constant([]),
        "nvmlDeviceGetGraphicsRunningProcesses": constant([]), "nvmlDeviceGetPcieThroughput": constant(0),
        "nvmlDeviceGetMultiProcessorCount": lambda _: runtime.ask("multi_processor_count"),
        "nvmlDeviceGetNumGpuCores": lambda _: runtime.ask("multi_processor_count") * 128,
        "nvmlDeviceGetP2PStatus": constant(0), "nvmlDeviceGetMinorNumber": lambda device: device.index,
        "nvmlSystemGetDriverVersion": constant(smi.DRIVER), "nvmlSystemGetNVMLVersion": constant(f"{CUDA // 1000}.{smi.DRIVER}"),
        "nvmlSystemGetCudaDriverVersion": constant(CUDA), "nvmlSystemGetCudaDriverVersion_v2": constant(CUDA),
        "nvmlDeviceSetCpuAffinity": constant(None), "nvmlDeviceGetCpuAffinity": lambda _, words: [~0 % 2**64] * words,
    }  # fmt: skip


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Serves `pynvml`: in front of the installed package, through which it then looks, or alone."""

    def __init__(self, runtime: Any) -> None:
        self.runtime = runtime

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if fullname != "pynvml":
            return None
        real = importlib.machinery.PathFinder.find_spec(fullname, path)
        if real is None or real.loader is None:
            return importlib.machinery.ModuleSpec(fullname, self)
        real.loader = _Answering(real.loader, self.runtime)
        return real

    def create_module(self, spec: Any) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        named = {f"NVMLError_{name}": type(f"NVMLError_{name}", (NVMLError,), {}) for name in ERRORS}
        module.__dict__.update(CONSTANTS, NVMLError=NVMLError, __version__=VERSION, **named)
        module.__dict__.update(functions(self.runtime, NVMLError))


class _Answering(importlib.abc.Loader):
    """Loads the installed package and then lets our functions answer."""

    def __init__(self, loader: Any, runtime: Any) -> None:
        self.loader, self.runtime = loader, runtime

    def create_module(self, spec: Any) -> ModuleType | None:
        module: ModuleType | None = self.loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        answer(module, self.runtime)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def answer(module: ModuleType, runtime: Any) -> None:
    """Put our functions in the place of the package's, of those that it has."""
    ours = functions(runtime, module.__dict__.get("NVMLError", NVMLError))
    module.__dict__.update({name: one for name, one in ours.items() if name in module.__dict__})


def install(runtime: Any) -> None:
    sys.meta_path.insert(0, Finder(runtime))
    if "pynvml" in sys.modules:  # torch.cuda imports it where it is installed
        answer(sys.modules["pynvml"], runtime)
    if hasattr(os, "sched_setaffinity"):  # to CPUs that lie near a chip, of a host that is not this one
        os.sched_setaffinity = lambda pid, mask: None
