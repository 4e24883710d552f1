"""Libraries that need a word before they work on a chip that is not there: patched right after their import."""

import importlib.abc
import importlib.machinery
import inspect
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


def _torchvision(module: ModuleType) -> None:
    from anychip.standins import torchvision

    torchvision.complete(module)


def _triton(module: ModuleType) -> None:
    from anychip.standins import triton

    triton.patch(module)


def _cpp_extension(module: ModuleType) -> None:
    from anychip.standins import extensions

    extensions.answer_builds(module)


def _hub(module: ModuleType) -> None:
    from anychip.standins import hub

    hub.patch(module)


def _pipelining(module: ModuleType) -> None:
    """From torch 2.15 on the stages connect pair by pair before the first step, which is no part of any."""
    for name in ("_preconnect_shared_p2p_edges", "_preconnect_p2p_edge_groups"):
        if hasattr(module, name):
            setattr(module, name, lambda *_, **__: None)


def _optimizer_states(module: ModuleType) -> None:
    """FullyShardedDataParallel asks all ranks which parameters they hold state of. Ranks that are not run would answer as this
    one does, which holds a part of a few; together they hold all that are trained."""
    mapped, gathered = module._map_param_key_to_optim_keys, module._allgather_state_info

    def map_all(*args: Any, **options: Any) -> Any:
        keys, own = mapped(*args, **options)
        given = inspect.signature(mapped).bind(*args, **options).arguments
        if given.get("merge_keys"):
            managed = given["fqn_to_fsdp_param_info"]
            keys = sorted(
                {*keys, *(module._OptimStateKey((name,), True) for name in managed if _is_trained(name, managed))}
            )
        return keys, own

    def gather_all(state: Any, input_states: dict[str, Any]) -> Any:
        ranks = gathered(state, input_states)
        mine, another = ranks[state.rank], (state.rank + 1) % len(ranks)
        known = next((info for info in mine.values() if info.tensors), None)
        if known is not None:
            ranks[another] = {name: info if info.tensors else known for name, info in mine.items()}
        return ranks

    module._map_param_key_to_optim_keys, module._allgather_state_info = map_all, gather_all  # type: ignore[attr-defined]


def _is_trained(name: str, managed: Any) -> bool:
    info = managed[name]
    trained = info.param_requires_grad  # empty where parameters are flat, of which every rank holds a part
    return not trained or bool(trained[info.param_indices[name]])


PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "kernels": _hub,
    "torch.utils.cpp_extension": _cpp_extension,
    "torch.distributed.fsdp._optim_utils": _optimizer_states,
    "torch.distributed.pipelining.schedules": _pipelining,
    "torchvision.extension": _torchvision,
    "triton.runtime.autotuner": _triton,
    "triton.runtime.driver": _triton,
    "triton.runtime.jit": _triton,
    "triton.testing": _triton,
}


# Modules of torch that look whether Triton is there: they must not find the stand-in, which compiles nothing.
WITHOUT_TRITON = frozenset({"torch._inductor.runtime.triton_compat"})


class AfterImport(importlib.abc.MetaPathFinder):
    """Finds what the other finders find, and calls a patch once the module has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        patch = PATCHES.get(fullname)
        if patch is None and fullname not in WITHOUT_TRITON:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None and not _ours(spec.loader):
                    spec.loader = _Patched(spec.loader, patch) if patch else _WithoutTriton(spec.loader)
                return spec
        return None


def _ours(loader: Any) -> bool:
    return type(loader).__module__.startswith("anychip.")


class _Wrapped(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self.loader.create_module(spec)
        return module

    def __getattr__(self, name: str) -> Any:  # resources, source, and whatever else is asked of a loader
        return getattr(self.loader, name)


class _Patched(_Wrapped):
    def __init__(self, loader: Any, patch: Callable[[ModuleType], None]) -> None:
        super().__init__(loader)
        self.patch = patch

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        self.patch(module)


class _WithoutTriton(_Wrapped):
    def exec_module(self, module: ModuleType) -> None:
        kept = sys.modules.get("triton")
        if kept is None or not hasattr(kept, "__anychip__"):
            self.loader.exec_module(module)
            return
        modules: dict[str, Any] = sys.modules
        modules["triton"] = None  # how Python says: not there
        try:
            self.loader.exec_module(module)
        finally:
            sys.modules["triton"] = kept
