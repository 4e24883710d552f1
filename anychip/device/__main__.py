"""The recording process: `python -m anychip.device CONFIG` installs the chip, runs the program, saves what it did."""

import signal

# Until the program runs there is nothing to keep: Ctrl-C ends this process without a word (`Session.run` takes it from there).
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

from anychip.device.distributed.job import Job
from anychip.device.distributed.launchers import answer_for_others, environment
from anychip.device.launch import DRAFT, STANDS, TORCH_UNFIT
from anychip.device.parent import EXIT, end_with_parent
from anychip.device.session import Session
from anychip.errors import UnsupportedTorch
from anychip.record import Program
from anychip.whole import put


def main() -> int:
    config = json.loads(sys.argv[1])
    end_with_parent(config["parent"])
    session = Session(config)
    try:
        session.install()
    except UnsupportedTorch as error:
        Path(config["out"]).with_suffix(".error").write_text(str(error), encoding="utf-8")
        return TORCH_UNFIT
    if config["world_size"] > 1:
        return run_job(session, config)
    if config["is_job"]:
        os.environ.update(environment(0, 1, 1))
        answer_for_others()
    code = session.run()
    session.save(code)
    return code


def run_job(session: Session, config: dict[str, Any]) -> int:
    """Run the distinct ranks, and leave one recording of them all."""
    gc.freeze()  # what is there already is not touched again, so that the ranks share its memory
    out = Path(config["out"])

    def draft(program: Program) -> None:
        program.save(out.with_suffix(DRAFT), packed=False)

    job = Job(
        out.parent, config["world_size"], config["devices"], config["jobs"], session.fork,
        draft if config["draft"] else None,
    )  # fmt: skip
    code, program = job.run(everyone=config["ranks"] == "all")
    if program is not None and job.stands(program):
        put(out.with_suffix(STANDS), json.dumps(program.meta))
    elif program is not None:
        program.save(out, packed=False)
    return code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    EXIT(code)
