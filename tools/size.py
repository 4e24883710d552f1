"""Lines of our own code by package, and the change against another commit (default: main). Informs; fails nothing."""

import subprocess
import sys
from collections import Counter
from pathlib import PurePosixPath

SUFFIXES = {".py", ".toml", ".csv", ".md"}


def git(*args: str) -> str:
    return subprocess.run(["git", *args], capture_output=True, text=True, check=True).stdout


def package(path: str) -> str:
    """anychip/cost/gemm.py -> anychip/cost; README.md -> . ; data of the standard apart from code."""
    folder = PurePosixPath(path).parent.parts[:2]
    return "/".join(folder) or "."


def numbers(base: str) -> tuple[Counter[str], Counter[str]]:
    """(lines now, lines added minus removed since base), both by package; the tracked files only."""
    now: Counter[str] = Counter()
    for path in git("ls-files").splitlines():
        if PurePosixPath(path).suffix in SUFFIXES:
            with open(path, encoding="utf-8") as file:
                now[package(path)] += sum(1 for _ in file)
    change: Counter[str] = Counter()
    for line in git("diff", "--numstat", base).splitlines():
        added, removed, path = line.split("\t")
        if PurePosixPath(path).suffix in SUFFIXES and added != "-":
            change[package(path)] += int(added) - int(removed)
    return now, change


def main() -> None:
    base = sys.argv[1] if len(sys.argv) > 1 else "main"
    now, change = numbers(base)
    print(f"{'package':32} {'lines':>8} {'against ' + base:>16}")
    for name in sorted(now | change):
        print(f"{name:32} {now[name]:8,} {change[name]:+16,}")
    print(f"{'total':32} {now.total():8,} {change.total():+16,}")


if __name__ == "__main__":
    main()
