"""`anychip forecast` of a small program: `start` is the command in a process of its own, `forecast` calls what that calls."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryFile
from types import SimpleNamespace

from anychip import cli

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = Path(__file__).parent / "programs"
TRAIN = PROGRAMS / "train_small.py"
INFER = PROGRAMS / "infer_small.py"
# As from a terminal: what starts tests in the background may have told its children to ignore Ctrl-C and the terminal's end.
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from anychip.cli import main
sys.exit(main())
"""


def words(argv, on):
    return ["forecast", *(word for chip in on for word in ("--on", chip)), *map(str, argv)]


def start(*argv, on=("h100",)):
    command = [sys.executable, "-c", START, *words(argv, on)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def forecast(*argv, on=("h100",)):
    # stderr is a file, as the programs write to it, too
    with redirect_stdout(io.StringIO()) as out, TemporaryFile("w+", buffering=1) as errors, redirect_stderr(errors):
        code = cli.main(words(argv, on))
        errors.seek(0)
        return SimpleNamespace(returncode=code, out=out.getvalue(), err=errors.read())


def target(path):
    return json.loads(path.read_text())["targets"][0]
