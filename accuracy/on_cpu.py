"""Runs a CUDA program on the CPU, unmodified, and notes when its steps end: `python accuracy/on_cpu.py OUT.json script.py args...`

What says "cuda" is taken to say "cpu": devices given to torch functions, `.cuda()`, autocast, GradScaler, the questions of
torch.cuda that a training script asks. Nothing else is changed: the CPU's own kernels run, on its own numbers. A step ends where
anychip says that it does: at an optimizer's step, or where none steps, at the end of an outermost call of a module.
"""

import functools
import json
import re
import runpy
import sys
import time
import types
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

CUDA = re.compile(r"^cuda(:\d+)?$")


def as_cpu(value: Any) -> Any:
    """A device that is CUDA's, as the CPU."""
    if isinstance(value, torch.device):
        return torch.device("cpu") if value.type == "cuda" else value
    return "cpu" if isinstance(value, str) and CUDA.match(value) else value


# What takes a device. Each is wrapped by itself: a mode over all torch functions would slow every op of the program down.
FUNCTIONS = [
    "arange",
    "as_tensor",
    "empty",
    "empty_like",
    "empty_strided",
    "eye",
    "from_numpy",
    "full",
    "full_like",
    "linspace",
    "logspace",
    "normal",
    "ones",
    "ones_like",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "randperm",
    "scalar_tensor",
    "tensor",
    "tril_indices",
    "triu_indices",
    "zeros",
    "zeros_like",
]
METHODS = ["new_empty", "new_full", "new_ones", "new_tensor", "new_zeros", "to"]


def on_cpu(function: Any) -> Any:
    """The function, seeing the CPU where it is given CUDA's device."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return function(*[as_cpu(value) for value in args], **{name: as_cpu(value) for name, value in kwargs.items()})

    return wrapped


class Event:
    """A CUDA event: the CPU has done everything when it is recorded."""

    def __init__(self, **options: Any) -> None:
        self.at_s = 0.0

    def record(self, stream: Any = None) -> None:
        self.at_s = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "Event") -> float:
        return (end.at_s - self.at_s) * 1e3


def _renamed(kind: type) -> type:
    """A class whose first argument is a device type, for CUDA's the CPU's."""

    class Renamed(kind):
        def __init__(self, device: str = "cuda", *args: Any, **kwargs: Any) -> None:
            kwargs = {name: as_cpu(value) for name, value in kwargs.items()}
            if "device_type" in kwargs:
                super().__init__(*args, **kwargs)
            else:
                super().__init__(as_cpu(device), *args, **kwargs)

    return Renamed


def pretend() -> None:
    """Let torch.cuda answer as a machine with one device does."""
    answers = {
        "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0, "set_device": lambda device: None,
        "synchronize": lambda device=None: None, "get_device_name": lambda device=None: "cpu", "empty_cache": lambda: None,
        "manual_seed_all": lambda seed: None, "is_bf16_supported": lambda *a: True, "max_memory_allocated": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0, "reset_peak_memory_stats": lambda device=None: None, "Event": Event,
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    # A CUDA build's optimizers ask the accelerator whether a graph is being captured.
    torch.accelerator.current_accelerator = lambda check_available=False: None
    for place, names in ((torch, FUNCTIONS), (torch.Tensor, METHODS)):
        for name in names:
            setattr(place, name, on_cpu(getattr(place, name)))
    # Moving a tensor to where it is leaves it as it is, as `.to` does.
    torch.Tensor.cuda = torch.Tensor.pin_memory = lambda tensor, *args, **kwargs: tensor  # type: ignore[method-assign]
    torch.autocast = torch.amp.autocast = _renamed(torch.autocast)  # type: ignore[misc]
    torch.amp.GradScaler = _renamed(torch.amp.GradScaler)  # type: ignore[misc]
    plain = torch.set_default_device
    torch.set_default_device = lambda device: plain(as_cpu(device))


class Steps:
    """When each step ended, in seconds of `clock`; of a step with other than one outermost forward, nothing."""

    def __init__(self, clock: Any) -> None:
        self.clock, self.depth, self.forwards = clock, 0, 0
        self.optimizer_s: list[float] = []
        self.call_s: list[float] = []
        self.times_s: list[float] = []
        self.calls_s: list[float] = []

    def install(self) -> None:
        torch.nn.modules.module.register_module_forward_pre_hook(self.enter)
        torch.nn.modules.module.register_module_forward_hook(self.leave, always_call=True)
        register_optimizer_step_post_hook(self.stepped)

    def enter(self, module: Any, args: Any) -> None:
        self.depth += 1

    def leave(self, module: Any, args: Any, result: Any) -> None:
        self.depth -= 1
        if not self.depth:
            self.forwards += 1
            self._end(self.call_s, self.calls_s)

    def stepped(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self.forwards == 1:
            self._end(self.optimizer_s, self.times_s)
        else:
            self.optimizer_s = [self.clock()]
        self.forwards = 0

    def _end(self, ends: list[float], times: list[float]) -> None:
        now = self.clock()
        if ends:
            times.append(now - ends[-1])
        ends.append(now)


def main() -> None:
    out, script, *args = sys.argv[1:]
    settings = json.loads(out)
    torch.set_num_threads(settings["threads"])
    steps = Steps(time.process_time if settings["clock"] == "cpu" else time.perf_counter)
    pretend()
    steps.install()
    sys.argv = [script, *args]
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        times = steps.times_s or steps.calls_s
        with open(settings["out"], "w", encoding="utf-8") as file:
            json.dump(times, file)


if __name__ == "__main__":
    main()
