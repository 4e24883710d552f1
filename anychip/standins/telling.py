"""Says in the report which libraries were stood in for: at the first use of one of their names, not at import, as many
programs import a library that they then do without."""

from collections.abc import Callable
from enum import Enum
from functools import wraps
from types import FunctionType
from typing import Any

_told: set[str] = set()
_wrapped: dict[int, Any] = {}  # id of a function -> what stands for it, the same in every module


def telling(value: Any, library: str, tell: Callable[[], None]) -> Any:
    """The same name, which calls `tell` when it is first called or instantiated; other values as they are."""

    def once() -> None:
        if library not in _told:
            _told.add(library)
            tell()

    if isinstance(value, FunctionType):
        if id(value) not in _wrapped:
            _wrapped[id(value)] = _function(value, once)
        return _wrapped[id(value)]
    if _is_ours(value) and "_anychip_tells" not in value.__dict__:
        value._anychip_tells = True
        value.__init__ = _function(value.__init__, once)
    return value


def _is_ours(value: Any) -> bool:
    """Whether this is a class of a stand-in that is made by an `__init__` in Python (tensors and enums are not)."""
    ours = isinstance(value, type) and value.__module__.startswith("anychip.standins") and not issubclass(value, Enum)
    return ours and isinstance(value.__dict__.get("__init__", getattr(value, "__init__", None)), FunctionType)


def _function(function: Any, once: Callable[[], None]) -> Any:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        once()
        return function(*args, **kwargs)

    return call
