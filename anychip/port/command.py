"""The command `anychip port`: its options, and what it prints."""

import argparse
import sys

from anychip.arguments import positive
from anychip.whole import check_apart, check_writable, printed, write

PORT = """\
The code, moved: to portable PyTorch, which still runs on CUDA unchanged, or with --on to the form that one chip's PyTorch
plug-in asks for. Finds by meaning, edits by exact bytes: comments, formatting, other strings and names stay. What was left,
and why, is told. Nothing of the code is run, unless --prove asks for it.

examples:
  anychip port src/                               what would be edited, and what would be left
  anychip port src/ --diff                        the same as a patch
  anychip port src/ --out ported/                 the whole tree, ported; src/ stays
  anychip port src/ --in-place                    in a git work tree without uncommitted changes
  anychip port src/ --on ascend-910b --out npu/   for one chip's plug-in
  anychip port src/ --out ported/ --prove "python train.py --steps 3"
"""


def add_parser(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("path", metavar="PATH", help="a file or folder: Python, notebooks, scripts, Dockerfiles, settings, CUDA C++")
    add("--on", metavar="CHIP", help="write the form of this chip's PyTorch plug-in (default: portable PyTorch)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--out", metavar="DIR", help="write the whole tree, ported, into an empty or new folder (made with its parents)"
    )
    how.add_argument("--diff", action="store_true", help="print a patch and change nothing")
    how.add_argument("--in-place", action="store_true", help="change the files; refused where git could not undo it")
    add("--prove", metavar="COMMAND",
        help="run this command in the folder, before and after, on virtual chips and on the CPU, and compare: it runs the "
             "program, with your rights")  # fmt: skip
    add("--prove-on", metavar="CHIP", help="the chip that portable code is tried on")
    add("--steps", type=positive, metavar="N", help="end each run of --prove after N training steps (default 3)")
    add("--json", metavar="FILE", help="every edit and everything left as JSON (schema 1); - for stdout")
    add("--quiet", action="store_true", help="no progress and no summary")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0: ported. 1: the proof does not hold, or the tree that was written lacks a file."""
    check_apart({"json": args.json}, [args.path])
    check_writable(args.json)
    from anychip.port import show
    from anychip.port.project import port

    progress = _Progress(args.quiet)
    result = port(
        args.path,
        args.on,
        out=args.out,
        diff=args.diff,
        in_place=args.in_place,
        prove=args.prove,
        prove_on=args.prove_on,
        steps=args.steps,
        progress=progress,
    )
    progress.end()
    if args.json:
        write(args.json, show.dumps(result), args.quiet)
    if args.diff and args.json != "-":
        with printed():
            _print_diff("".join(result.diffs.values()))
    said = sys.stderr if args.diff or args.json == "-" else sys.stdout
    if not args.quiet:
        with printed():
            print(show.text(result), file=said)
    return 1 if result.missing or (result.proof is not None and not result.proof.ok) else 0


class _Progress:
    """On a terminal a line on stderr that is written over; elsewhere one for each stage that takes long, as in the log of a CI."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self._terminal = quiet, sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        if not self._terminal:
            self._write(f"anychip: {text}\n")
        self.note(text)

    def note(self, text: str) -> None:
        """How far a stage is."""
        if self._terminal:
            self._write(f"\r\x1b[2manychip: {text}\x1b[0m\x1b[K\r")

    def end(self) -> None:
        if self._terminal:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        if not self.quiet:
            sys.stderr.write(text)
            sys.stderr.flush()


def _print_diff(text: str) -> None:
    """Byte by byte what the files have, names that are no text included."""
    sys.stdout.flush()
    if hasattr(sys.stdout, "buffer"):
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()
    else:
        sys.stdout.write(text)
