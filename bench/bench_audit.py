"""How fast `anychip audit` reads a large repository: at most 50 us a line on two cores (20,000 lines/s), 600 MB in all its
processes together, and a tenth of that time when nothing has changed.

The repository is this project's own Python, the audit's cases among it, copied until it has 200,000 lines. What counts is
the time of the clock; the CPU time of a line says the same on a machine that is shared.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from base import report

ROOT = Path(__file__).resolve().parents[1]
LINES, REPEATS = 200_000, 2
RUN = """
import resource, sys, time
from anychip.audit.engine import audit
began = time.perf_counter()
answer = audit(sys.argv[1], jobs=2, cache=sys.argv[2] == "cache")
wall_s = time.perf_counter() - began
own, workers = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
cpu_s = sum(use.ru_utime + use.ru_stime for use in (own, workers))
peak_mb = (own.ru_maxrss + 2 * workers.ru_maxrss) / 1024
print(answer.num_lines, wall_s, cpu_s, peak_mb)
"""


def repository(folder: Path) -> None:
    """Copies of our own files, each in a package of its own."""
    files = [path for part in ("anychip", "tests", "bench", "examples") for path in sorted((ROOT / part).rglob("*.py"))]
    texts = [(path.relative_to(ROOT), path.read_text(encoding="utf-8")) for path in files]
    lines = sum(text.count("\n") for _, text in texts)
    for copy in range(-(-LINES // lines)):
        for path, text in texts:
            target = folder / f"copy{copy}" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")


def run(folder: Path, mode: str) -> list[float]:
    """Lines, seconds by the clock and of CPU, peak MB of all processes."""
    env = os.environ | {"XDG_CACHE_HOME": str(folder.parent / "cache")}
    command = [sys.executable, "-c", RUN, str(folder), mode]
    return [
        float(word)
        for word in subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout.split()
    ]


def main() -> int:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "repository"
        repository(folder)
        runs = [run(folder, "no cache") for _ in range(REPEATS)]
        run(folder, "cache")
        again = run(folder, "cache")
    lines, best = runs[0][0], min(runs, key=lambda figures: figures[1])
    in_time = [
        report("audit.line", best[1] / lines * 1e6, "us", 50),
        report("audit.line_cpu", min(figures[2] for figures in runs) / lines * 1e6, "us", 100),
        report("audit.line_cached_cpu", again[2] / lines * 1e6, "us", 5),
        report("audit.peak_memory", max(figures[3] for figures in runs), "MB", 600),
    ]
    return int(not all(in_time))


if __name__ == "__main__":
    sys.exit(main())
