"""A device under another name: what a program calls "npu" is the virtual chip, or the CPU.

PyTorch knows the types of devices by a fixed list, and lends one of them (ALIAS) to a plug-in, whose half in C++ is not
here. So a name that is not on the list is run under ALIAS: the program's own strings are read that way, and nothing else of
it changes. Whatever it then passes to PyTorch goes to the real device, and tensors there say that they are on ALIAS.
"""

import ast
import functools
import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

import anychip

ALIAS = "privateuseone"


class Named(TorchFunctionMode):
    """seen: what the program says. real: where it goes. hides: tensors on the real device say that they are on `seen`.
    spoken: the plug-in's own name, which libraries say where `seen` is the alias that stands for it."""

    def __init__(self, seen: str, real: str, hides: bool, spoken: str = "") -> None:
        super().__init__()
        self.seen, self.real, self.hides, self.spoken = seen, real, hides, spoken or seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.device:  # a name for later: it is translated where it is used
            return func(*[self.known(a) for a in args], **{key: self.known(value) for key, value in kwargs.items()})
        owner = getattr(func, "__self__", None)
        if self.hides and owner is torch.Tensor.device:
            return self.shown(func(*args, **kwargs))
        if self.hides and owner is torch.Tensor.is_cuda:
            return False
        return func(*[self.there(a) for a in args], **{key: self.there(value) for key, value in kwargs.items()})

    def known(self, value: Any) -> Any:
        """The plug-in's own name for a device as PyTorch knows it."""
        if isinstance(value, str) and value.partition(":")[0] == self.spoken:
            return self.seen + value[len(self.spoken) :]
        return value

    def there(self, value: Any) -> Any:
        """A device or its name, as it really is."""
        value = self.known(value)
        if isinstance(value, torch.device) and value.type == self.seen:
            return (
                torch.device(self.real)
                if self.real == "cpu" or value.index is None
                else torch.device(self.real, value.index)
            )
        if isinstance(value, str) and value.partition(":")[0] == self.seen:
            return self.real if self.real == "cpu" else self.real + value[len(self.seen) :]
        return value

    def shown(self, device: torch.device) -> torch.device:
        if device.type != self.real:
            return device
        return torch.device(self.seen, device.index) if device.index is not None else torch.device(self.seen)

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of torch that is no tensor function, with devices translated on the way in."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return function(*[self.there(a) for a in args], **{key: self.there(value) for key, value in kwargs.items()})

        return call


# Classes of torch.cuda that are made for a device.
_PLACED = frozenset({"Stream", "Event", "ExternalStream", "device", "StreamContext"})


def _class(mode: Named, original: type) -> type:
    """The class with devices translated where one is made; what it makes is of the original, and counts as of this."""

    class Same(type(original)):  # type: ignore[misc]
        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, original)

    make = mode.wrap(original)
    return Same(original.__name__, (original,), {"__new__": lambda cls, *args, **kwargs: make(*args, **kwargs)})


class Twin(ModuleType):
    """The plug-in's module: whatever torch.cuda has, under the plug-in's name."""

    def __init__(self, name: str, mode: Named, under: ModuleType) -> None:
        super().__init__(name)
        self.__dict__["_mode"], self.__dict__["_under"] = mode, under

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        # A plug-in's classes of torch.cuda bear its own name: NPUGraph.
        try:
            found = getattr(self._under, name.replace(self._mode.spoken.upper(), "CUDA"))
        except AttributeError:
            raise AttributeError(f"module 'torch.{self._mode.spoken}' has no attribute '{name}'") from None
        if isinstance(found, type):
            return _class(self._mode, found) if name in _PLACED else found
        return self._mode.wrap(found) if callable(found) else found

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


def install(seen: str, real: str, imports: tuple[str, ...] = ()) -> Named:
    """Give the program the name `seen` for `real`, and stand-ins for the modules that the plug-in is imported by."""
    name = seen if _is_known(seen) else ALIAS
    mode = Named(name, real, hides=real != "cpu", spoken=seen)
    if seen != "cuda":
        twin = Twin(f"torch.{seen}", mode, torch.cuda)
        setattr(torch, seen, twin)
        sys.modules[f"torch.{seen}"] = twin
        if not hasattr(torch, name):
            torch._register_device_module(name, twin)
        else:
            setattr(torch, name, twin)
        for plugin in imports:
            _stand_in(plugin)
        torch.accelerator.current_accelerator = lambda check_available=False: torch.device(name)
        _no_cuda_sources(seen)
        if real != "cpu":
            _accelerate(mode)
    _data_parallel(mode)
    if name != seen:
        _read_as(seen, name)
    _translate(mode)
    mode.__enter__()
    return mode


# torch.accelerator -> the function of torch.cuda that does it. Its own would look for the plug-in's C++ half.
_ACCELERATOR = {
    "synchronize": "synchronize", "set_device_index": "set_device", "current_device_index": "current_device",
    "current_stream": "current_stream", "set_stream": "set_stream", "empty_cache": "empty_cache",
    "memory_allocated": "memory_allocated", "max_memory_allocated": "max_memory_allocated",
    "memory_reserved": "memory_reserved", "max_memory_reserved": "max_memory_reserved", "memory_stats": "memory_stats",
    "reset_peak_memory_stats": "reset_peak_memory_stats", "get_memory_info": "mem_get_info", "device_index": "device",
}  # fmt: skip


def _accelerate(mode: Named) -> None:
    for name, twin in _ACCELERATOR.items():
        setattr(torch.accelerator, name, mode.wrap(getattr(torch.cuda, twin)))
    pin = torch.Tensor.pin_memory
    torch.Tensor.pin_memory = lambda self, *args: pin(self, torch.device(mode.real))


def _no_cuda_sources(seen: str) -> None:
    """Extensions are built from CUDA C++ where CUDA is: programs meet the error that they would meet on the chip."""
    from torch.utils import cpp_extension

    load = cpp_extension.load

    def built(name: str, sources: Any, *args: Any, **kwargs: Any) -> Any:
        paths = [sources] if isinstance(sources, str) else sources
        if any(str(path).endswith(".cu") for path in paths):
            raise RuntimeError(f"{name}: CUDA C++ cannot be built for {seen}")
        return load(name, sources, *args, **kwargs)

    cpp_extension.load = built


def _data_parallel(mode: Named) -> None:
    """DataParallel goes to the first kind of device that PyTorch finds: ours, and none on the CPU, where it passes calls on."""
    if mode.real != "cpu" and mode.seen == mode.real:
        return
    kind = None if mode.real == "cpu" else mode.seen
    for module in (torch._utils, sys.modules["torch.nn.parallel.data_parallel"]):
        module._get_available_device_type = lambda: kind  # type: ignore[attr-defined]
    if kind is not None:
        torch._utils._get_device_attr = lambda get_member: get_member(torch.cuda)


def _is_known(name: str) -> bool:
    try:
        return torch.device(name).type == name
    except RuntimeError:
        return False


class _Renamed(ast.NodeTransformer):
    """Strings of a program that are a device's name, or begin with one and a colon, under the alias."""

    def __init__(self, seen: str, name: str) -> None:
        self.seen, self.name = seen, name

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        value = node.value
        if isinstance(value, str) and (value == self.seen or value.startswith(f"{self.seen}:")):
            return ast.copy_location(ast.Constant(self.name + value[len(self.seen) :]), node)
        return node


def _read_as(seen: str, name: str) -> None:
    """Every module that says the name is read with it replaced, and never from a cache, but for PyTorch's and our own.

    torch.utils.rename_privateuse1_backend would be shorter, and makes PyTorch look for the plug-in's half in C++."""
    renamed, word = _Renamed(seen, name), re.compile(rf"""["']{re.escape(seen)}["':]""".encode())
    kept = tuple(os.path.dirname(os.path.realpath(str(found))) + os.sep for found in (torch.__file__, anychip.__file__))
    loader = importlib.machinery.SourceFileLoader
    known = loader.get_code

    def get_code(self: Any, fullname: str) -> Any:
        path = os.path.realpath(self.get_filename(fullname))
        data = b"" if path.startswith(kept) else self.get_data(path)
        if not word.search(data):
            return known(self, fullname)
        tree = renamed.visit(ast.parse(data))
        return compile(ast.fix_missing_locations(tree), path, "exec")

    loader.get_code = get_code  # type: ignore[method-assign]
    sys.argv[:] = [
        name + word[len(seen) :] if word == seen or word.startswith(f"{seen}:") else word for word in sys.argv
    ]


def _stand_in(name: str) -> None:
    """An empty module where the plug-in would be; importing it is all that programs need of it here."""
    parts = name.split(".")
    for at in range(1, len(parts) + 1):
        module = ModuleType(".".join(parts[:at]))
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)  # libraries ask whether it is there
        sys.modules.setdefault(module.__name__, module)


def _translate(mode: Named) -> None:
    """Functions and constructors that take a device and are no tensor functions."""
    for owner in (torch.amp.autocast_mode.autocast, torch.amp.grad_scaler.GradScaler):
        owner.__init__ = mode.wrap(owner.__init__)  # type: ignore[method-assign]
    for name in ("get_autocast_dtype", "is_autocast_enabled", "set_autocast_dtype", "load", "set_default_device"):
        setattr(torch, name, mode.wrap(getattr(torch, name)))
    for name in ("get_default_backend_for_device", "init_process_group", "new_group"):
        translated = mode.wrap(getattr(torch.distributed, name))
        setattr(torch.distributed, name, translated)
        setattr(torch.distributed.distributed_c10d, name, translated)
    original = torch.Generator
    torch.Generator = type(
        "Generator", (original,), {"__new__": lambda cls, device="cpu": original(device=mode.there(device))}
    )


def run(argv: list[str]) -> None:
    """The program itself, as `python argv...` runs it, read by the loader that imports its modules."""
    module = argv[0] == "-m"
    sys.argv = argv[1:] if module else argv
    sys.path.insert(0, "" if module else str(Path(argv[0]).resolve().parent))
    spec = importlib.util.find_spec(argv[1]) if module else None
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{argv[1]}.__main__")
    file = spec.origin if spec is not None else str(Path(argv[0]).resolve())
    if file is None or (module and spec is None):
        raise SystemExit(f"no module named {argv[1]}")
    main = ModuleType("__main__")
    main.__dict__.update(__file__=file, __spec__=None, __package__=spec.parent if spec is not None else None)
    sys.modules["__main__"] = main
    code = importlib.machinery.SourceFileLoader("__main__", file).get_code("__main__")
    assert code is not None
    exec(code, main.__dict__)
