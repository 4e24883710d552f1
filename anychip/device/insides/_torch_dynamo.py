"""Spares a program the import of dynamo, a third of the time that a short recording takes.

Functions that dynamo must not look into, an optimizer's among them, import all of it when they are first called, only to be
passed over by it. Where nobody else has imported it, it looks into nothing, and they run as they are.
"""

import importlib
import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch

DYNAMO = "torch._dynamo"


def spare_functions() -> None:
    """Of what is marked from now on: to be called before torch has any of it."""
    _compile: Any = importlib.import_module("torch._compile")
    original = _compile._disable_dynamo

    def disable(function: Callable[..., Any] | None = None, recursive: bool = True) -> Callable[..., Any]:
        if function is None:
            return partial(disable, recursive=recursive)
        return _one_of(function, original(function, recursive))

    _compile._disable_dynamo = disable


def spare_steps() -> None:
    """Of optimizers that are defined from now on: to be called when torch has their base and none of them."""
    optimizer: Any = sys.modules["torch.optim.optimizer"]
    original = getattr(optimizer, "_use_grad_for_differentiable", None)
    if original is None:
        return

    def differentiable(step: Callable[..., Any]) -> Callable[..., Any]:
        def plain(self: Any, *args: Any, **kwargs: Any) -> Any:
            before = torch.is_grad_enabled()
            try:
                torch.set_grad_enabled(self.defaults["differentiable"])
                return step(self, *args, **kwargs)
            finally:
                torch.set_grad_enabled(before)

        return _one_of(plain, original(step))

    optimizer._use_grad_for_differentiable = differentiable


def _one_of(plain: Callable[..., Any], with_dynamo: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(with_dynamo)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (with_dynamo if DYNAMO in sys.modules else plain)(*args, **kwargs)

    return call
