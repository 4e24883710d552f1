"""What recording costs: one step of GPT-2 124M on a virtual chip, against the same step on torch's bare `meta` device.

Both in processes of their own, in turn, in the same run; the median step after the first, the better of two runs. At
most a fifth.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from base import report

STEP = Path(__file__).parent / "gpt2_step.py"
LIMIT = 0.2


def run(kind: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(STEP), kind], check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    chip, meta, ops = float("inf"), float("inf"), 1
    for _ in range(2):
        recorded = run("chip")
        chip, ops = min(chip, median(recorded["ms"][1:])), recorded["ops"]
        meta = min(meta, median(run("meta")["ms"][1:]))
    fine = report("record.gpt2_step_over_meta", chip / meta, "", LIMIT)
    print(f"  {chip:.1f} ms recorded ({chip * 1e3 / ops:.0f} us an op, Python's own part of the step included), "
          f"{meta:.1f} ms on meta, {ops} ops a step")  # fmt: skip
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
