"""A whole forecast of a real script: `anychip forecast` of examples/train_gpt_cuda.py at the size of GPT-2 124M.

Seconds from start to exit, and the most memory that any of its processes held.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path

from base import report

SCRIPT = Path(__file__).parents[1] / "examples" / "train_gpt_cuda.py"
LIMIT_S, LIMIT_MB = 10.0, 1500.0  # on two cores that do nothing else


def main() -> int:
    command = [sys.executable, "-m", "anychip", "forecast", "--on", "h100", str(SCRIPT)]
    best = float("inf")
    for _ in range(2):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        best = min(best, time.perf_counter() - began)
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    fine = report("forecast.gpt2_124m", best, "s", LIMIT_S)
    fine &= report("forecast.peak_memory", peak_mb, "MB", LIMIT_MB)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
