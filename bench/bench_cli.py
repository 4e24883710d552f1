"""How long a user waits for `anychip --help` and `anychip chips`: at most 0.3 s each, whole process, best of five."""

import subprocess
import sys
import time

LIMIT_S = 0.3
REPEATS = 5
COMMANDS = {"cli.help": ["--help"], "cli.chips": ["chips"]}


def command_s(argv: list[str]) -> float:
    """Seconds from start to exit of the command; the best of a few, since the machine is shared."""
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "anychip", *argv], check=True, stdout=subprocess.DEVNULL)
        best = min(best, time.perf_counter() - began)
    return best


def main() -> int:
    late = False
    for name, argv in COMMANDS.items():
        took = command_s(argv)
        late |= took > LIMIT_S
        print(f"{name:24} {took:8.3f} s   limit {LIMIT_S} s   {'TOO SLOW' if took > LIMIT_S else 'ok'}")
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
