"""A proof that is ended from outside takes the programs that it runs with it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

PROGRAM = """
import os, time, torch
x = torch.ones(2).cuda()
open({path!r}, "w").write(str(os.getpid()))
time.sleep(600)
while True:
    pass
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_what_runs_on_the_cpu_ends_with_it(sent, code, tmp_path):
    begun = tmp_path / "begun"
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "endless.py").write_text(PROGRAM.format(path=str(begun)), encoding="utf-8")
    argv = ["port", str(tmp_path / "src"), "--prove", "python endless.py"]
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from anychip.cli import main; sys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", start, *argv], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while not (begun.exists() and begun.read_text()) and time.monotonic() < until:
            time.sleep(0.1)
        process.send_signal(sent)
        assert process.wait(20) == code
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
