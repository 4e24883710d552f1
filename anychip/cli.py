"""The command line: parse, call the Python API, print. Nothing is computed here.

Results go to stdout; progress, warnings, errors and the user's program go to stderr. Exit codes: 0 fine, 1 the answer
is bad news (it does not fit or would fail, a check found problems), 2 wrong use or bad input, the user's program's own where that
failed, 130 after Ctrl-C, 143 after SIGTERM. Heavy modules are imported by the commands that need them: --help and chips stay instant.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from anychip import __version__, chips
from anychip.arguments import at_least_one, positive, price
from anychip.audit import command as audit_command
from anychip.errors import (
    INTERRUPTED,
    SIGNALLED,
    AnychipError,
    BadUse,
    Deadlock,
    ProgramFailed,
    ProgramKilled,
    Terminated,
    UnsupportedProgram,
)
from anychip.measure import command as measure_command
from anychip.port import command as port_command
from anychip.whole import check_apart, check_writable, mute, printed, tell_written, write, written

if TYPE_CHECKING:
    from anychip.api import Answer

CARE = (
    "forecast runs your program, with your rights: whatever it writes, deletes or sends, it does. The chip is "
    "virtual: no accelerator is used or hidden, and no numbers are computed on it. A forecast is not a benchmark result."
)
FORECAST = f"""\
How would this program run there? The program runs untouched on a virtual chip, shapes only, for a few steps; what it
did is then priced on each chip. Options stand before the program; everything after it is the program's own.

examples:
  anychip forecast --on h100 train.py --batch-size 32
  anychip forecast --on h100 --on mi300x --on ascend-910b -m package.train --config small.toml
  anychip forecast --on h100:8..1024 --on mi300x:1024 -m package.train        a job of so many ranks, as torchrun starts it
  anychip forecast --on h100 --save run.anychip train.py      then, without running it again:
  anychip forecast --on tpu-v5p --load run.anychip

care: {CARE}
"""


class _Parser(argparse.ArgumentParser):
    """Names the word that one was nearly: `anychip forcast`, `chips shw`, `--host measred`."""

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        like = get_close_matches(choice[1], re.findall(r"[\w-]+", choice[2]), 1) if choice else []
        super().error(message + (f"; did you mean {like[0]}?" if like else ""))


def parser() -> argparse.ArgumentParser:
    main_parser: argparse.ArgumentParser = _Parser(
        prog="anychip",
        description="How would this unmodified CUDA PyTorch program run on another vendor's chip?",
        epilog=f"example: anychip forecast --on h100 --on ascend-910b train.py\n\ncare: {CARE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    main_parser.add_argument("--version", action="version", version=f"anychip {__version__}")
    verbs = main_parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _forecast_parser(verbs)
    chips.add_parser(_sub(verbs, "chips", "which chips are there, and what is known of each?", chips.CHIPS))
    measure_command.add_parser(_sub(verbs, "measure", "how fast is this device really?", measure_command.MEASURE))
    audit_command.add_parser(_sub(verbs, "audit", "how bound to CUDA is this code?", audit_command.AUDIT))
    port_command.add_parser(_sub(verbs, "port", "the code, moved to portable PyTorch or one chip's", port_command.PORT))
    return main_parser


def _sub(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, help_: str, text: str = "", usage: str = ""
) -> argparse.ArgumentParser:
    command = verbs.add_parser(
        name,
        help=help_,
        description=text or help_,
        usage=usage or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(command=command)
    return command


def _forecast_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    usage = "anychip forecast [options] --on TARGET [--on TARGET]... script.py args... | -m module args..."
    sub = _sub(verbs, "forecast", "how fast, does it fit, what limits it, on which chip?", FORECAST, usage)
    add = sub.add_argument
    add("--on", action="append", metavar="TARGET", default=[],
        help="CHIP[:COUNT[..COUNT][@CLUSTER]], an id or alias of `anychip chips` or a chip file; repeat to compare; "
             "with a COUNT, even 1, the program is started as by torchrun; a range is doubled up to its end; "
             "what the program prints is the first one's")  # fmt: skip
    length = sub.add_argument_group("how much of the program")
    length.add_argument("--steps", type=positive, metavar="N",
                        help="end the program after N training steps; the first warms up (default 3; 5 where the "
                             "second and third differ on one chip, up to 16 "
                             "until each optimizer has stepped; 2 of a job of more than 1,024 chips)")  # fmt: skip
    length.add_argument("--calls", type=positive, metavar="N",
                        help="end it after N outermost model calls: for inference, without an optimizer")  # fmt: skip
    length.add_argument("--step-mark", metavar="FUNCTION",
                        help="a step ends when this function of the program returns: train_step, Trainer.one_round")  # fmt: skip
    length.add_argument("--tokens-per-step", type=positive, metavar="N",
                        help="tokens of a step of the whole job, not of a rank, where they are not the integers that the first embedding sees")  # fmt: skip
    length.add_argument("--samples-per-step", type=positive, metavar="N",
                        help="samples of a step of the whole job, not of a rank, where they are not the batch that its first layer is given")  # fmt: skip
    add("--price", type=price, action="append", metavar="CHIP=USD", default=[],
        help="what an hour of the chip costs you: h100=2.49 (default: the lowest price that its file lists); repeat for others")  # fmt: skip
    chip = sub.add_argument_group("what the program is told")
    chip.add_argument("--device", metavar="NAME", default="cuda",
                      help="the device type under which it sees the chip: cuda; others are not there yet")  # fmt: skip
    chip.add_argument("--host", choices=("modelled", "measured"), default="modelled",
                      help="the host's time: from figures of what eager PyTorch takes per op, or with what passed here between "
                           "calls of models, backward passes and optimizers added")  # fmt: skip
    chip.add_argument("--imbalance", type=at_least_one, metavar="X", default=1.0,
                      help="fullest over mean where data decide a split, such as experts (default 1, even)")  # fmt: skip
    job = sub.add_argument_group("jobs of several chips")
    job.add_argument("--ranks", choices=("distinct", "all"), default="distinct",
                     help="run one rank of each kind that does something else, or every one (256 at most)")  # fmt: skip
    job.add_argument("--jitter", type=float, metavar="X", default=0.0,
                     help="relative spread of a rank's time between collectives: 0.02; default 0")  # fmt: skip
    job.add_argument("--slow-node", type=float, metavar="X", default=1.0,
                     help="kernels on the last node take X times as long: 1.1; default 1")  # fmt: skip
    job.add_argument("--degraded-link", type=float, metavar="X", default=1.0,
                     help="share of its rate that the last node's network still reaches: 0.5; default 1")  # fmt: skip
    job.add_argument("--spread", type=float, metavar="X",
                     help="relative spread of the chips' speeds, of which a job goes at the slowest's: default 0.015; 0: all alike")  # fmt: skip
    out = sub.add_argument_group("output")
    out.add_argument("--json", metavar="FILE", help="the answer as JSON (schema 1, docs/json.md); - for stdout")
    out.add_argument("--trace", metavar="FILE",
                     help="the timeline of all recorded steps for Perfetto or chrome://tracing; gzipped if it ends in .gz; "
                          "with several targets the target is put before the suffix")  # fmt: skip
    out.add_argument("--memory-snapshot", metavar="FILE",
                     help="every allocation, in the format of torch.cuda.memory._dump_snapshot")  # fmt: skip
    out.add_argument("--save", metavar="FILE", help="keep the recording, to forecast again without running")
    out.add_argument("--load", metavar="FILE", help="forecast a kept recording; no program is run")
    out.add_argument("--jobs", type=positive, metavar="N", default=2, help="recordings at a time (default 2)")
    out.add_argument("--quiet", action="store_true", help="no progress and no table; warnings and errors stay")
    add("-m", dest="module", nargs=argparse.REMAINDER, metavar="module args...", help="run a module, as python -m does")
    add("program", nargs=argparse.REMAINDER, metavar="script.py args...", help="the program and its own arguments")
    sub.set_defaults(run=forecast)


def forecast(args: argparse.Namespace) -> int:
    argv = _program(args)
    outputs = {name: getattr(args, name) for name in ("json", "trace", "save", "memory_snapshot")}
    check_apart(outputs, [args.load or argv[0]])
    for path in outputs.values():
        check_writable(path)
    from anychip import api, report
    from anychip.report.progress import Progress

    with _told_in_json(args, argv), Progress(quiet=args.quiet) as progress, _misplaced_options_named(args, argv):
        answer = api.forecast(
            api.load(args.load) if args.load else argv,
            on=args.on,
            module=args.module is not None,
            steps=args.steps,
            calls=args.calls,
            step_mark=args.step_mark,
            tokens_per_step=args.tokens_per_step,
            samples_per_step=args.samples_per_step,
            prices=_each_once(args.price),
            host=args.host,
            device=args.device,
            imbalance=args.imbalance,
            ranks=args.ranks,
            jobs=args.jobs,
            jitter=args.jitter,
            slow_node=args.slow_node,
            degraded_link=args.degraded_link,
            spread=args.spread,
            progress=progress,
        )
    code = _code(answer.exit_code)
    if args.json != "-" and not args.quiet:
        with printed():
            report.show(answer)
    with printed():
        for warning in answer.warnings if args.quiet or args.json == "-" else ():
            print(f"warning: {warning}", file=sys.stderr)
    # Last, so that a full disk takes nothing but the file.
    with written(args.save):
        if args.save:
            answer.programs[0].save(args.save)
            tell_written(args.save, args.quiet)
    with written(args.json):
        if args.json:
            found = {**report.to_json(answer), "exit_code": code}
            write(args.json, json.dumps(found, indent=2), args.quiet)
    with written(args.trace):
        for place in report.write_traces(answer, args.trace) if args.trace else ():
            tell_written(place, args.quiet)
    with written(args.memory_snapshot):
        for place in report.write_memory_snapshots(answer, args.memory_snapshot) if args.memory_snapshot else ():
            tell_written(place, args.quiet)
    if why := _why(answer):
        with printed():
            print(f"anychip: exit code {code}: {why}.", file=sys.stderr)
    return code


def _why(answer: "Answer") -> str:
    """What an exit code other than 0 means, so that bad news is not taken for the program's own failure, nor the other way round."""
    if answer.outcome == "fine":
        return ""
    if answer.interrupted:
        return "interrupted; the figures are of what the program had done by then"
    if answer.outcome == "program_failed":
        return "the program's own; it failed after the steps that the figures are of"
    lacking = [name for name, one in zip(answer.names, answer.forecasts, strict=True) if not one.fits]
    lacking += answer.too_small
    refusing = [name for name, one in zip(answer.names, answer.forecasts, strict=True) if one.would_fail]
    told = {
        "it does not fit on": lacking,
        "the program would fail on": refusing,
        "no answer for": [name for name in answer.left_out if name not in answer.too_small],
    }
    return "; ".join(f"{what} {', '.join(names)}" for what, names in told.items() if names)


@contextlib.contextmanager
def _told_in_json(args: argparse.Namespace, argv: Sequence[str]) -> Iterator[None]:
    """A program that failed before there was anything to forecast, or would hang, is an answer, too: no older one is left in its place."""
    try:
        yield
    except (ProgramFailed, Deadlock) as error:
        from anychip.report import no_answer

        with written(args.json):
            if args.json:
                found = no_answer(shlex.join(argv) or args.load, args.on, error)
                write(args.json, json.dumps({**found, "exit_code": _code(error.exit_code)}, indent=2), args.quiet)
        raise


def _program(args: argparse.Namespace) -> list[str]:
    """The program's argv, after checking that there is exactly one thing to forecast and somewhere to forecast it."""
    argv: list[str] = args.module if args.module is not None else args.program
    if argv[:1] == ["--"]:
        argv = argv[1:]
    if not args.on and any(word.partition("=")[0] == "--on" for word in argv[1:]):
        raise BadUse(f"no chip given: --on stands behind {argv[0]}, and is the program's there. Options come first: anychip forecast "
                     f"--on CHIP {argv[0]} ...")  # fmt: skip
    if not args.on:
        raise BadUse("no chip given. Try: anychip forecast --on h100 script.py (all chips: anychip chips)")
    if args.load and argv:
        raise BadUse(f"--load forecasts the kept recording {args.load}: leave out {' '.join(argv)!r}, or --load.")
    if not args.load and not argv:
        raise BadUse("no program given. Try: anychip forecast --on h100 script.py args... (or -m module args...)")
    if args.module is None and argv and not os.path.exists(argv[0]) and _is_chip(argv[0]):
        raise BadUse(
            f"{argv[0]} stands where the program does, and is a chip: each has its own --on. Try: --on {argv[0]}"
        )
    if args.load and args.save:
        raise BadUse("--save with --load would only copy the file.")
    if args.load:
        _only_for_recording(args)
    if args.save:
        _one_recording(args)
    return argv


def _is_chip(text: str) -> bool:
    """Whether it is a target: the second of `--on h100 mi300x train.py`."""
    from anychip.places import places_of

    try:
        return bool(places_of([text]))
    except AnychipError:
        return False


@contextlib.contextmanager
def _misplaced_options_named(args: argparse.Namespace, argv: list[str]) -> Iterator[None]:
    """A program that refuses its arguments may have been given ours: what stands behind it is the program's. One that reads none would
    go on without a word."""
    own = {option for option in _options(args.command) if option.startswith("--")}
    ours = [word for word in argv[1:] if word.partition("=")[0] in own]
    if unread := [word for word in ours if args.module is None and not _names(argv[0], word.partition("=")[0])]:
        print(f"anychip: {', '.join(unread)} behind {argv[0]} goes to the program, which does not name it: anychip's own options come first.",
              file=sys.stderr)  # fmt: skip
    try:
        yield
    except ProgramFailed as error:
        # What parses arguments ends with 2, or with an error that tells the one it does not know.
        if ours and (error.exit_code == 2 or any(word.partition("=")[0] in error.said for word in ours)):
            words = f"{error}\n{', '.join(ours)} stood behind {argv[0]} and so went to it: anychip's own options come first."
            raise error.saying(words, error.exit_code) from error
        raise


def _names(script: str, option: str) -> bool:
    """Whether a script's text has the option's name anywhere, however it spells it, or reads arguments by what is not in it."""
    words = "[-_ ]".join(map(re.escape, option.removeprefix("--").split("-")))
    try:
        text = Path(script).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True  # told by whoever runs it
    elsewhere = r"\bargs?\b|argv|argparse|parser|\b(click|fire|hydra|absl|typer|tyro|docopt|cli|main)\b"
    return re.search(rf"(?<![A-Za-z0-9]){words}(?![A-Za-z0-9])|{elsewhere}", text) is not None


def _one_recording(args: argparse.Namespace) -> None:
    from anychip.places import places_of

    names = {(place.num_chips, place.is_job): place.name for place in places_of(args.on)}
    if len(names) > 1:
        first, *_, last = names.values()
        raise BadUse(
            f"--save keeps one recording, and a program does something else on {first} than on {last}: give one number of chips."
        )


def _each_once(prices: Sequence[tuple[str, float]]) -> dict[str, float]:
    """By chip as it was named; of chips that were named otherwise the API tells."""
    found: dict[str, float] = {}
    for chip, usd in prices:
        if found.setdefault(chip, usd) != usd:
            raise BadUse(f"--price {chip} is given twice, {found[chip]:g} and {usd:g}: leave out one.")
    return found


def _only_for_recording(args: argparse.Namespace) -> None:
    """A kept recording is as it is: options that say how to record are wrong beside --load, not without effect."""
    defaults = {"steps": None, "calls": None, "step_mark": None, "host": "modelled", "device": "cuda", "imbalance": 1.0,
                "ranks": "distinct"}  # fmt: skip
    given = [f"--{name.replace('_', '-')}" for name, value in defaults.items() if getattr(args, name) != value]
    if given:
        say = "says" if len(given) == 1 else "say"
        raise BadUse(f"{', '.join(given)} {say} how to record, and {args.load} is a recording: leave out one of them.")


def _options(command: argparse.ArgumentParser) -> list[str]:
    return [option for action in command._actions for option in action.option_strings]


# Options of forecast that others have under these names.
ASKED_AS = dict.fromkeys(
    ("--chip", "--chips", "--gpu", "--gpus", "--target", "--num-gpus", "--nproc-per-node", "--world-size"),
    "did you mean --on CHIP:COUNT?",
) | dict.fromkeys(
    ("--html", "--csv", "--out", "--output"), "figures go to --json FILE, timelines to --trace FILE (Perfetto)"
)


def _no_such_option(command: argparse.ArgumentParser, runs_program: bool, unknown: Sequence[str]) -> str:
    option = unknown[0].partition("=")[0]
    meant = ASKED_AS.get(option, "") if runs_program else ""
    like = [] if meant else get_close_matches(option, _options(command), 1, cutoff=0.7)
    meant = meant or (f"did you mean {like[0]}?" if like else "")
    said = f"unrecognized arguments: {' '.join(unknown)}" + (f"; {meant}" if meant else "")
    if runs_program:
        said += f"\nOptions before the program are anychip's. One of the program's own stands behind it: script.py {option} ..."
    return said


class _HungUp(SystemExit):
    """SIGHUP: the terminal has gone, and who would have read what there is."""

    exit_code = SIGNALLED + signal.SIGHUP


_terminated = threading.Event()  # whether it is SIGTERM that interrupted


def _end(number: int, frame: object) -> None:
    """End, once: what puts a program's files back is not ended midway by a second signal."""
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    if number == signal.SIGHUP:
        raise _HungUp
    _terminated.set()
    raise Terminated


def _code(code: int) -> int:
    """The exit code: an answer knows that it was interrupted, and not by what."""
    return Terminated.exit_code if code == INTERRUPTED and _terminated.is_set() else code


def _open_streams() -> None:
    """What the shell has closed (`2>&-`) is none to Python, and its number would be the next file's."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - to the end


def _tell_absent_folders() -> None:
    if os.environ.get("ANYCHIP_PATH"):
        from anychip.spec.catalogue import absent_folders

        for folder in absent_folders():
            print(
                f"anychip: $ANYCHIP_PATH names {folder}, which is no folder: nothing is read from it.", file=sys.stderr
            )


def main(argv: Sequence[str] | None = None) -> int:
    _open_streams()
    args, unknown = parser().parse_known_args(argv)
    if unknown:
        args.command.error(_no_such_option(args.command, args.run is forecast, unknown))
    if threading.current_thread() is threading.main_thread():
        # Ended by `kill`, a job scheduler or a terminal that closes: the recording process must not be left behind.
        _terminated.clear()
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # (nohup)
                signal.signal(number, _end)
    try:
        _tell_absent_folders()
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except AnychipError as error:
        print(f"anychip: {error}", file=sys.stderr)
        refused = isinstance(error, UnsupportedProgram)
        if isinstance(error, ProgramFailed) and not refused and error.exit_code != INTERRUPTED:
            failed = error.by if isinstance(error, ProgramKilled) else "it failed"
            why = "it does not fit" if error.is_short else f"the program's own; {failed}, and there are no figures"
            print(f"anychip: exit code {error.exit_code}: {why}.", file=sys.stderr)
        return _code(error.exit_code)
    except (Terminated, _HungUp) as end:
        with contextlib.suppress(OSError):  # the terminal may have gone
            words = shlex.join(argv if argv is not None else sys.argv[1:])
            name = signal.Signals(end.exit_code - SIGNALLED).name
            print(f"anychip: {name} ended it before it was done: anychip {words}", file=sys.stderr)
        return end.exit_code
    except KeyboardInterrupt:
        print("anychip: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        mute()  # the reader of our output (head, less) has left
        return 0
    except OSError as error:
        # A full disk under stdout, no folder for temporary files: what a machine lacks is no fault of ours to trace.
        print(f"anychip: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BadUse.exit_code
