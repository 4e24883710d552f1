"""Optimizers that iterate in a step until a tolerance is met: torch's LBFGS, and those that are written after it (pykan's).

Values of a virtual chip do not change, so that such a step would end in its first iteration. Here it takes all that it
may, as it does on a real chip until training has converged, and a line search takes its first try. A whole training that is one step of
tens of thousands takes its first ones; later ones are no shorter.
"""

from collections.abc import Callable
from functools import wraps
from math import inf
from sys import modules
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

MOST = 200
NEVER = dict.fromkeys(("tolerance_grad", "tolerance_change"), -inf)


def install(warn: Callable[[str], None]) -> None:
    said: set[str] = set()
    # An optimizer that steps -> its tolerances, and how far it may go.
    kept = WeakKeyDictionary[Any, dict[str, float]]()

    def before(optimizer: Any, args: Any, options: Any) -> tuple[Any, Any] | None:
        group = optimizer.param_groups[0]
        if not group.keys() >= {*NEVER, "max_iter"} or all(one.device.type == "cpu" for one in group["params"]):
            return None
        text = told(type(optimizer).__name__, group["max_iter"], bool(group.get("line_search_fn")))
        if text not in said:
            said.add(text)
            warn(text)
        _search_once(modules.get(type(optimizer).__module__))  # one that was run as a file of its own is not there
        kept.setdefault(optimizer, {name: group[name] for name in (*NEVER, "max_iter")})
        group.update(NEVER, max_iter=min(group["max_iter"], MOST))
        if not (args and callable(args[-1])):
            return None

        def closure() -> Any:
            try:
                return args[-1]()
            except BaseException:  # no hook is called after a step that failed
                after(optimizer)
                raise

        return (*args[:-1], closure), options

    def after(optimizer: Any, *_: Any) -> None:
        optimizer.param_groups[0].update(kept.pop(optimizer, {}))

    register_optimizer_step_pre_hook(before)
    register_optimizer_step_post_hook(after)


def _search_once(module: Any) -> None:
    """The line search beside an optimizer takes its first try."""
    search = getattr(module, "_strong_wolfe", None)
    if search is not None and not hasattr(search, "__wrapped__"):
        module._strong_wolfe = _on_chips(search)


def told(name: str, iterations: int, searches: bool) -> str:
    tries = ", each with one try of its line search" if searches else ""
    taken = f"all {iterations} iterations that it may take{tries}"
    if iterations > MOST:
        taken = f"the first {MOST} iterations{tries}, of {iterations:,} that it may take: one of all takes at least {iterations / MOST:.3g} times as long"
    return (
        f"Each step of {name} is of {taken}: values decide when it is done (docs/values.md). A step that has converged takes fewer, a line "
        "search may take more tries."
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
