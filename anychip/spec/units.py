"""Units as the files of the standard write them, and what they are in SI.

In: a number and a unit ("3.35", "TB/s"). Out: a float in the dimension's base unit: byte, byte/s, flop/s, Hz, W, s,
USD, USD/h, count, ratio. GB is 1e9 and GiB is 2**30; an operation is half a multiply-add, so TOP/s and TFLOP/s are the
same number of operations. Bits exist only here, at the edge.
"""

from functools import cache

_SCALES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}

# unit -> (factor, base unit)
UNITS: dict[str, tuple[float, str]] = {
    **{f"{p}FLOP/s": (s, "flop/s") for p, s in _SCALES.items() if s >= 1e6},
    **{f"{p}OP/s": (s, "flop/s") for p, s in _SCALES.items() if s >= 1e6},
    **{f"{p}B": (s, "byte") for p, s in _SCALES.items()},
    **{f"{p}iB": (2.0 ** (10 * n), "byte") for n, p in enumerate(("K", "M", "G", "T", "P"), start=1)},
    **{f"{p}B/s": (s, "byte/s") for p, s in _SCALES.items() if s >= 1e6},
    **{f"{p}bit/s": (s / 8, "byte/s") for p, s in _SCALES.items() if s >= 1e6},
    **{f"{p}Hz": (s, "Hz") for p, s in _SCALES.items() if s >= 1e6},
    "W": (1.0, "W"),
    "kW": (1e3, "W"),
    "s": (1.0, "s"),
    "ms": (1e-3, "s"),
    "us": (1e-6, "s"),
    "ns": (1e-9, "s"),
    "USD": (1.0, "USD"),
    "USD/h": (1.0, "USD/h"),
    "count": (1.0, "count"),
    "ratio": (1.0, "ratio"),
    "percent": (0.01, "ratio"),
    "per h": (1 / 3600, "Hz"),
    "to 1": (1.0, "times"),
}

# What a figure of each dimension can be at all: far outside of anything built, so that a slipped digit is seen.
BOUNDS: dict[str, tuple[float, float]] = {
    "flop/s": (1e8, 1e19),
    "byte": (1e3, 1e16),
    "byte/s": (1e7, 1e18),
    "Hz": (1e-12, 1e11),
    "W": (0.5, 1e6),
    "s": (1e-10, 1e3),
    "USD": (1.0, 1e9),
    "USD/h": (1e-3, 1e5),
    "count": (1.0, 1e8),
    "ratio": (1e-3, 1.0),
    "times": (1e-2, 1e4),
}

_PREFIXED = ("flop/s", "byte/s", "byte", "Hz")
_SHOWN = {"flop/s": "FLOP/s", "byte/s": "B/s", "byte": "B", "Hz": "Hz"}


@cache
def units_of(dimension: str) -> tuple[str, ...]:
    """Every unit in which a figure of `dimension` may be written."""
    return tuple(unit for unit, (_, base) in UNITS.items() if base == dimension)


def to_si(value: float, unit: str) -> float:
    """3.35, "TB/s" -> 3.35e12. KeyError for a unit that `UNITS` does not have."""
    return value * UNITS[unit][0]


def show(value: float, dimension: str) -> str:
    """3.35e12, "byte/s" -> "3.35 TB/s": four significant digits and the largest prefix that keeps the number >= 1."""
    if dimension not in _PREFIXED:
        return f"{value:.10g} {'to 1' if dimension == 'times' else dimension}"
    prefix = max((p for p, s in _SCALES.items() if value >= s), key=lambda p: _SCALES[p], default="")
    return f"{value / _SCALES[prefix]:.4g} {prefix}{_SHOWN[dimension]}"
