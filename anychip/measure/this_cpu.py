"""A chip file for the CPU of this machine, its peaks the fastest that was measured: the stand-in `generic-cpu` is nobody's."""

import os
from datetime import date
from pathlib import Path

from anychip.errors import BadUse
from anychip.measure.device import Device
from anychip.measure.file import RatesFile

L3 = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")

LACKING = "a chip file needs measured products and copies: leave out --only, or add --only gemm --only memory"


def chip_text(chip_id: str, file: RatesFile, device: Device, threads: int) -> str:
    """The TOML of a chip whose rates `file` holds. Raises BadUse where no product and no copy was measured."""
    fastest = {dtype: max((value for (op, kind, _), value in file.values.items() if op == "gemm" and kind == dtype), default=0.0)
               for dtype in device.dtypes}  # fmt: skip
    copies = [value for (op, _, _), value in file.values.items() if op == "memory.copy"]
    if not fastest["fp32"] or not copies:
        raise BadUse(LACKING)
    gib = device.memory_bytes / 2**30
    llc = L3.read_text().strip() if L3.is_file() else ""
    l3 = f'{{ value = {int(llc[:-1]) / 1024:g}, unit = "MiB", src = "system" }}' if llc.endswith("K") else '"unknown"'
    name = device.name.replace('"', "'")
    return f"""schema_version = 1
id = "{chip_id}"
vendor = "this machine"
name = "{name}, {threads} thread{"s" * (threads > 1)}"
platform = "cpu"
execution = "host"

[sources.measured]
title = "the fastest product and the fastest copy that anychip measure found"
kind = "derived"
date = "{date.today().isoformat()}"

[sources.system]
title = "what the operating system says"
kind = "derived"
date = "{date.today().isoformat()}"

[torch]
device_name = "cpu"

[peaks.matrix]
fp32 = "none"
bf16 = "none"
fp16 = "none"

[peaks.vector]
fp32 = {{ value = {max(fastest.values()) / 1e9:.4g}, unit = "GFLOP/s", src = "measured" }}

[memory.main]
technology = "DRAM"
capacity = {{ value = {gib:.4g}, unit = "GiB", src = "system" }}
bandwidth = {{ value = {max(copies) / 1e9:.4g}, unit = "GB/s", src = "measured" }}

[memory.l3]
technology = "SRAM"
capacity = {l3}

[engine]
cores = {{ value = {threads}, unit = "count", src = "system", note = "threads that torch uses, of {os.cpu_count()} cores" }}
core_name = "core"
matrix_tile = {{ value = [16, 6, 256], src = "system", kind = "estimated", note = "register block of AVX2 kernels" }}
devices_per_package = 1

[links.host]
name = "none: it is the host"
one_way = "none"

[power]
limit = "unknown"

[price]
unit = "unknown"
per_hour_low = "unknown"
per_hour_high = "unknown"
"""


def write_chip(path: Path, file: RatesFile, device: Device, threads: int) -> None:
    path.write_text(chip_text(path.stem, file, device, threads), encoding="utf-8")
