"""anychip: how would this PyTorch program run on another vendor's chip?

The public names, imported when first used: importing anychip imports no torch and starts no accelerator.

    import anychip

    program = anychip.record(["train.py", "--batch-size", "32"], on="h100")   # runs it, shapes only
    answer = anychip.forecast(program, on=["h100", "ascend-910b"])            # prices it, milliseconds
    print(answer.forecasts[1].step_time_s)

`record`, `forecast` and `port` are packages of this one as well as its verbs: calling the package calls the verb, so
`anychip.record(...)` means the same before and after something imported `anychip.record`.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anychip.api import Answer as Answer
    from anychip.api import forecast as forecast
    from anychip.api import record as record
    from anychip.audit.engine import audit as audit
    from anychip.forecast import Forecast as Forecast
    from anychip.port.project import port as port
    from anychip.record.program import Program as Program
    from anychip.spec import Chip as Chip
    from anychip.standins.custom import kernel as kernel

__version__ = "0.1.0"

# public name -> the module that defines it
_NAMES = {
    "Answer": "anychip.api",
    "Chip": "anychip.spec",
    "Forecast": "anychip.forecast",
    "Program": "anychip.record.program",
    "kernel": "anychip.standins.custom",
}
# verb, which is a subpackage too -> the module that defines the function
_VERBS = {
    "audit": "anychip.audit.engine",
    "forecast": "anychip.api",
    "measure": "anychip.measure.run",
    "port": "anychip.port.project",
    "record": "anychip.api",
}

__all__ = [
    "Answer",
    "Chip",
    "Forecast",
    "Program",
    "__version__",
    "audit",
    "forecast",
    "kernel",
    "measure",
    "port",
    "record",
]


class _Verb(ModuleType):
    """A subpackage that can be called: `anychip.record(...)` runs the function of that name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(_VERBS[name]), name)(*args, **kwargs)


class _Package(ModuleType):
    """This package. Python binds a subpackage to its parent when it is imported: the moment to make a verb callable."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _VERBS and isinstance(value, ModuleType):
            value.__class__ = _Verb
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


sys.modules[__name__].__class__ = _Package
