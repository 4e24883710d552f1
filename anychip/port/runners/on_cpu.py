"""python -m anychip.port.runners.on_cpu SEEN STEPS OUT ASKED script.py args... : run a program of device SEEN ("cuda", "npu") on the CPU, with real numbers.

Only for the proof: device functions answer as a small chip would, streams do nothing, and tensors say "cpu". OUT gets the
losses on which backward() was called, the outputs of the outermost model, and how many steps were taken, as JSON. ASKED: which lines
to look for (`reached`).
"""

import contextlib
import json
import os
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from anychip.port.runners import names, reached

SEED = 0
CALLS = 12
MEMORY_BYTES = 16 * 2**30


class Stream:
    """Work is done when it is asked for: nothing to wait for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.device = torch.device("cpu")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: True if name == "query" else 0.0 if name == "elapsed_time" else None

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: object) -> None:
        pass


def answers() -> dict[str, Any]:
    """torch.cuda's functions, as a chip that is the CPU answers them."""
    properties = SimpleNamespace(
        name="CPU", total_memory=MEMORY_BYTES, major=8, minor=0, multi_processor_count=1, warp_size=32
    )
    constant: dict[str, Any] = {
        "is_available": True, "device_count": 1, "current_device": 0, "get_device_name": "CPU", "is_initialized": True,
        "get_device_properties": properties, "get_device_capability": (8, 0), "is_bf16_supported": True,
        "mem_get_info": (MEMORY_BYTES, MEMORY_BYTES), "memory_stats": {}, "memory_summary": "", "memory_allocated": 0,
        "max_memory_allocated": 0, "memory_reserved": 0, "max_memory_reserved": 0, "utilization": 0,
        "set_device": None, "synchronize": None, "empty_cache": None, "init": None, "_lazy_init": None,
        "reset_peak_memory_stats": None, "reset_max_memory_allocated": None, "ipc_collect": None, "set_stream": None,
        "set_per_process_memory_fraction": None, "manual_seed": None, "manual_seed_all": None,
    }  # fmt: skip
    found = {name: _always(value) for name, value in constant.items()}
    found |= dict.fromkeys(("Stream", "Event", "current_stream", "default_stream"), Stream)
    found |= {name: lambda *args, **kwargs: contextlib.nullcontext() for name in ("device", "stream", "device_of")}
    found |= {
        "get_rng_state": lambda *a: torch.get_rng_state(),
        "set_rng_state": lambda state, *a: torch.set_rng_state(state),
    }
    return found


def _always(value: Any) -> Any:
    return lambda *args, **kwargs: value


def autocast_dtype(seen: str) -> torch.dtype:
    """What `autocast` without a dtype computes in on such a device; 16-bit floats on one that this torch does not know."""
    try:
        return torch.get_autocast_dtype(seen)
    except RuntimeError:
        return torch.float16


def imitate(seen: str) -> None:
    torch.set_autocast_dtype("cpu", autocast_dtype(seen))
    for name, answer in answers().items():
        setattr(torch.cuda, name, answer)
    torch.accelerator.current_accelerator = lambda check_available=False: torch.device(seen)
    for name in ("synchronize", "set_device_index", "set_stream", "empty_cache"):
        setattr(torch.accelerator, name, lambda *args, **kwargs: None)
    torch.accelerator.current_device_index = lambda: 0
    torch.accelerator.current_stream = Stream
    torch.Tensor.pin_memory = lambda self, *args: self
    torch.Tensor.record_stream = lambda self, stream: None
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    torch.nn.Module.cuda = lambda self, *args: self


def use_gloo() -> None:
    """Collectives of the CPU, whatever backend the program names."""
    known = torch.distributed.init_process_group

    def init_process_group(backend: Any = None, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("device_id", None)
        return known("gloo", *args, **kwargs)

    torch.distributed.init_process_group = init_process_group


UNSCALED = "_anychip_unscaled"


def _note_unscaled() -> None:
    """What a GradScaler has scaled knows what it was: the loss of a step is that, whatever the scale is."""
    scale = torch.amp.GradScaler.scale

    def noted(scaler: Any, outputs: Any) -> Any:
        scaled = scale(scaler, outputs)
        if isinstance(scaled, torch.Tensor) and scaled is not outputs:
            setattr(scaled, UNSCALED, outputs.detach())
        return scaled

    torch.amp.GradScaler.scale = noted


class Watch:
    """What the program computed."""

    def __init__(self, steps: int, out: Path) -> None:
        self.wanted, self.out, self.depth = steps, out, 0
        self.losses: list[float] = []
        self.outputs: list[float] = []
        self.steps = self.calls = 0
        self.inside = False

    def install(self) -> None:
        backward = torch.Tensor.backward

        def watched(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.inside:  # PyTorch calls it again, through our own mode
                return backward(tensor, *args, **kwargs)
            self.inside = True
            try:
                loss = getattr(tensor, UNSCALED, tensor)
                self.losses.append(float(loss.detach().double().sum()))
                return backward(tensor, *args, **kwargs)
            finally:
                self.inside = False

        torch.Tensor.backward = watched
        _note_unscaled()
        register_optimizer_step_post_hook(self.stepped)
        torch.nn.modules.module.register_module_forward_pre_hook(self.entered)
        torch.nn.modules.module.register_module_forward_hook(self.left, always_call=True)

    def stepped(self, *args: Any) -> None:
        self.steps += 1
        if self.steps >= self.wanted:
            self.finish()

    def entered(self, *args: Any) -> None:
        self.depth += 1

    def left(self, module: Any, inputs: Any, output: Any) -> None:
        self.depth -= 1
        if self.depth:
            return
        self.calls += 1
        if isinstance(output, torch.Tensor) and output.numel():
            self.outputs.append(float(output.detach().double().mean()))
        if self.calls >= CALLS and not self.losses:
            self.finish()

    def write(self) -> None:
        said = {"losses": self.losses, "outputs": self.outputs, "steps": self.steps, "calls": self.calls}
        self.out.write_text(json.dumps(said))

    def finish(self) -> None:
        self.write()
        sys.stdout.flush()
        os._exit(0)


def main() -> None:
    seen, steps, out, asked, *argv = sys.argv[1:]
    imitate(seen)
    torch.compiler.set_stance("force_eager")  # the same numbers, and no compiler that would see through the imitation
    names.install(seen, "cpu", _imports(seen))
    use_gloo()
    watch = Watch(int(steps), Path(out).resolve())
    watch.install()
    random.seed(SEED)
    torch.manual_seed(SEED)
    with contextlib.suppress(ImportError):
        import numpy

        numpy.random.seed(SEED)
    reached.watch(asked)
    try:
        names.run(argv)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    watch.write()


def _imports(seen: str) -> tuple[str, ...]:
    """Modules by which plug-ins with that device name are imported."""
    from anychip.spec import catalogue
    from anychip.spec.load import load_platform

    platforms = [load_platform(file.stem)[0] for file in catalogue.files("platforms")]
    return tuple(name for p in platforms if p.device_type == seen for name in p.raw.get("import", ()))


if __name__ == "__main__":
    main()
