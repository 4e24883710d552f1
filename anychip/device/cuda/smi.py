"""`nvidia-smi` for the program that is being recorded: found on its PATH, speaking of the virtual chip.

A script in the recording's own temporary folder runs this module, so shells, pipes and scripts find it as
well as Python does; it is gone with the recording. What it prints stands in a file beside it, written anew
whenever the program is about to start another one. Imports no torch, which the script would have to wait for.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

UUID = "GPU-00000000-0000-0000-0000-{index:012d}"
DRIVER, DRIVER_CUDA = "580.00", "13.0"  # the newest CUDA that the driver runs
UNITS = (" MiB", " %", " W")


def cuda_number(version: str) -> int:
    """A version of CUDA as its C functions write it: 12080 for 12.8."""
    major, minor = version.split(".")[:2]
    return int(major) * 1000 + int(minor) * 10


def facts(runtime: Any) -> dict[str, Any]:
    """What there is to be said of the chip now."""
    runtime.tensors.drain()
    return {
        "count": runtime.count, "name": runtime.ask("name"), "total_mib": runtime.ask("memory_bytes") >> 20,
        "used_mib": runtime.memory.reserved_bytes() >> 20, "power_w": runtime.ask("power_w"),
        "capability": ".".join(map(str, runtime.ask("capability"))),
    }  # fmt: skip


def row(known: dict[str, Any], index: int) -> dict[str, str]:
    """Each property of one device by the name that --query-gpu knows it by."""
    total, used, power = known["total_mib"], known["used_mib"], f"{known['power_w']:.2f} W"
    return {
        "index": str(index), "name": known["name"], "gpu_name": known["name"], "count": str(known["count"]),
        "memory.total": f"{total} MiB", "memory.used": f"{used} MiB", "memory.free": f"{total - used} MiB",
        "utilization.gpu": "100 %", "utilization.memory": "50 %", "temperature.gpu": "60", "power.draw": power,
        "power.limit": power, "driver_version": DRIVER, "uuid": UUID.format(index=index), "gpu_uuid": UUID.format(index=index),
        "compute_cap": known["capability"], "compute_mode": "Default", "pci.bus_id": f"00000000:{index + 1:02X}:00.0",
        "gpu_bus_id": f"00000000:{index + 1:02X}:00.0", "pstate": "P0",
    }  # fmt: skip


def text(known: dict[str, Any], arguments: list[str]) -> str:
    """What `nvidia-smi` prints for these arguments: --query-gpu as CSV, -L as a list, else a short table."""
    options = dict(one.split("=", 1) for one in arguments if "=" in one)
    rows = [row(known, index) for index in range(known["count"])]
    if "-i" in arguments or "--id" in options:
        chosen = options.get("--id") or arguments[arguments.index("-i") + 1]
        rows = [rows[int(one)] for one in chosen.split(",")]
    if "--query-gpu" in options:
        return _csv(rows, options["--query-gpu"].split(","), options.get("--format", "csv").split(","))
    if any(one.startswith("--query-") for one in arguments):
        return ""
    if "-L" in arguments or "--list-gpus" in arguments:
        return "".join(f"GPU {one['index']}: {one['name']} (UUID: {one['uuid']})\n" for one in rows)
    head = f"| NVIDIA-SMI {DRIVER}   Driver Version: {DRIVER}   CUDA Version: {DRIVER_CUDA}   (virtual chip) |\n"
    used = known["used_mib"], known["total_mib"]
    return head + "".join(
        f"| {one['index']}  {one['name']} | {used[0]}MiB / {used[1]}MiB | 100%  Default |\n" for one in rows
    )


def _csv(rows: list[dict[str, str]], names: list[str], style: list[str]) -> str:
    lines = [] if "noheader" in style else [", ".join(_head(name.strip(), rows) for name in names)]
    for one in rows:
        fields = [one.get(name.strip(), "[N/A]") for name in names]
        if "nounits" in style:
            fields = [field.rsplit(" ", 1)[0] if field.endswith(UNITS) else field for field in fields]
        lines.append(", ".join(fields))
    return "".join(f"{line}\n" for line in lines)


def _head(name: str, rows: list[dict[str, str]]) -> str:
    """The heading of a property: with its unit, also where the values go without."""
    value = rows[0].get(name, "") if rows else ""
    return f"{name} [{value.rsplit(' ', 1)[1]}]" if value.endswith(UNITS) else name


def install(runtime: Any, folder: Path) -> None:
    """Put `nvidia-smi` before everything else on the PATH of this process. folder: lives as long as the recording."""
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    state, script = place / "nvidia-smi.json", place / "nvidia-smi"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I "{__file__}" "{state}" "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    os.environ["PATH"] = f"{place}{os.pathsep}{os.environ.get('PATH', os.defpath)}"

    def fresh(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if os.getpid() == runtime.pid:
                state.write_text(json.dumps(facts(runtime)), encoding="utf-8")
            return function(*args, **kwargs)

        return call

    subprocess.Popen.__init__ = fresh(subprocess.Popen.__init__)  # type: ignore[method-assign]
    os.system = fresh(os.system)


if __name__ == "__main__":
    sys.stdout.write(text(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2:]))
