"""Recordings of the tests, forked from processes that have torch and the chip in place, as the ranks of a job are.

To start Python and import torch takes longer than most programs of the tests do. The first recording on a chip starts a process as a
user's does, and so does any whose environment is not the one that the tests were started with; from the second on they are
forked from one that is kept. ANYCHIP_TESTS_COLD=1 starts each as a user's.
"""

import ctypes
import gc
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import time
from collections import OrderedDict
from inspect import signature
from pathlib import Path
from threading import Lock
from types import SimpleNamespace

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
MOST_KEPT = 6
ROOT = Path(__file__).resolve().parents[1]
OF_CHIP = ("chip", "devices", "device", "host", "imbalance")  # what the chip is installed with
# What most programs make torch import; dynamo, where DDP or FSDP ask for it.
LIBRARIES = ("torch.fx.experimental.symbolic_shapes",)
OF_JOBS = ("torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor")
LATER = ("PYTEST_CURRENT_TEST", "ANYCHIP_FOLD")
PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
BYTES = 1 << 20


class Warm:
    """One process with a chip in place."""

    def __init__(self, config, environment):
        ours, its = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self.socket = ours
        with its:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(its.fileno()), json.dumps(config)], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, env=environment, pass_fds=[its.fileno()], start_new_session=True,
            )  # fmt: skip

    def fork(self, config, environment, stdout, stderr):
        """The process id of a recording, which is a child of this process; None if there is none."""
        prctl = ctypes.CDLL(None).prctl
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        try:
            socket.send_fds(
                self.socket, [json.dumps([config, os.getcwd(), dict(environment)]).encode()], [stdout, stderr]
            )
            return int(self.socket.recv(BYTES) or 0) or None
        except OSError:
            return None
        finally:
            prctl(PR_SET_CHILD_SUBREAPER, 0)

    def end(self):
        self.socket.close()
        self.process.wait()


class Recorders:
    """Stands where `anychip.device.launch` has `subprocess`."""

    def __init__(self):
        self.environment = settings(os.environ)
        self.lock = Lock()
        self.seen = set()
        self.kept = OrderedDict()

    def fork(self, command, environment, stdout, stderr):
        from anychip.device import launch  # not where this file is the process that is kept

        config = json.loads(command[-1])
        key = json.dumps([config[name] for name in OF_CHIP])
        as_started = {
            **launch.OFFLINE, **self.environment, "PYTHONUNBUFFERED": "1", "PYTHONPATH": environment["PYTHONPATH"]
        }  # fmt: skip
        if settings(environment) != as_started or config["host"] == "measured":
            return None
        with self.lock:
            if key not in self.seen:
                self.seen.add(key)
                return None
            if key not in self.kept:
                self.kept[key] = Warm(config, as_started)
            self.kept.move_to_end(key)
            if len(self.kept) > MOST_KEPT:
                self.kept.popitem(last=False)[1].end()
            return self.kept[key].fork(command[-1], environment, stdout, stderr)

    def end(self):
        for one in self.kept.values():
            one.end()

    def as_subprocess(self):
        recorders = self

        class Popen(subprocess.Popen):
            def _execute_child(self, *args, **kwargs):
                given = signature(super()._execute_child).bind(*args, **kwargs).arguments
                self.pid = recorders.fork(given["args"], given["env"], given["c2pwrite"], given["errwrite"])
                if self.pid is None:
                    super()._execute_child(*args, **kwargs)
                    return
                self._child_created = True
                self._close_pipe_fds(*(given[name] for name in PIPES))

        return SimpleNamespace(**{**vars(subprocess), "Popen": Popen})


def settings(environment):
    """Of the environment, what there is to know before torch is imported."""
    return {name: value for name, value in environment.items() if name not in LATER}


def serve(ours, config):
    """Fork a process for each message; answer with its id when it is nobody's child here."""
    from anychip.spec import load_chip

    place = importlib.import_module("anychip.device.install")
    runtime = place.install(
        load_chip(config["chip"]), count=config["devices"], device_type=config["device"], host_measured=False,
        imbalance=config["imbalance"],
    )  # fmt: skip
    place.install = lambda *_, **__: runtime
    for name in (*LIBRARIES, *(OF_JOBS if config["devices"] > 1 else ())):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    while True:
        message, (*files,), *_ = socket.recv_fds(ours, BYTES, 2)
        if not message:
            return
        reader, writer = os.pipe()
        middle = os.fork()
        if not middle:
            middle = os.getpid()
            child = os.fork()
            if child:
                os.write(writer, str(child).encode())
                os._exit(0)
            while os.getppid() == middle:
                time.sleep(0.001)
            ours.close()
            runtime.pid = os.getpid()
            record(*json.loads(message), *files)
        os.waitpid(middle, 0)
        ours.send(os.read(reader, BYTES))
        for fd in (reader, writer, *files):
            os.close(fd)


def record(config, folder, environment, stdout, stderr):
    """As `python -m anychip.device CONFIG` would in that folder."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.setsid()
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.closerange(3, 64)
    sys.path[0] = folder
    sys.argv = [str(ROOT / "anychip" / "device" / "__main__.py"), config]
    runpy.run_module("anychip.device", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2]))
