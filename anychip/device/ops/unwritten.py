"""Weights that a program makes on the host: where random numbers would fill many, their memory stays unwritten.

A chip gets none of these numbers. A model of 7B parameters that is made there and moved took 28 GB of the machine that forecasts, and minutes of
random numbers in each process. Memory that nobody has written takes none, and reads as zeros. What is converted, cloned or
scaled of it stays so; what is loaded into it is written, as is whatever else is done with it: the kernel knows of which
pages (pagemap of proc(5)), whoever wrote them, and these are converted, cloned and scaled.
"""

import re
from collections.abc import Callable, Iterator
from functools import wraps
from mmap import PAGESIZE
from typing import Any

import torch
from torch.nn import Module, Parameter

from anychip.device.runtime import Runtime

# Bytes from which on memory that is asked for is fresh, of zeros: glibc takes no more than this from what was given back
# (M_MMAP_THRESHOLD of mallopt(3), which grows to 32 MiB).
LEAST = 1 << 25
PLAIN = (torch.Tensor, Parameter)
FILLS = ("normal_", "uniform_")
SCALES = ("mul_", "div_", "add_", "erfinv_", "clamp_")  # by depths of layers, and libraries' own `trunc_normal_`
# By the highest byte of a page's entry: 1 where it is swapped or of this process alone, 2 where it is shared, as the
# page of zeros is that stands for those which were only read.
PAGES = bytes(0 if byte < 1 << 6 else 1 if byte & (1 << 6 | 1) else 2 for byte in range(256))
RUNS = re.compile(b"\1+|\2{1,1024}")
CASTS = {"half": torch.float16, "bfloat16": torch.bfloat16, "float": torch.float32, "double": torch.float64}


def install(runtime: Runtime) -> None:
    del runtime
    methods = torch.Tensor
    for name in FILLS:
        _before(methods, name, _fill)
    _before(torch.nn.init, "_no_grad_trunc_normal_", _fill)  # torch's draws until all are inside
    for name in SCALES:
        _before(methods, name, _scale(name))
    for name in (*CASTS, "to", "clone"):
        _before(methods, name, _made_of(name))
    _before(methods, "copy_", _copy)
    original = Module.register_parameter

    @wraps(original)
    def register_parameter(self: Module, name: str, param: Parameter | None) -> None:
        original(self, name, param)
        if param is not None and (storage := _storage(param)) is not None and not hasattr(storage, "unwritten"):
            storage.unwritten = False  # it may hold what the program has computed

    Module.register_parameter = register_parameter  # type: ignore[method-assign]


def _before(owner: Any, name: str, function: Callable[..., torch.Tensor | None]) -> None:
    """Where `function` has a result it is that of the method, or of a function of a tensor."""
    original = getattr(owner, name)

    @wraps(original)
    def method(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        # A mode is asked about the method alone, and calls it again without itself.
        own = type(self) in PLAIN and not torch._C._is_torch_function_mode_enabled()
        if own and self.is_cpu and (result := function(self, *args, **kwargs)) is not None:
            return result
        return original(self, *args, **kwargs)

    setattr(owner, name, method)


def _storage(tensor: torch.Tensor) -> Any:
    """Of many numbers of the host, else None."""
    if type(tensor) not in PLAIN or not tensor.is_cpu or tensor.layout != torch.strided:
        return None
    if not tensor.is_floating_point() or tensor.numel() * tensor.element_size() < LEAST:
        return None
    try:
        return tensor.untyped_storage()
    except RuntimeError:  # one of torch.func has none
        return None


def _is_unwritten(tensor: torch.Tensor) -> bool:
    return getattr(_storage(tensor), "unwritten", False) and tensor.is_contiguous()


def _written(tensor: torch.Tensor) -> Iterator[tuple[int, int]]:
    """From which element up to which its pages have been written; all where the system does not tell."""
    start, size, flat = tensor.data_ptr(), tensor.element_size(), tensor.detach().view(-1)
    first = start // PAGESIZE
    try:
        with open("/proc/self/pagemap", "rb") as pages:
            pages.seek(first * 8)
            entries = pages.read((-(-(start + tensor.nbytes) // PAGESIZE) - first) * 8)
    except OSError:
        entries = b""
    if not entries or tensor.is_shared():  # other processes' pages are not in it
        yield 0, tensor.numel()
        return
    for run in RUNS.finditer(entries[7::8].translate(PAGES)):
        begin, end = ((first + page) * PAGESIZE - start for page in run.span())
        begin, end = max(begin // size, 0), min(-(-end // size), tensor.numel())
        if run[0][0] == 1 or flat[begin:end].any():
            yield begin, end


def _fill(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor | None:
    storage = _storage(tensor)
    if storage is None or not (hasattr(storage, "unwritten") or isinstance(tensor, Parameter)):
        return None  # data of the program's
    storage.unwritten = tensor.nbytes == storage.nbytes()  # a part says nothing of the others
    return tensor


def _scale(name: str) -> Callable[..., torch.Tensor | None]:
    original = getattr(torch.Tensor, name)

    def scaled(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor | None:
        others = (*args, *kwargs.values())
        if not _is_unwritten(tensor) or any(isinstance(one, torch.Tensor) for one in others):
            return None
        flat = tensor.detach().view(-1)
        for begin, end in _written(tensor):
            original(flat[begin:end], *args, **kwargs)
        return tensor

    return scaled


def _copy(tensor: torch.Tensor, source: Any, *_: Any, **__: Any) -> torch.Tensor | None:
    """Weights of one model that are those of another (averaged ones) stay unwritten, too."""
    if not (_is_unwritten(tensor) and isinstance(source, torch.Tensor) and _is_unwritten(source)):
        return None
    if tensor.shape != source.shape:
        return None
    _copy_written(tensor, source, *_written(tensor))
    return tensor


def _copy_written(tensor: torch.Tensor, source: torch.Tensor, *overwritten: tuple[int, int]) -> None:
    to, of = tensor.detach().view(-1), source.detach().view(-1)
    for begin, end in (*overwritten, *_written(source)):
        to[begin:end] = of[begin:end]


def _made_of(name: str) -> Callable[..., torch.Tensor | None]:
    def made(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor | None:
        if not _is_unwritten(tensor) or (tensor.requires_grad and torch.is_grad_enabled()):
            return None
        dtype: torch.dtype | None = CASTS.get(name, tensor.dtype)
        if name == "to":
            kwargs.pop("copy", None)
            device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
            if device is not None and device.type != "cpu":
                return None
        dtype = dtype or tensor.dtype
        if (dtype == tensor.dtype and name != "clone") or tensor.numel() * dtype.itemsize < LEAST:
            return None
        result = torch.empty_like(tensor, dtype=dtype, device="cpu", requires_grad=False)
        if (storage := _storage(result)) is not None:
            storage.unwritten = True
        _copy_written(result, tensor)
        return result

    return made
