"""`anychip measure`: its options, its progress, what it says at the end."""

import argparse
import sys
import time
from types import TracebackType

from anychip.arguments import positive
from anychip.whole import check_apart, check_writable

MEASURE = """\
How fast is this device really? About ten minutes of microbenchmarks through torch's public functions: products by dtype
and shape, convolutions, attention, memory-bound ops by size, copies, launches, collectives between local ranks. Written as
the standard's rates, each row with its samples and their spread. Killed, it goes on where it was. Torch 2.6 or newer.

examples:
  anychip measure --device cuda --out nvidia-h100-sxm.csv          the chip's id as the file's name
  anychip measure --device npu:1 --out rates/huawei-ascend-910b2.csv --quick
  anychip measure --device cpu --out my-cpu.csv --chip my-cpu.toml    and a chip file of this CPU
  anychip forecast --on my-cpu.toml train.py                       uses my-cpu.csv beside it
  ANYCHIP_PATH=. anychip forecast --on huawei-ascend-910b2 train.py   uses ./rates before the standard's
"""
WIDTH = 24
KINDS = ("host", "memory", "gemm", "conv", "attention", "ops", "collectives")  # as .run has them, which imports torch


def add_parser(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--device", metavar="NAME", default="cpu", help="as torch names it: cpu, cuda, cuda:1, npu (default cpu)")
    add("--out", metavar="FILE", required=True, help="the rates file; one that was begun here is taken up again")
    add("--quick", action="store_true", help="fewer sizes: about two minutes")
    add("--chip", metavar="FILE", help="write a chip file of this CPU too; same name and folder as --out")
    add("--threads", type=positive, metavar="N", help="threads of the CPU that torch uses (default: its own choice)")
    add("--clock", choices=("wall", "cpu"), default="wall",
        help="cpu: the process's own time, on one thread of a machine that others use too (default wall)")  # fmt: skip
    add("--only", action="append", metavar="KIND", default=[], choices=KINDS,
        help=f"{', '.join(KINDS[:-1])} or {KINDS[-1]}; repeat for several")  # fmt: skip
    add("--quiet", action="store_true", help="no progress and no summary; errors stay")
    sub.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    check_apart({"out": args.out, "chip": args.chip}, [])
    check_writable(args.out)
    from anychip.measure.run import measure

    with Bar(args.quiet) as bar:
        found = measure(args.device, args.out, quick=args.quick, threads=args.threads, clock=args.clock, chip=args.chip,
                        only=tuple(args.only), progress=bar)  # fmt: skip
    if not args.quiet:
        print(f"{found.path}: {len(found.rows)} rows in {found.wall_s:.0f} s")
        if found.collectives is not None:
            print(f"{found.collectives}: collectives between local ranks")
        if args.chip:
            print(f"{args.chip}: a chip file of this CPU")
        for what, reason in found.skipped[:10]:
            print(f"  not on this device: {what}: {reason}")
        if len(found.skipped) > 10:
            print(f"  and {len(found.skipped) - 10} more, told in the file")
    return 0


class Bar:
    """Progress on stderr: a bar with what is being measured and the time left on a terminal, else a line a tenth."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet, self.began, self.shown = quiet, time.perf_counter(), -1
        self.terminal = sys.stderr.isatty()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.terminal and not self.quiet:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def __call__(self, text: str, done: int, total: int) -> None:
        if self.quiet or not total:
            return
        spent = time.perf_counter() - self.began
        left = spent / done * (total - done) if done else 0.0
        if self.terminal:
            bar = "#" * round(WIDTH * done / total)
            sys.stderr.write(
                f"\r[{bar:<{WIDTH}}] {done}/{total}  {spent:.0f} s, about {left:.0f} s left  {text[:40]}\x1b[K"
            )
        elif done * 10 // total > self.shown:
            self.shown = done * 10 // total
            sys.stderr.write(f"anychip: measured {done} of {total} points in {spent:.0f} s\n")
        sys.stderr.flush()
