"""Stand-in for Triton, and the recording of kernels that the real one launches.

A kernel is not compiled and not run: `kernel[grid](...)` is one op, `triton.<name>`, with the bytes of the tensors that
its source loads and stores, of each no more than all its programs get at where the source tells, and the products of which it
tells. `anychip.kernel` gives it other FLOP.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from anychip.standins import custom, recording
from anychip.standins.libraries.triton_names import LANGUAGE_DTYPES, LANGUAGE_FUNCTIONS, LIBDEVICE
from anychip.standins.libraries.triton_products import products
from anychip.standins.libraries.triton_source import block, defaults, roles

VERSION = "3.4.0"

# What the launcher itself takes, beside a kernel's own parameters.
LAUNCH_OPTIONS = {
    "num_warps", "num_stages", "num_ctas", "warmup", "grid", "stream", "maxnreg", "enable_fp_fusion", "debug",
    "waves_per_eu", "matrix_instr_nonkdim", "kpack", "extern_libs", "launch_cooperative_grid", "launch_pdl",
}  # fmt: skip


def record_launch(function: Any, holder: Any, args: Sequence[Any], kwargs: dict[str, Any], grid: Any = None) -> None:
    """One launch as one op. function: the kernel's Python function; holder: the object that may carry its cost; grid: its programs."""
    names = custom.parameter_names(function)
    given = dict(zip(names, args, strict=False)) | {
        k: v for k, v in kwargs.items() if k in names or k not in LAUNCH_OPTIONS
    }
    bound = given | {name: value for name, value in defaults(function).items() if name not in given}
    tensors = {param: one for param, value in bound.items() if (one := _tensor(value)) is not None}
    if not recording.any_on_chip(list(tensors.values())):
        raise ValueError("Pointer argument cannot be accessed from Triton (cpu tensor?)")
    operands = {param: tensors.get(param, value) for param, value in bound.items()}
    name = f"triton.{function.__name__}"
    read_written = roles(function)
    each = {param: (one, *read_written.get(param, (True, False))) for param, one in tensors.items()}
    numbers = {param: getattr(value, "value", value) for param, value in bound.items()}  # of a constexpr its own
    programs = _programs(grid, numbers)
    most = _most(function, programs, numbers)
    moved = sum(min(extent(one), most * one.element_size()) * (reads + writes) for one, reads, writes in each.values())
    written = tuple(param for param, (_, _, writes) in each.items() if writes)
    cost = getattr(holder, "anychip_cost", None) or custom.COSTS.get(name)
    if cost is not None:
        full = replace(cost, bytes=moved if cost.bytes is None else cost.bytes, mutates=cost.mutates or written)
        custom.record_call(f"custom.{name}", full, (), {param: operands[param] for param in bound if param in names})
        return
    multiplied = products(function, bound, programs) if programs is not None else None
    priced = (f"custom.{name}", (("products", multiplied),)) if multiplied else (name, ())
    recording.launch(
        priced[0], tuple(operands.values()), (), [tensors[param] for param in written], (("bytes", moved), *priced[1])
    )


def _programs(grid: Any, numbers: dict[str, Any]) -> tuple[int, ...] | None:
    """How many programs a launch has along each axis."""
    if callable(grid):
        grid = grid(dict(numbers))
    return None if grid is None else (grid,) if isinstance(grid, int) else tuple(grid)


def _most(function: Any, programs: tuple[int, ...] | None, numbers: dict[str, Any]) -> float:
    """How many elements of a tensor a launch gets at by one line: of a cache it may be few."""
    size = block(function, numbers)
    return math.inf if size is None or programs is None else math.prod(programs) * size


def hand_on(holder: Any) -> None:
    """What the user said of an autotuned kernel is said of the kernel inside."""
    cost = getattr(holder, "anychip_cost", None)
    if cost is not None:
        holder.fn.anychip_cost = cost


def _tensor(value: Any) -> Any:
    """The tensor behind a pointer argument: itself, or what a wrapper or a descriptor of Triton's holds."""
    if isinstance(value, torch.Tensor):
        return value
    base = getattr(value, "base", None)
    return base if isinstance(base, torch.Tensor) else None


def extent(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


# The stand-in --------------------------------------------------------------------------------------------------------


class KernelInterface:
    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        return functools.partial(self.run, grid=grid, warmup=False)

    def run(self, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        raise NotImplementedError


class JITFunction(KernelInterface):
    """What `triton.jit` makes of a function."""

    def __init__(self, fn: Any, **_options: Any) -> None:
        self.fn = fn
        self.__name__, self.__doc__, self.__module__ = fn.__name__, fn.__doc__, fn.__module__
        self.arg_names = list(custom.parameter_names(fn))
        self.hash: Any = None
        self.cache_key = fn.__qualname__

    @functools.cached_property
    def src(self) -> str:
        return inspect.getsource(self.fn)

    def _unsafe_update_src(self, new_src: str) -> None:
        self.__dict__["src"] = new_src

    def run(self, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        if not warmup:
            record_launch(self.fn, self, args, kwargs, grid)

    def warmup(self, *args: Any, grid: Any, **kwargs: Any) -> Any:
        return None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("Cannot call @triton.jit'd outside of the scope of a kernel")


class Config:
    """One choice of an autotuner."""

    def __init__(self, kwargs: dict[str, Any], num_warps: int = 4, num_stages: int = 3, num_ctas: int = 1,
                 maxnreg: int | None = None, pre_hook: Any = None, **_options: Any) -> None:  # fmt: skip
        self.kwargs, self.num_warps, self.num_stages, self.num_ctas = kwargs, num_warps, num_stages, num_ctas
        self.maxnreg, self.pre_hook = maxnreg, pre_hook

    def all_kwargs(self) -> dict[str, Any]:
        return {**self.kwargs, "num_warps": self.num_warps, "num_stages": self.num_stages, "num_ctas": self.num_ctas}


class Autotuner(KernelInterface):
    """Takes its first configuration: nothing is timed, as nothing is run."""

    def __init__(self, fn: Any, configs: list[Config]) -> None:
        self.fn, self.configs = fn, configs
        self.__name__ = getattr(fn, "__name__", "kernel")
        self.arg_names = fn.arg_names
        self.best_config = configs[0] if configs else Config({})

    def run(self, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        hand_on(self)
        return self.fn.run(*args, grid=grid, warmup=warmup, **{**self.best_config.all_kwargs(), **kwargs})


class Heuristics(KernelInterface):
    def __init__(self, fn: Any, values: dict[str, Any]) -> None:
        self.fn, self.values = fn, values
        self.__name__ = getattr(fn, "__name__", "kernel")
        self.arg_names = fn.arg_names

    def run(self, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        bound = dict(zip(self.arg_names, args, strict=False)) | kwargs
        hand_on(self)
        found = {name: value(bound) for name, value in self.values.items()}
        return self.fn.run(*args, grid=grid, warmup=warmup, **{**kwargs, **found})


def jit(fn: Any = None, **options: Any) -> Any:
    return JITFunction(fn, **options) if fn is not None else lambda function: JITFunction(function, **options)


def autotune(configs: list[Config], key: list[str], **_options: Any) -> Callable[[Any], Autotuner]:
    return lambda fn: Autotuner(fn, configs)


def heuristics(values: dict[str, Any]) -> Callable[[Any], Heuristics]:
    return lambda fn: Heuristics(fn, values)


def cdiv(x: int, y: int) -> int:
    return -(-x // y)


def next_power_of_2(n: int) -> int:
    return 1 << max(int(n) - 1, 0).bit_length()


class constexpr:
    def __init__(self, value: Any) -> None:
        self.value = getattr(value, "value", value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __index__(self) -> int:
        return int(self.value)


class dtype:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"triton.language.{self.name}"


def _inside_kernels(name: str) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        raise ValueError(f"Did you forget to add @triton.jit ? ({name} works only inside of a kernel)")

    function.__name__ = name
    return function


def do_bench(fn: Callable[[], Any], warmup: int = 25, rep: int = 100, **options: Any) -> Any:
    """Milliseconds of one call on the virtual clock; it does not vary, so once is enough."""
    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    start.record()
    fn()
    end.record()
    torch.cuda.synchronize()
    elapsed = start.elapsed_time(end)
    quantiles = options.get("quantiles")
    return [elapsed] * len(quantiles) if quantiles else elapsed


class _Driver:
    """What programs ask of `triton.runtime.driver.active`."""

    def __init__(self) -> None:
        self.utils = SimpleNamespace(get_device_properties=_properties)

    def get_current_device(self) -> int:
        return torch.cuda.current_device()

    def set_current_device(self, index: int) -> None:
        torch.cuda.set_device(index)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", torch.cuda.current_device())

    def get_device_interface(self) -> Any:
        return torch.cuda

    def get_current_stream(self, index: int | None = None) -> int:
        return torch.cuda.current_stream(index).cuda_stream

    def get_device_capability(self, index: int = 0) -> tuple[int, int]:
        return torch.cuda.get_device_capability(index)

    def get_current_target(self) -> Any:
        major, minor = self.get_device_capability()
        properties = torch.cuda.get_device_properties()
        return SimpleNamespace(backend="cuda", arch=10 * major + minor, warp_size=properties.warp_size)

    def get_empty_cache_for_benchmark(self) -> torch.Tensor:
        return torch.empty(256 << 20, dtype=torch.int8, device="cuda")

    def clear_cache(self, cache: torch.Tensor) -> None:
        cache.zero_()

    def get_benchmarker(self) -> Any:
        return do_bench


def _properties(index: int = 0) -> dict[str, Any]:
    """Triton's own names for what torch says; the two shared-memory and register figures are those of sm_80 and later."""
    chip: Any = torch.cuda.get_device_properties(index)
    return {"multiprocessor_count": chip.multi_processor_count, "warpSize": chip.warp_size,
            "max_shared_mem": chip.shared_memory_per_block_optin, "max_num_regs": chip.regs_per_multiprocessor}  # fmt: skip


def served() -> None:
    """Called when a program gets the stand-in: torch must not take it for a compiler."""
    import torch.utils._triton as torch_triton

    torch_triton.has_triton_package = lambda: False  # type: ignore[assignment]


# The real Triton -----------------------------------------------------------------------------------------------------


def patch(module: ModuleType) -> None:
    """Record what the installed Triton would launch; called after one of its modules is imported."""
    if module.__name__ == "triton.runtime.jit":
        module.JITFunction.run = _real_run
    elif module.__name__ == "triton.runtime.autotuner":
        module.Autotuner.run = _real_autotuner_run
        module.Heuristics.run = _handing_on(module.Heuristics.run)
    elif module.__name__ == "triton.testing":
        module.do_bench = do_bench  # type: ignore[attr-defined]
        module.do_bench_cudagraph = do_bench  # type: ignore[attr-defined]
    else:
        module.driver.set_active(_Driver())


def _handing_on(run: Callable[..., Any]) -> Callable[..., Any]:
    def handing_on(kernel: Any, *args: Any, **kwargs: Any) -> Any:
        hand_on(kernel)
        return run(kernel, *args, **kwargs)

    return handing_on


def _real_run(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
    if not warmup:
        record_launch(kernel.fn, kernel, args, kwargs, grid)


def _real_autotuner_run(tuner: Any, *args: Any, **kwargs: Any) -> Any:
    config = tuner.configs[0] if tuner.configs else None
    choice = config.all_kwargs() if config is not None else {}
    hand_on(tuner)
    return tuner.fn.run(*args, **{**choice, **kwargs})


@dataclass
class TensorDescriptor:
    """A tensor and the block that a kernel reads or writes of it at a time."""

    base: Any
    shape: list[int]
    strides: list[int]
    block_shape: list[int]
    padding: str = "zero"

    @staticmethod
    def from_tensor(tensor: Any, block_shape: list[int], padding: str = "zero") -> "TensorDescriptor":
        return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), list(block_shape), padding)


def set_allocator(allocator: Callable[[int, int, int | None], Any]) -> None:
    """Memory for descriptors made inside kernels: a few hundred bytes, which are not asked for here."""


_DRIVER = SimpleNamespace(active=_Driver())
_TESTING: dict[str, Any] = {"do_bench": do_bench, "do_bench_cudagraph": do_bench}
_JIT = {"JITFunction": JITFunction, "KernelInterface": KernelInterface, "jit": jit}
_TUNER = {
    "Autotuner": Autotuner,
    "Heuristics": Heuristics,
    "Config": Config,
    "autotune": autotune,
    "heuristics": heuristics,
}
_LANGUAGE: dict[str, Any] = {
    **{name: _inside_kernels(name) for name in LANGUAGE_FUNCTIONS}, **{name: dtype(name) for name in LANGUAGE_DTYPES},
    "constexpr": constexpr, "dtype": dtype, "cdiv": cdiv,
}  # fmt: skip
_LIBDEVICE = {name: _inside_kernels(name) for name in LIBDEVICE}

MODULES: dict[str, dict[str, Any]] = {
    "triton": {
        **_TUNER,
        **_JIT,
        "cdiv": cdiv,
        "next_power_of_2": next_power_of_2,
        "set_allocator": set_allocator,
    },
    "triton.tools.tensor_descriptor": {"TensorDescriptor": TensorDescriptor},
    "triton.language": _LANGUAGE,
    "triton.language.math": _LIBDEVICE,
    "triton.language.extra.libdevice": _LIBDEVICE,
    "triton.language.extra.cuda.libdevice": _LIBDEVICE,
    "triton.runtime": {"driver": _DRIVER, **_JIT, **_TUNER},
    "triton.runtime.jit": _JIT,
    "triton.runtime.autotuner": _TUNER,
    "triton.testing": _TESTING,
}

UNCOVERED: dict[str, tuple[str, ...]] = {
    "triton": (
        "compile",
        "compiler",
        "backends",
        "knobs",
        "profiler",
        "TensorWrapper",
        "reinterpret",
    ),
    "triton.testing": ("perf_report", "Benchmark", "assert_close", "get_dram_gbps", "get_max_tensorcore_tflops"),
    "triton.runtime": ("cache", "build", "errors", "interpreter"),
}
