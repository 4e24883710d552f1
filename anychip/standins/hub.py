"""Kernels of the Hugging Face Hub (`kernels.get_kernel`): of a library that has a stand-in, the stand-in is what comes.

They are compiled for one kind of chip and one build of torch, and run on no virtual chip. Others are left to the library.
"""

import importlib
import re
from types import ModuleType
from typing import Any

from anychip.standins.finder import LIBRARIES, is_absent, modules_of, told_of

# part of a repository's name -> the library that its kernels are of
HUB = {
    "flash_attn": "flash_attn", "flash_attention": "flash_attn", "causal_conv1d": "causal_conv1d",
    "mamba_ssm": "mamba_ssm",
}  # fmt: skip


def library_of(repository: str) -> str | None:
    """`kernels-community/flash-attn3` -> flash_attn; None where there is no stand-in, or it is to be absent."""
    name = re.sub(r"\W", "_", repository.rpartition("/")[2].lower())
    library = next((library for part, library in HUB.items() if part in name), None)
    return None if library is None or is_absent(library) else library


def module_of(library: str) -> ModuleType:
    """A stand-in's names without an import of it: who gets a kernel of the Hub does not find the library installed."""
    made: dict[str, ModuleType] = {}
    tables = modules_of(importlib.import_module(f"anychip.standins.libraries.{LIBRARIES[library].file}"))
    for fullname in sorted(tables):  # (packages before what is in them)
        made[fullname] = ModuleType(fullname)
        made[fullname].__dict__.update(told_of(library, tables[fullname]))
        parent, _, name = fullname.rpartition(".")
        if parent:
            setattr(made[parent], name, made[fullname])
    return made[library]


def patch(module: Any) -> None:
    """Put these before the two functions by which programs ask the Hub."""
    get_kernel, has_kernel = module.get_kernel, module.has_kernel

    def get(repo_id: str, *args: Any, **options: Any) -> Any:
        library = library_of(repo_id)
        return get_kernel(repo_id, *args, **options) if library is None else module_of(library)

    def has(repo_id: str, *args: Any, **options: Any) -> Any:
        return library_of(repo_id) is not None or has_kernel(repo_id, *args, **options)

    module.get_kernel, module.has_kernel = get, has
