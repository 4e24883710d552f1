"""How long a user waits for `anychip --help` and `anychip chips`, and what reading every chip and platform costs.

Commands: at most 0.3 s each, whole process. Files: at most 150 ms of CPU time in a new process, list included, and the
second time (cached) at most 50 ms. Best of five each, since the machine is shared.
"""

import subprocess
import sys
import time

from base import report

REPEATS = 5
COMMANDS = {"cli.help": ["--help"], "cli.chips": ["chips"]}
READ_ALL = """
import time
from anychip.spec import catalogue, list_chips, load_chip
from anychip.spec.load import load_platform
for _ in range(2):
    began = time.process_time()
    for entry in list_chips():
        load_chip(entry.file)
    for file in catalogue.files("platforms"):
        load_platform(file.stem)
    print(time.process_time() - began)
"""


def command_s(argv: list[str]) -> float:
    """Seconds from start to exit of the command."""
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "anychip", *argv], check=True, stdout=subprocess.DEVNULL)
        best = min(best, time.perf_counter() - began)
    return best


def read_all_s() -> tuple[float, float]:
    """CPU seconds for every chip and platform, for the first time and again."""
    runs = []
    for _ in range(REPEATS):
        out = subprocess.run([sys.executable, "-c", READ_ALL], check=True, capture_output=True, text=True).stdout
        runs.append([float(line) for line in out.split()])
    return min(run[0] for run in runs), min(run[1] for run in runs)


def main() -> int:
    in_time = [report(name, command_s(argv), "s", 0.3) for name, argv in COMMANDS.items()]
    first, again = read_all_s()
    in_time.append(report("chips.read_all", first * 1e3, "ms", 150))
    in_time.append(report("chips.read_all_again", again * 1e3, "ms", 50))
    return int(not all(in_time))


if __name__ == "__main__":
    sys.exit(main())
