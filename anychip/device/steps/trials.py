"""Calls whose batch is none beside the one that a step learns from.

Trials, of which nothing is learnt though a backward goes through them: the first pass of sharpness-aware minimization, the steps of an
attack on the input (PGD), all but the last evaluation of a line search. Known by what becomes of the gradients, and of what: only an
input's are asked for, by itself; or the weights' are dropped, and either the same data come again or an input's gradient was made beside
them, as in each of the steps of Langevin's dynamics, whose gradients of weights may add up until they are dropped. Weights' alone say too
little: a program may gather each micro-batch's by itself.

And calls of what the module was given before, where the graph of that call was kept by `torch.autograd.grad`: the inner steps of
meta-learning.
"""

import weakref
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from anychip.device.steps.alike import gradient
from anychip.record import Kind, Mark, word

# Of a tensor: its storage (another one may come to the same address), its address, its version, its shape.
Key = tuple[Any, int, int, torch.Size]
KNOWN = (
    torch.Tensor | int | float | str | bool | None
)  # what a call is given that says all of itself: objects may hold any data
Given = frozenset[Key]  # of each tensor of a call


class Trials:
    """Puts Mark.UNLEARNT on the tape behind a backward, once it is known that nothing is learnt of what it went through, and Mark.AGAIN
    before a call whose batch has been counted."""

    def __init__(self, tape: Any) -> None:
        self.tape = tape
        self._calls: set[Given] = set()  # what was given since the last backward
        self._by_module: set[tuple[int, Given]] = set()  # and to which module, by id
        self._kept: set[tuple[int, Given]] = set()  # of which a backward has gone through and kept the graph
        self._inputs: list[weakref.ref[Any]] = []  # of that, leaves whose gradient is wanted
        self._called: weakref.ref[Any] | None = None  # a weight of what was called last since then
        # Weights, by id, whose gradient some backward was seen to make, and how modules were set then.
        self._makes: set[Any] = set()
        self._unused: weakref.ref[Any] | None = None  # one whose gradient the last backward made, and nobody has used
        self._added_to = 0  # backwards before that one that made an input's, too, and that it was added to
        self._zeroed = False  # that gradient has been filled with nothing, by who zeroes gradients
        self._went_through: set[Given] = set()
        self._made_for_input = False  # it made an input's, too

    def called(self, module: Any, given: Any, weight: Any) -> None:
        """An outermost call that may be learnt from begins. given: its arguments. weight: one that learns."""
        leaves = tree_leaves(given)
        tensors = [one for one in leaves if isinstance(one, torch.Tensor)]
        found = [_key(one) for one in tensors]
        keys = frozenset(one for one in found if one is not None)
        self._calls.add(keys)
        if (id(module), keys) in self._kept:
            self.tape.append(word(Kind.MARK, Mark.AGAIN))
        if keys and None not in found and all(isinstance(one, KNOWN) for one in leaves):
            self._by_module.add((id(module), keys))
        self._inputs += [weakref.ref(one) for one in tensors if one.requires_grad and one.is_leaf]
        self._called = weakref.ref(weight)

    def begins(self) -> None:
        """A backward does: by now the gradients of the last one have been dropped, or these are added to them."""
        weight = self._unused() if self._unused is not None else None
        if weight is not None and (gradient(weight) is None or self._zeroed):
            again = (self._calls & self._went_through) - {frozenset()}
            if again or self._made_for_input:
                for _ in range(1 + self._added_to * self._made_for_input):
                    self._tell()
            self._added_to = 0
        else:
            self._added_to = self._added_to + 1 if weight is not None and self._made_for_input else 0
        self._unused = None

    def made(self, replayed: bool, settings: Any) -> None:
        """A backward made the gradients of all leaves. replayed: of a folded call, and so none of weights, though those that it repeats
        may have made some. settings: how modules were set, as FSDP's are that keep gradients for themselves until the last micro-batch."""
        weight = self._called() if self._called is not None else None
        if weight is not None:
            grad = gradient(weight)
            if grad is not None:
                self._makes.add((id(weight), settings))
            if grad is not None or (replayed and (id(weight), settings) in self._makes):
                self._unused, self._went_through = self._called, self._calls
                self._zeroed = False
                self._made_for_input = any(one.grad is not None for one in self._alive())
        self._begin()

    def asked_for(self, outputs: Any, inputs: Any, grad_outputs: Any = None, retain_graph: bool | None = None,
                  create_graph: bool = False, *_: Any, **__: Any) -> None:  # fmt: skip
        """`torch.autograd.grad` made some alone. A graph that is kept may be gone through again."""
        if not (create_graph if retain_graph is None else retain_graph):
            wanted = {id(one) for one in self._alive()}
            asked = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
            if wanted and all(id(one) in wanted for one in asked):
                self._tell()
            self._begin()
        else:
            self._kept |= self._by_module

    def zeroed(self) -> None:
        """`zero_grad` of an optimizer or a module was called: gradients that are still there are nothing."""
        self._zeroed = True

    def stepped(self) -> None:
        """An optimizer has used the gradients."""
        self._unused, self._added_to = None, 0
        self._by_module.clear()
        self._kept.clear()

    def _alive(self) -> list[Any]:
        return [one for ref in self._inputs if (one := ref()) is not None]

    def _begin(self) -> None:
        self._calls, self._by_module, self._kept, self._inputs, self._called = set(), set(), set(), [], None

    def _tell(self) -> None:
        self.tape.append(word(Kind.MARK, Mark.UNLEARNT))


def _key(tensor: Any) -> Key | None:
    """What says that the same numbers come again; None where nothing does (a wrapper's, inference mode's)."""
    try:
        address = tensor.data_ptr()
        return (StorageWeakRef(tensor.untyped_storage()), address, tensor._version, tensor.shape) if address else None
    except RuntimeError:
        return None
