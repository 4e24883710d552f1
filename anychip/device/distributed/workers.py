"""Worker processes that a program starts by `spawn`: they see the same virtual chip.

Such a process loads the program's modules anew, and with them torch; lines at the top of a script that put a tensor on
the chip, or ask for its name, run there again. What a worker does on the chip is not recorded: it prepares data.
Forked workers have the chip already; those of a fork server (`forkserver`) do not get one.
"""

import json
import multiprocessing.spawn
import os
from typing import Any

VARIABLE = "ANYCHIP_WORKER"
SETTINGS = ("chip", "devices", "device", "imbalance")


def install(config: dict[str, Any]) -> None:
    """Let children of this process begin with `begin`."""
    os.environ[VARIABLE] = json.dumps({name: config[name] for name in SETTINGS})
    original = multiprocessing.spawn.get_command_line

    def get_command_line(**arguments: Any) -> list[str]:
        command = list(original(**arguments))
        at = command.index("-c") + 1 if "-c" in command else 0  # frozen programs have none
        if at:
            command[at] = f"from {__name__} import begin; begin(); {command[at]}"
        return command

    multiprocessing.spawn.get_command_line = get_command_line  # type: ignore[assignment]


def begin() -> None:
    """Put the chip of the process that started this one into it."""
    settings = json.loads(os.environ[VARIABLE])
    from anychip.device.install import install as install_chip
    from anychip.spec import load_chip

    install_chip(
        load_chip(settings["chip"]), count=settings["devices"], device_type=settings["device"],
        host_measured=False, imbalance=settings["imbalance"],
    )  # fmt: skip
