"""`nvidia-smi` for the program that is being recorded: found on its PATH, speaking of the virtual chip.

A script in the recording's own temporary folder runs this module, so shells, pipes and scripts find it as
well as Python does; it is gone with the recording. What it prints stands in a file beside it, written anew
whenever the program is about to start another one. Only where the script runs has the program asked: it notes which
start that was, as most programs start others (git, a terminal's size) that ask nothing. Imports no torch, which the script
would have to wait for.
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


# questions about the chip -> the properties of --query-gpu that answer them
ASKED = {
    "name": ("name", "gpu_name"), "memory_bytes": ("memory.total", "memory.free"), "power_w": ("power.draw", "power.limit"),
    "capability": ("compute_cap",),
}  # fmt: skip


def facts(runtime: Any) -> dict[str, Any]:
    """What there is to be said of the chip now."""
    from anychip.device.cuda.answers import answer

    runtime.tensors.drain()
    name, memory_bytes, power_w, capability = (answer(runtime.chip, one) for one in ASKED)
    return {
        "count": runtime.count, "name": name, "total_mib": memory_bytes >> 20,
        "used_mib": runtime.memory.reserved_bytes() >> 20, "power_w": power_w, "capability": ".".join(map(str, capability)),
    }  # fmt: skip


def asked(arguments: list[str]) -> list[str]:
    """The questions about the chip that such a call asks: what it uses of its memory, its load and its temperature are none."""
    options = dict(one.split("=", 1) for one in arguments if "=" in one)
    if "--query-gpu" in options:
        names = {name.strip() for name in options["--query-gpu"].split(",")}
        return [question for question, properties in ASKED.items() if not names.isdisjoint(properties)]
    if any(one.startswith("--query-") for one in arguments):
        return []
    return ["name"] if "-L" in arguments or "--list-gpus" in arguments else ["name", "memory_bytes"]


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


class Smi:
    """`nvidia-smi` before everything else on the PATH of this process. folder: lives as long as the recording."""

    def __init__(self, runtime: Any, folder: Path) -> None:
        self.runtime = runtime
        self.starts: list[Any] = []  # the lines of the program that started a process
        self.place = folder / "bin"
        self.place.mkdir(exist_ok=True)
        self.state, script = self.place / "nvidia-smi.json", self.place / "nvidia-smi"
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I "{__file__}" "{self.state}" "$@"\n', encoding="utf-8")
        script.chmod(0o755)
        os.environ["PATH"] = f"{self.place}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        subprocess.Popen.__init__ = self._fresh(subprocess.Popen.__init__)  # type: ignore[method-assign]
        os.system = self._fresh(os.system)

    def _fresh(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if os.getpid() == self.runtime.pid:
                from anychip.record.recorder import user_place

                asks = {"log": str(self._log), "start": len(self.starts)}
                self.starts.append(user_place())
                self.state.write_text(json.dumps({**facts(self.runtime), **asks}), encoding="utf-8")
            return function(*args, **kwargs)

        return call

    @property
    def _log(self) -> Path:
        """What the script was asked: a line for each run, the start and the questions."""
        return self.place / f"nvidia-smi-{os.getpid()}.log"

    def note_questions(self) -> None:
        """What the program asked by it goes to the recording's questions, with the line that started it."""
        for line in self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else ():
            start, *names = line.split()
            for name in names:
                self.runtime.ask(name, self.starts[int(start)])


def main(state: Path, arguments: list[str]) -> None:
    """What the script runs."""
    known = json.loads(state.read_text(encoding="utf-8"))
    with open(known["log"], "a", encoding="utf-8") as log:
        print(known["start"], *asked(arguments), file=log)
    sys.stdout.write(text(known, arguments))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
