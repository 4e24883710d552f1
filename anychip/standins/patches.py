"""Libraries that need a word before they work on a chip that is not there: patched right after their import."""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


def _torchvision(module: ModuleType) -> None:
    from anychip.standins.libraries import torchvision

    torchvision.complete(module)


def _torchaudio(module: ModuleType) -> None:
    """Where its compiled part does not load beside this torch (the index serves one that was built against a CUDA torch), torchaudio goes on
    as where none was built: nearly all of it is Python, and transformers imports it, too."""
    real = getattr(module, "_load_lib", None)
    if real is None:
        return

    def load(lib: str) -> bool:
        try:
            return bool(real(lib))
        except OSError:
            return False

    module._load_lib = load  # type: ignore[attr-defined]


def _triton(module: ModuleType) -> None:
    from anychip.standins.libraries import triton

    triton.patch(module)


def _cpp_extension(module: ModuleType) -> None:
    from anychip.standins import extensions

    extensions.answer_builds(module)


def _hub(module: ModuleType) -> None:
    from anychip.standins import hub

    hub.patch(module)


def _safetensors(module: ModuleType) -> None:
    from anychip.device.files import saved

    saved.keep_safetensors(module)


def _symmetric_memory(module: ModuleType) -> None:
    from anychip.standins import symmetric_memory

    symmetric_memory.patch(module)


def _pipelining(module: ModuleType) -> None:
    """From torch 2.15 on the stages connect pair by pair before the first step, which is no part of any."""
    for name in ("_preconnect_shared_p2p_edges", "_preconnect_p2p_edge_groups"):
        if hasattr(module, name):
            setattr(module, name, lambda *_, **__: None)


def _checkpoints(name: str) -> Callable[[ModuleType], None]:
    def patch(module: ModuleType) -> None:
        from anychip.standins import checkpoints

        getattr(checkpoints, name)(module)

    return patch


def _transformers(module: ModuleType) -> None:
    """A program that asks transformers for FlashAttention by name gets the stand-in: transformers looks for the files of a distribution,
    which a stand-in has none of."""
    from anychip.standins.finder import is_absent

    names = ("is_flash_attn_2_available", "is_flash_attn_greater_or_equal", "is_flash_attn_greater_or_equal_2_10")
    for name in names if not is_absent("flash_attn") else ():
        if hasattr(module, name):
            setattr(module, name, lambda *_, **__: True)


PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "kernels": _hub,
    "safetensors.torch": _safetensors,
    "torch.utils.cpp_extension": _cpp_extension,
    "torch.distributed._shard.sharded_tensor.api": _checkpoints("shard_metadata"),
    "torch.distributed._symmetric_memory": _symmetric_memory,
    "torch.distributed.checkpoint.default_planner": _checkpoints("accept_parts"),
    "torch.distributed.checkpoint.planner_helpers": _checkpoints("read_in_place"),
    "torch.distributed.checkpoint.utils": _checkpoints("plan_alone"),
    "torch.distributed.fsdp._optim_utils": _checkpoints("gather_states"),
    "torch.distributed.pipelining.schedules": _pipelining,
    "torchaudio._extension.utils": _torchaudio,
    "torchvision.extension": _torchvision,
    "transformers.utils.import_utils": _transformers,
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
