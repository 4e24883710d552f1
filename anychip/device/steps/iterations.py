"""Optimizers that iterate in a step until a tolerance is met: torch's LBFGS.

Values of a virtual chip do not change, so that such a step would end in its first iteration. Here it takes all that it
may, as it does on a real chip until training has converged, and a line search takes its first try.
"""

from collections.abc import Callable
from functools import wraps
from math import inf
from sys import modules
from typing import Any

import torch

NEVER = dict.fromkeys(("tolerance_grad", "tolerance_change"), -inf)


def install(warn: Callable[[str], None]) -> None:
    original = torch.optim.LBFGS.step
    said: set[str] = set()

    @wraps(original)
    def step(self: torch.optim.LBFGS, closure: Callable[[], Any]) -> Any:
        group = self.param_groups[0]
        if all(one.device.type == "cpu" for one in group["params"]):
            return original(self, closure)
        text = told(group["max_iter"], bool(group["line_search_fn"]))
        if text not in said:
            said.add(text)
            warn(text)
        kept = {name: group[name] for name in NEVER}
        group.update(NEVER)
        try:
            return original(self, closure)
        finally:
            group.update(kept)

    torch.optim.LBFGS.step = step  # type: ignore[method-assign,assignment]
    module: Any = modules[original.__module__]  # torch.optim deletes the name
    if hasattr(module, "_strong_wolfe"):
        module._strong_wolfe = _on_chips(module._strong_wolfe)


def told(iterations: int, searches: bool) -> str:
    return (
        f"Each step of LBFGS is of all {iterations} iterations that it may take{', each with one try of its line search' if searches else ''}: "
        "values decide when it is done (docs/values.md). A step that has converged takes fewer, a line search may take more tries."
    )


def _on_chips(original: Callable[..., Any]) -> Callable[..., Any]:
    """A line search that takes its first try where it is on a chip, with what it asks of it."""

    @wraps(original)
    def search(
        evaluate: Any, x: Any, t: Any, d: torch.Tensor, f: Any, g: torch.Tensor, *rest: Any, **options: Any
    ) -> Any:
        if d.device.type == "cpu":
            return original(evaluate, x, t, d, f, g, *rest, **options)
        d.abs().max()
        value, gradient = evaluate(x, t, d)
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        float(gradient.dot(d))
        return value, gradient, t, 1

    return search
