"""Rows that follow from measured ones: the bandwidth of a large copy, what Python and autograd add to an op, the shape of the
curve of products."""

from dataclasses import replace
from math import log

from anychip.cost.gemm import GemmCurve, gemm_points
from anychip.cost.rates import Rates, defaults
from anychip.measure.device import Device
from anychip.measure.file import RatesFile

K0S = (0.0, 10.0, 20.0, 40.0, 80.0, 150.0, 300.0, 600.0, 1200.0)
LEAST_HOST_S = 1e-7


def derive(file: RatesFile, device: Device, kept: int | None) -> None:
    """Fill `file.derived` from its rows. kept: see `memory.kept_bytes`."""
    file.derived.clear()
    copies = {int(key[2]): value for key, value in file.values.items() if key[0] == "memory.copy"}
    if copies:
        largest = max(copies)
        file.derive("memory.rate", "", "", copies[largest], "GB/s", f"the copy of {largest} bytes")
    whole = file.values.get(("host.step", "", ""))
    call = file.values.get(("kernel.floor" if device.is_cpu else "host.launch", "", ""))
    if whole and call:
        file.derive("host.op", "", "", max(whole - call, LEAST_HOST_S), "us",
                    f"an op of a training step, {whole * 1e6:.3g} us, without its call, {call * 1e6:.3g} us")  # fmt: skip
    if device.is_cpu:
        file.derive("gemm.sustained", "", "", 1.0, "ratio", "samples were taken over the whole run, at its clocks")
        if kept is not None and ("page.rate", "", "") in file.rows:
            file.rows["page.rate", "", ""][2] = str(kept)
    for dtype in device.dtypes:
        k0 = best_k0(file, dtype)
        if k0 is not None:
            file.derive(
                "gemm.k0", dtype, "", max(k0, 1.0), "elements", "the one of a few that fits these products best"
            )


def best_k0(file: RatesFile, dtype: str) -> float | None:
    """The inner dimension at which the rate halves, so that the curve alone, at one rate, errs least on these points."""
    rates = Rates(file.rates(), defaults())
    points = [point for point in gemm_points(rates, dtype, "nt") if point[0][0] > 64]
    if len(points) < 3:
        return None
    overhead = rates.need("gemm.overhead", dtype).value
    curve = GemmCurve(1e12, 1e30, 300.0, 0.5, overhead, 1.0, 1, (128, 128), (1, 1), True)

    def error(k0: float) -> float:
        trial = replace(curve, k0=k0)
        logs = [
            log(max(2.0 * m * n * k / rate - overhead, 1e-9) / trial.model_s(1, m, n, k)) for (m, n, k), rate in points
        ]
        middle = sorted(logs)[len(logs) // 2]
        return sum(abs(one - middle) for one in logs)

    return min(K0S, key=error)
