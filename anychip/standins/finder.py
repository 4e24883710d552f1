"""The import hook: serves a stand-in where a program imports a library that is not installed, or whose kernels are native
code, which runs on no virtual chip.

For the others it stands behind all other finders, so an installed package wins; nothing is written to disk.
`LIBRARIES` is the list; each row names the file of `libraries` that has the names (`MODULES`) and the version that it follows.
$ANYCHIP_WITHOUT names those (by commas) that are to be absent, for a program that takes another path without them.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from anychip.standins import recording
from anychip.standins.guarded import asked_by_find_spec, hidden, is_installed
from anychip.standins.telling import telling


@dataclass(frozen=True)
class Library:
    """A library with a stand-in. file: module of `libraries`; priced: how its work is priced, for the report."""

    file: str
    priced: str
    key: str = ""  # in a platform's [libraries]; the name itself where empty
    native: bool = False  # its kernels are compiled: served in place of an installed one too
    tells: bool = True  # the report names it at its first use; False where each kernel is named by itself
    serves: tuple[str, ...] = ()  # installed packages that are written for it: to them it is there, as to the program


# Trainers that come as packages: on a machine with a GPU they run with these libraries, without them on slower paths.
TRAINERS = ("megatron", "nemo")
# The same, where models are written for a library and fall back to a path that nobody trains with.
MODELS = (*TRAINERS, "transformers", "mamba_ssm")

LIBRARIES: dict[str, Library] = {
    "flash_attn": Library(
        "flash_attn", "its attention is priced as torch's fused attention", native=True, serves=("transformers",)
    ),
    "flash_attn_interface": Library(
        "flash_attn_interface", "its attention is priced as torch's fused attention", "flash_attn", native=True
    ),
    **{
        name: Library(
            "flash_attn_csrc", "its kernels are priced by FLOP and bytes as fused ones", "flash_attn", native=True
        )
        for name in ("rotary_emb", "xentropy_cuda_lib", "dropout_layer_norm")
    },
    "apex": Library("apex", "its optimizers and norms are priced as torch's fused ones", serves=TRAINERS, native=True),
    "amp_C": Library("amp_c", "its list kernels are priced as torch's", "apex", serves=TRAINERS, native=True),
    "fused_weight_gradient_mlp_cuda": Library(
        "wgrad", "its products are priced as torch's", "apex", serves=TRAINERS, native=True
    ),
    **{
        name: Library(
            "softmax", "its kernels are priced by FLOP and bytes as fused ones", "apex", native=True, serves=TRAINERS
        )
        for name in ("scaled_upper_triang_masked_softmax_cuda", "scaled_masked_softmax_cuda", "scaled_softmax_cuda")
    },
    "xformers": Library("xformers", "its attention is priced as torch's fused attention", native=True),
    "bitsandbytes": Library(
        "bitsandbytes", "its optimizers are priced by bytes, its layers as products of torch's", native=True
    ),
    "transformer_engine": Library(
        "transformer_engine", "its layers are priced as torch's products and norms", native=True, serves=TRAINERS
    ),
    "liger_kernel": Library("liger_kernel", "its kernels are priced by FLOP and bytes as fused ones"),
    "mamba_ssm": Library(
        "mamba_ssm", "its scans are priced by the products and bytes of their kernels", serves=MODELS, native=True
    ),
    "causal_conv1d": Library(
        "causal_conv1d", "its convolutions are priced by FLOP and bytes", serves=MODELS, native=True
    ),
    "grouped_gemm": Library(
        "grouped_gemm", "its products are priced as torch's", serves=(*TRAINERS, "megablocks"), native=True
    ),
    "adam_atan2": Library("adam_atan2", "its optimizer is priced by FLOP and bytes as a fused one", native=True),
    "deepspeed": Library("deepspeed", "its fused optimizers are priced as torch's"),
    "triton": Library("triton", "its kernels are priced by the bytes of their tensors", tells=False),
    "cupy": Library("cupy", "its raw kernels are priced by the bytes of their tensors", tells=False, native=True),
}


# Libraries without a stand-in that work here once they are installed: how.
NEEDED = {
    "torchvision": "No module named 'torchvision': install the release for this torch without its dependencies "
    "(python -m pip install --no-deps torchvision pillow); any build will do, anychip supplies the compiled operators.",
}


@cache
def installed(name: str) -> bool:
    """Whether a package of that name lies where packages are installed."""
    spec = importlib.machinery.PathFinder.find_spec(name)
    return spec is not None and is_installed(spec.origin or "")


def is_absent(library: str) -> bool:
    """Whether the user wants the program to find no such library."""
    return library in os.environ.get("ANYCHIP_WITHOUT", "").split(",")


def spec_of(fullname: str) -> importlib.machinery.ModuleSpec | None:
    """Of a stand-in's module; None where no stand-in is to be served. Raises ImportError for what it lacks."""
    top = fullname.partition(".")[0]
    library = None if is_absent(top) else LIBRARIES.get(top)
    if library is None or (fullname == top and not installed(top) and hidden(library.serves)):
        return None
    if fullname != top and not hasattr(sys.modules.get(top), "__anychip__"):
        return None  # a module that an installed library lacks is not ours to add
    file = importlib.import_module(f"anychip.standins.libraries.{library.file}")
    tables = modules_of(file)
    if fullname in tables:
        return importlib.machinery.ModuleSpec(fullname, Loader(fullname, top, file), is_package=True)
    parent, _, name = fullname.rpartition(".")
    if name in getattr(file, "UNCOVERED", {}).get(parent, ()):
        raise ImportError(not_covered(top, fullname), name=fullname)
    raise ModuleNotFoundError(not_covered(top, fullname), name=fullname)


class NativeFinder(importlib.abc.MetaPathFinder):
    """Finds stand-ins for libraries of native code that are installed; the first finder of the process."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        top = fullname.partition(".")[0]
        library = LIBRARIES.get(top)
        return spec_of(fullname) if library is not None and library.native and installed(top) else None


class Finder(importlib.abc.MetaPathFinder):
    """Finds stand-ins for libraries that are not installed; the last finder of the process."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in NEEDED and not asked_by_find_spec():
            raise ModuleNotFoundError(NEEDED[fullname], name=fullname)
        return spec_of(fullname)


def modules_of(file: ModuleType) -> Mapping[str, Mapping[str, Any]]:
    """Module name -> its names; packages that lie between are empty modules."""
    tables: dict[str, Mapping[str, Any]] = dict(file.MODULES)
    for name in list(tables):
        while "." in name:
            name = name.rpartition(".")[0]
            tables.setdefault(name, {})
    return tables


def told_of(top: str, names: Mapping[str, Any]) -> Mapping[str, Any]:
    """Names of a library that the report tells of once one of them is used."""
    if not LIBRARIES[top].tells:
        return names
    return {name: telling(value, top, lambda: _warn(top)) for name, value in names.items()}


class Loader(importlib.abc.Loader):
    def __init__(self, fullname: str, top: str, file: ModuleType) -> None:
        self.fullname, self.top, self.file = fullname, top, file

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__.update(told_of(self.top, modules_of(self.file)[self.fullname]))
        module.__dict__["__anychip__"] = True
        module.__dict__["__getattr__"] = _missing(self.top, self.fullname, self.file)
        if self.fullname == self.top:
            module.__dict__["__version__"] = f"{_version(self.top) or self.file.VERSION}+anychip"
            served = getattr(self.file, "served", None)
            if served is not None:
                served()


def _missing(top: str, fullname: str, file: ModuleType) -> Callable[[str], Any]:
    uncovered = getattr(file, "UNCOVERED", {}).get(fullname, ())
    submodules = modules_of(file)

    def __getattr__(name: str) -> Any:
        if f"{fullname}.{name}" in submodules:
            return importlib.import_module(f"{fullname}.{name}")
        if name in uncovered:
            raise AttributeError(not_covered(top, f"{fullname}.{name}"))
        raise AttributeError(f"module {fullname!r} has no attribute {name!r}")

    return __getattr__


def _version(top: str) -> str | None:
    """Of the installed library that the stand-in is served in place of; a local part ("+cu12") gives way."""
    try:
        return importlib.metadata.version(top).partition("+")[0] if installed(top) else None
    except importlib.metadata.PackageNotFoundError:
        return None


def absence(top: str) -> str:
    """Why a stand-in is served."""
    return f"the kernels of {top} run on no virtual chip" if installed(top) else f"{top} is not installed"


def not_covered(top: str, name: str) -> str:
    remedy = "" if LIBRARIES[top].native else f"; install {top} to use it"
    return f"{absence(top)}, and anychip's stand-in for it does not cover {name}{remedy}."


def _warn(top: str) -> None:
    """Say in the report what was priced in place of the library, as far as the chip's platform file knows."""
    runtime, library = recording.runtime(), LIBRARIES[top]
    if runtime is None:
        return
    platform = runtime.chip.platform
    inside = platform.libraries.get(library.key or top)
    where = f" ({platform.id} has none)" if inside == "none" else ""
    if inside not in ("none", "sdpa", "torch", "triton", None):
        where = f" ({platform.id} has {inside} for it)"
    runtime.recorder.warn(f"{absence(top)}{where}: {library.priced}")
