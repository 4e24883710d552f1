"""The rules: one file each, with what it does, code that it must not touch (VALID) and code that it edits (INVALID).

A rule is a module with `run(unit)`, which calls `unit.change` and `unit.leave`. Its name is the file's, with dashes. Tests
and docs/port.md are made from the cases. Rules run in the order of `ORDER`, because the first to edit a place has it.
"""

import importlib
from functools import cache
from types import ModuleType

ORDER = (
    "cuda_method",
    "amp",
    "legacy_tensor",
    "attention",
    "fused",
    "lightning_accelerator",
    "device_string",
    "is_cuda",
    "cuda_api",
    "collective_backend",
    "profiler_activity",
    "environment",
    "settings",
    "kernel",
    "library",
)


@cache
def rules() -> tuple[ModuleType, ...]:
    return tuple(importlib.import_module(f"{__name__}.{name}") for name in ORDER)


def name_of(rule: ModuleType) -> str:
    """device_string -> device-string, as reports and `# anychip: ignore[...]` write it."""
    return rule.__name__.rpartition(".")[2].replace("_", "-")
