"""Figures of the last saved run, in base.json: `python bench/bench_x.py --save` writes them, without it they are compared."""

import json
import sys
from pathlib import Path

FILE = Path(__file__).parent / "base.json"


def report(name: str, value: float, unit: str, limit: float) -> bool:
    """Print one figure beside its base and its limit; whether it is within the limit."""
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    if "--save" in sys.argv:
        known[name] = float(f"{value:.3g}")
        FILE.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    base = f"base {known[name]:.3g}, {value / known[name] - 1:+.0%}" if known.get(name) else "no base"
    print(
        f"{name:32} {value:9.3g} {unit:4} limit {limit:g}   {base:20} {'ok' if value <= limit else 'OVER'}", flush=True
    )
    return value <= limit
