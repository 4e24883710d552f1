"""`torch.compile` on a virtual chip: the function runs as it is, and what it did is marked as compiled.

Which of its ops a compiler would fuse is decided when the recording is priced (`cost.fusion`), from the
blocks that each op reads and writes. Nothing is compiled here: that takes minutes and a real chip.
"""

import inspect
import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch

from anychip.device.runtime import Runtime

UNFUSED = ("eager", "aot_eager")
GRAPHS = "cudagraphs"  # captures a function's kernels as they are
GRAPHED_MODES = ("reduce-overhead", "max-autotune")
TUNED_MODE = "max-autotune"  # with and without graphs
TUNES = "coordinate_descent_tuning"  # Inductor's setting, which that mode has on


class Compiled(torch.nn.Module):
    """What `torch.compile(module)` returns: the module, with its calls marked. As torch's, it keeps the
    original in `_orig_mod`, through which its state has its names."""

    def __init__(self, module: torch.nn.Module, region: Callable[..., Any]) -> None:
        super().__init__()
        self._orig_mod = module
        object.__setattr__(self, "_region", region)
        self.training = module.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._region(self._orig_mod, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "_orig_mod":
            return self._modules["_orig_mod"]
        return getattr(self._modules["_orig_mod"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if (
            name in ("_orig_mod", "_modules", "_parameters", "_buffers")
            or "_modules" not in self.__dict__
            or "_orig_mod" not in self._modules
        ):
            super().__setattr__(name, value)
        else:
            setattr(self._orig_mod, name, value)

    def train(self, mode: bool = True) -> "Compiled":
        self._orig_mod.train(mode)
        return self


def _fuse_nothing(setter: str, getter: str) -> None:
    """Turn one of TorchScript's fusers off for good: a CUDA build's compile for a real chip. What the program sets is kept."""
    if not hasattr(torch._C, setter):
        return
    kept = [getattr(torch._C, getter)()]
    getattr(torch._C, setter)(False)
    setattr(torch._C, setter, lambda on: kept.__setitem__(0, on))
    setattr(torch._C, getter, lambda: kept[0])


def _gradients_by_place(runtime: Runtime) -> None:
    """Of what the backward of an `autograd.Function` in a compiled function returns, dynamo takes the gradients of tensors, each by
    its place: one too few or too many for the other arguments is no error there, as it is where nothing is compiled."""
    node_class = torch.autograd.function.BackwardCFunction
    original = node_class.apply

    @wraps(original)
    def apply(node: Any, *args: Any) -> Any:
        found = original(node, *args)
        if not runtime.regions.of_node():
            return found
        gradients, wanted = found if isinstance(found, tuple) else (found,), node.needs_input_grad
        if any(wanted[len(gradients) :]):
            return found  # one is missing: torch says so
        return (gradients + (None,) * len(wanted))[: len(wanted)]

    node_class.apply = apply  # type: ignore[method-assign]


def install(runtime: Runtime) -> None:
    """Put our `torch.compile` and `nn.Module.compile` in place of torch's; TorchScript compiles no kernels."""
    _gradients_by_place(runtime)
    _fuse_nothing("_jit_override_can_fuse_on_gpu", "_jit_can_fuse_on_gpu")
    _fuse_nothing("_jit_set_texpr_fuser_enabled", "_jit_texpr_fuser_enabled")

    def region(function: Callable[..., Any], args: Any, kwargs: Any, graphed: bool = False, tuned: bool = False) -> Any:
        runtime.regions.begin(graphed, tuned or bool(getattr(sys.modules.get("torch._inductor.config"), TUNES, False)))
        try:
            return function(*args, **kwargs)
        finally:
            runtime.regions.end()

    def graph(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        runtime.regions.begin_graph()
        try:
            return function(*args, **kwargs)
        finally:
            runtime.regions.end_graph()

    def compile(
        model: Any = None, *, backend: Any = "inductor", mode: str | None = None, disable: bool = False, **options: Any
    ) -> Any:
        if model is None:
            return lambda function: compile(function, backend=backend, mode=mode, disable=disable, **options)
        if disable or backend in UNFUSED:
            return model
        if isinstance(model, type):  # a class stays one: what is compiled is what its objects do when they are called
            called: Any = model
            name = "_call_impl" if issubclass(model, torch.nn.Module) else "__call__"
            if inspect.isfunction(own := getattr(model, name, None)):
                setattr(called, name, compile(own, backend=backend, mode=mode, **options))
            return model
        graphed = (mode or "").removesuffix("-no-cudagraphs") in GRAPHED_MODES and not (mode or "").endswith(
            "no-cudagraphs"
        )
        graphed = graphed or bool((options.get("options") or {}).get("triton.cudagraphs"))
        tuned = (mode or "").startswith(TUNED_MODE) or bool((options.get("options") or {}).get(TUNES))
        run = graph if backend == GRAPHS else partial(region, graphed=graphed, tuned=tuned)
        if isinstance(model, torch.nn.Module):
            return Compiled(model, run)

        @wraps(model)
        def compiled(*args: Any, **kwargs: Any) -> Any:
            return run(model, args, kwargs)

        compiled._torchdynamo_orig_callable = model  # type: ignore[attr-defined]
        return compiled

    def compile_module(module: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        marked = compile(module._call_impl, *args, **kwargs)
        module._compiled_call_impl = marked

    torch.compile = compile  # type: ignore[assignment]
    torch.nn.Module.compile = compile_module  # type: ignore[method-assign,assignment]
