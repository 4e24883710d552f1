"""The device to be measured: is it here, what is it called, what software drives it, at which clocks."""

import os
import platform
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from anychip.errors import BadUse

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32}
MIB = 2**20


@dataclass(frozen=True)
class Device:
    """One torch device. index: which of its kind."""

    type: str
    index: int = 0

    @classmethod
    def find(cls, name: str) -> "Device":
        """By torch's name: cpu, cuda, cuda:1, npu. Raises BadUse where it is not here."""
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise BadUse(
                f"--device {name}: torch {torch.__version__} does not know it ({str(error).split(chr(10))[0]})"
            ) from error
        module = getattr(torch, device.type, None)
        here = device.type == "cpu" or (module is not None and module.is_available())
        if not here:
            raise BadUse(f"--device {name}: torch {torch.__version__} finds no such device here. Is its plug-in installed? "
                         "The CPU is always there: --device cpu.")  # fmt: skip
        return cls(device.type, device.index or 0)

    @property
    def is_cpu(self) -> bool:
        return self.type == "cpu"

    @cached_property
    def torch(self) -> torch.device:
        return torch.device("cpu") if self.is_cpu else torch.device(self.type, self.index)

    @cached_property
    def module(self) -> Any:
        return getattr(torch, self.type)

    def synchronize(self) -> None:
        if not self.is_cpu:
            self.module.synchronize()

    @property
    def count(self) -> int:
        return 1 if self.is_cpu else int(self.module.device_count())

    @cached_property
    def name(self) -> str:
        """What the device calls itself."""
        if not self.is_cpu:
            ask = getattr(self.module, "get_device_name", None)
            return str(ask(self.index)) if ask else self.type
        model = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
        return model[0] if model else platform.processor() or platform.machine()

    @cached_property
    def memory_bytes(self) -> int:
        if self.is_cpu:
            return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        ask = getattr(self.module, "get_device_properties", None)
        return int(getattr(ask(self.index), "total_memory", 0)) if ask else 0

    @cached_property
    def dtypes(self) -> tuple[str, ...]:
        """Those to be measured; a point of one that the device lacks says so."""
        return ("fp32", "bf16", "fp16", *(("tf32",) if self.type == "cuda" else ()))

    def set_up(self) -> None:
        """Make the device the current one, and memory as it is after a while in a program."""
        if not self.is_cpu:
            self.module.set_device(self.index)
            return
        # The C library keeps freed blocks up to the size of the largest that it has seen freed, at most 32 MiB.
        torch.zeros(32 * MIB - 8192, dtype=torch.uint8)

    def clocks(self) -> str:
        """What is known of the clock right now."""
        if self.is_cpu:
            mhz = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("cpu MHz")]
            return f"{mhz[0]} MHz by /proc/cpuinfo" if mhz else "unknown"
        try:
            return f"{self.module.clock_rate()} MHz"
        except Exception:  # each plug-in and each missing library fails in a way of its own
            return "unknown"

    def software(self) -> str:
        """Versions of all that stands between the program and the device."""
        found = [f"torch {torch.__version__}", f"Python {platform.python_version()}"]
        found += [
            f"{name} {version}" for name in ("cuda", "hip", "xpu") if (version := getattr(torch.version, name, None))
        ]
        if self.is_cpu:
            found += [torch.backends.cpu.get_cpu_capability(), f"{torch.get_num_threads()} threads"]
        return ", ".join(found)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
