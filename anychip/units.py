"""Quantities for people: SI floats inside the program, three figures and a fitting prefix on the screen.

Times, counts and rates take decimal prefixes (ms, TFLOP/s); memory takes binary ones (GiB), as torch's own messages do.
Numbers no value is known for are shown as "-", never as zero.
"""

import math

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_DECIMAL = ("", "k", "M", "G", "T", "P", "E")


def figures(value: float, digits: int = 3) -> str:
    """Round to `digits` significant figures, without an exponent: 12.345 -> "12.3", 12345 -> "12,345"."""
    if value == 0:
        return "0"
    # The exponent after rounding: 9.996 counts as 10.0.
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def duration(value_s: float | None) -> str:
    """3e-05 -> "30.0 us". Above two minutes: minutes and seconds, then hours."""
    if value_s is None or not math.isfinite(value_s):
        return "-"
    if value_s >= 3600:
        return f"{int(value_s // 3600)} h {int(value_s % 3600 // 60):02d} min"
    if value_s >= 120:
        return f"{int(value_s // 60)} min {int(value_s % 60):02d} s"
    if abs(value_s) < 1e-12:  # what a difference of rounded numbers leaves: no clock of a chip ticks so fast
        return "0 ns"
    for scale, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "us")):
        if abs(value_s) >= scale * 0.9995:
            return f"{figures(value_s / scale)} {unit}"
    return f"{figures(value_s / 1e-9)} ns"


def memory(value_bytes: float | None) -> str:
    """8589934592 -> "8.00 GiB"."""
    if value_bytes is None:
        return "-"
    power = 0
    while abs(value_bytes) >= 1023.5 and power < len(_BINARY) - 1:
        value_bytes /= 1024
        power += 1
    return f"{value_bytes:.0f} B" if power == 0 else f"{figures(value_bytes)} {_BINARY[power]}"


def count(value: float | None, unit: str = "") -> str:
    """1.24e8 -> "124M"; with a unit, 9.89e14 and "FLOP/s" -> "989 TFLOP/s"."""
    if value is None or not math.isfinite(value):
        return "-"
    power = 0
    while abs(value) >= 999.5 and power < len(_DECIMAL) - 1:
        value /= 1000
        power += 1
    is_whole = math.isclose(value, round(value), rel_tol=1e-9)  # (a mean of counts is one but for its last digits)
    text = f"{value:.0f}" if is_whole and not power else figures(value)
    return f"{text} {_DECIMAL[power]}{unit}" if unit else f"{text}{_DECIMAL[power]}"


def several(number: int, noun: str) -> str:
    """A number of things that take a plain plural: "1 file", "1,024 files"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def rate(value_per_s: float | None) -> str:
    """Tokens or samples per second, as a program would print them: 123456.7 -> "123,457"."""
    return "-" if value_per_s is None or not math.isfinite(value_per_s) else figures(value_per_s)


def share(value: float | None) -> str:
    """0.4567 -> "46%"; small shares keep a figure, 0.004 -> "0.4%", and one above nothing is not shown as such: "<0.1%"."""
    if value is None or not math.isfinite(value):
        return "-"
    percent = value * 100
    if 1e-9 < percent < 0.05:  # (less is what a difference of rounded numbers leaves)
        return "<0.1%"
    return f"{percent:.0f}%" if percent == 0 or abs(percent) >= 9.95 else f"{percent:z.1f}%"
