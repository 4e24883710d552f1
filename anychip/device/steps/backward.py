"""Says on the tape to which module the ops of a backward pass belong.

A module's backward begins with the autograd node of what it returned. A hook on that node writes a NODE word with the
module; another, on the node of what the module was given, says when the outer module goes on. Ops of a backward between
two NODE words belong to the module of the first.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from anychip.record import Kind, word

LEAF = "torch::autograd::AccumulateGrad"  # the node of a gradient that stays
DEEPEST = 3  # containers inside containers that are searched for a tensor


class BackwardModules:
    def __init__(self, tape: list[int]) -> None:
        self.append = tape.append
        self._hooks: dict[int, Callable[[Any], None]] = {}
        self._marked: set[int] = set()  # sequence numbers, as holding nodes would hold their tensors

    def forget(self) -> None:
        """The graphs made so far have been walked."""
        self._marked.clear()

    def entered(self, args: Any, outer: int) -> None:
        """A module is called with `args` from inside module `outer`."""
        tensor = first_with_node(args)
        if tensor is not None:
            self._mark(tensor.grad_fn, outer)

    def left(self, result: Any, module: int) -> None:
        """Module `module` returned `result`."""
        tensor = first_with_node(result)
        if tensor is not None:
            self._mark(tensor.grad_fn, module)

    def _mark(self, node: Any, module: int) -> None:
        number = node._sequence_nr()
        if number not in self._marked:
            self._marked.add(number)
            node.register_prehook(self._hooks.get(module) or self._hook(module))

    def _hook(self, module: int) -> Callable[[Any], None]:
        append, mark = self.append, word(Kind.NODE, module)

        def begins(_grads: Any) -> None:
            append(mark)

        self._hooks[module] = begins
        return begins


def roots_of(given: Any) -> list[torch.Tensor]:
    """The tensors that a backward begins at."""
    return [one for one in pytree.tree_leaves(given) if isinstance(one, torch.Tensor)]


def walked(roots: Any, until: Collection[int] = ()) -> Iterator[Any]:
    """The nodes that a backward from these goes through until it meets those of these numbers."""
    ahead = [one.grad_fn for one in roots_of(roots)]
    ahead += [
        one for one in pytree.tree_leaves(roots) if isinstance(one, torch.autograd.graph.Node)
    ]  # of a GradientEdge
    seen = set()
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen and node._sequence_nr() not in until:
            seen.add(node)
            ahead += [one for one, _ in node.next_functions]
            yield node


def learning(roots: Any) -> list[torch.Tensor]:
    """The tensors in whose `grad` a backward from these leaves something."""
    return [node.variable for node in walked(roots) if node.name() == LEAF]


def first_with_node(value: Any, depth: int = 0) -> torch.Tensor | None:
    """The first tensor in nested containers that was computed from something with a gradient."""
    if isinstance(value, torch.Tensor):
        return value if value.grad_fn is not None else None
    if depth == DEEPEST:
        return None
    items = value if isinstance(value, tuple | list) else value.values() if isinstance(value, dict) else ()
    for item in items:
        found = first_with_node(item, depth + 1)
        if found is not None:
            return found
    return None
