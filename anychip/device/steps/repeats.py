"""Micro-batches are recorded once and folded: a module that does the same twice is written on the tape from then on.

In: outermost calls of trained modules (`Repeats.call`) and backward passes (`begin_backward`, `end_backward`), as `hooks` sees them.
Out: the result of each call, which ran, or was folded (`folded`) where

- it is given inputs of the same layout as calls before it (also those that its modules hold, as Megatron's stages do), under the same
  settings of its modules, and these did the same: a `History`, of their words, what they return, and their backwards;
- the first such call of this step ran, so that what a step begins with is seen;
- such calls leave nothing behind in their modules and draw none of the host's random numbers;
- their backwards, if there were any, are known to be alike, and none of them goes on beside the call: through what was computed before
  it, or to gradients that are its own; and none puts off products until it is over (`look_back`).

A call that runs is watched (`Call`): where on the tape it and its backward begin and end. Where the backward of a folded one has not been
seen twice the call is made up for: its forward runs without a word, its backward as it is. Where one backward goes through several
folded calls, or is to be differentiated itself, or the program fails after a folded one, nobody has seen what would come: the program is
run again without folding (`UNFOLD`).
"""

import sys
import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import torch
from torch.utils import _pytree as pytree

from anychip.cost.work import PRODUCTS, work
from anychip.device.insides._torch import outside_of_backwards
from anychip.device.launch import UNFOLD
from anychip.device.parent import EXIT
from anychip.device.runtime import Runtime
from anychip.device.steps.alike import Held, Unlike, describe, held, holders, settings, traces
from anychip.device.steps.backward import LEAF, walked
from anychip.device.steps.blocks import blocks_of, plain_tensors
from anychip.device.steps.folded import Leaf, Replay, Rewriter, leaf_of, plain_backward
from anychip.record.chunk import Chunk, read
from anychip.record.tape import KIND_BITS, KIND_MASK, Kind

Run = Callable[..., Any]
Remake = Callable[[list[Any]], Any]  # a call of what it was given and its modules held
FIRST = 4  # calls that run before any backward is seen: one may be a trial, one makes gradients, two are to be alike


@dataclass(eq=False)
class Latest:
    """What happens again and again. last: the latest that ran, in `step`; known: what is written for it, after two alike in
    one step; first: the first of that step; same: it was as the one of the step before, so what follows will be too."""

    last: Chunk | None = None
    known: Chunk | None = None
    step: int = -1
    first: Chunk | None = None
    same: bool = False

    @property
    def sure(self) -> bool:
        return self.known is not None and (self.same or self.known.like(self.last))

    def learn(self, chunk: Chunk, step: int) -> bool:
        """The latest; whether it is known from now on."""
        alike = chunk.like(self.last)
        if self.step != step:
            self.same, self.first = chunk.like(self.first), chunk
            alike = False
        elif alike:
            self.known = chunk
        else:
            self.same = self.same and chunk.like(self.known)
        self.last, self.step = chunk, step
        return alike


@dataclass(eq=False)
class Backward(Latest):
    """Backwards under one setting. given: in which block the gradient of which output came; grads: how each gradient of an
    input is made."""

    given: dict[int, tuple[int, int]] = field(default_factory=dict)
    grads: list[Leaf] = field(default_factory=list)


@dataclass(eq=False)
class History(Latest):
    """Calls of one module with one kind of input under one setting."""

    spec: Any = None
    leaves: list[Any] = field(default_factory=list)
    ran: int = 0
    off: bool = False
    backwards: dict[Any, Backward] = field(default_factory=dict)

    def repeats(self, step: int) -> bool:
        return not self.off and self.step == step and self.sure


@dataclass(eq=False)
class Call:
    """One that really ran. grads: in which block the gradient of which output came; nodes: numbers of its outputs' nodes; keep: its
    inputs, where nobody else has them; begin: where on the tape its backward does; setting: that of its module then."""

    history: History
    chunk: Chunk
    module: torch.nn.Module
    inputs: list[Any]  # weak references to those that want gradients
    grads: dict[int, tuple[int, int]] = field(default_factory=dict)
    nodes: set[int] = field(default_factory=set)
    keep: Any = None
    begin: int = -1
    setting: Any = None


class Repeats:
    """Sees calls and backwards, and folds those that come again. folded: how many were."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.step = 0
        self.folded = 0
        self.depth = 0  # of backwards
        self.ended: int | None = None  # where on the tape the last of them did, until something comes after it
        self.began = 0  # where on the tape the outermost of them did
        self.roots: Any = ()  # what it goes back from
        self.current: Call | Replay | None = None  # whose backward it is in
        self.replayed = False  # whether the last one was of a folded call
        self.settings: Any = None  # of all modules when it began
        self.histories: dict[Any, History] = {}
        self.before: dict[torch.nn.Module, Any] = {}
        self.holders: weakref.WeakKeyDictionary[torch.nn.Module, list[dict[str, Any]]] = weakref.WeakKeyDictionary()
        self.rewriter = Rewriter(runtime)

    # ------------------------------------------------------------ forward

    def call(self, module: torch.nn.Module, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The module's result; run(*args, **kwargs) really calls it."""
        self.look_back()
        if self.runtime.repeats is None:
            return run(*args, **kwargs)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if module not in self.holders:
            self.holders[module] = holders(module)
        places = held(self.holders[module])
        given = leaves + [fields[name] for fields, name in places]
        key = self._key(module, given)
        history = self.histories.setdefault(key, History()) if key is not None else None
        if history is None or history.off:
            return run(*args, **kwargs)
        if history.repeats(self.step) and _ready(history):
            return self._fold(module, history, given, lambda given: _called(run, given, spec, places))
        begin, before = self.runtime.here(), traces(module)
        result = run(*args, **kwargs)
        if traces(module) == before:  # (what is set up at a first call is not left behind by the next)
            self._learn(module, history, given, result, begin)
        return result

    def _learn(self, module: torch.nn.Module, history: History, given: list[Any], result: Any, begin: int) -> None:
        end = self.runtime.here()
        recorder = self.runtime.recorder
        chunk = read(recorder.tape, begin, end, None, recorder.block_bytes)
        leaves, spec = pytree.tree_flatten(result)
        recipe = [self._leaf(one, chunk, given) for one in leaves]
        if not chunk.fit or any(one is None for one in recipe):
            history.off = True
            return
        if history.learn(chunk, self.step):
            history.spec, history.leaves = spec, recipe
        history.ran += 1
        self.holders[module] = holders(module)
        wanted = [weakref.ref(one) for one in given if isinstance(one, torch.Tensor) and one.requires_grad]
        made = [one for one, how in zip(leaves, recipe, strict=True) if isinstance(how, Leaf)]
        self._watch(Call(history, chunk, module, wanted), made)

    def _leaf(self, value: Any, chunk: Chunk, given: list[Any]) -> Any:
        """How to make this output again; None if that cannot be known."""
        if not isinstance(value, torch.Tensor):
            return ("value", value) if value is None or isinstance(value, bool | int | float | str) else None
        for number, one in enumerate(given):
            if one is value:
                return ("given", number)
        return leaf_of(value, chunk, self.runtime)

    def _fold(self, module: torch.nn.Module, history: History, given: list[Any], run: Remake) -> Any:
        assert history.known is not None
        self.folded += 1
        leaves = [one for one in history.leaves if isinstance(one, Leaf)]
        go_back = partial(self._go_back, module, history, run)
        made = Replay(self.rewriter, history.known, leaves, given, go_back).outputs()
        results = [
            next(made) if isinstance(one, Leaf) else given[one[1]] if one[0] == "given" else one[1]
            for one in history.leaves
        ]
        return pytree.tree_unflatten(results, history.spec)

    def _go_back(
        self, module: torch.nn.Module, history: History, run: Remake, replay: Replay, node: int, grads: tuple[Any, ...]
    ) -> list[Any]:
        """The gradients of a folded call's inputs, as its backward begins. run: really makes the call."""
        if replay.names is None or replay.gone_back or not self.depth or self.current is not None:
            self.unfold("a backward through several calls, or a second one through the same")
        if torch.is_grad_enabled():
            self.unfold("a backward that is differentiated")
        if not self._alone([node], module, replay.given):
            self.unfold("a backward that goes on beside a model")
        replay.gone_back = True
        seen = history.backwards.get(self._setting(module))
        if seen is None or seen.known is None or not seen.sure:
            return self._make_up(module, history, run, replay, grads)
        self.current = replay
        return replay.write_backward(seen.known, seen.given, seen.grads, grads)

    def _make_up(
        self, module: torch.nn.Module, history: History, run: Remake, replay: Replay, grads: tuple[Any, ...]
    ) -> list[Any]:
        """The same where its backward is not known: its forward runs, of which only blocks stay on the tape, then its backward."""
        self.folded -= 1
        replay.close()
        given = [
            one.detach().requires_grad_() if isinstance(one, torch.Tensor) and one.requires_grad else one
            for one in replay.given
        ]
        tape, begin = self.runtime.recorder.tape, self.runtime.here()
        with torch.enable_grad(), outside_of_backwards():
            result = run(given)
        end = self.runtime.here()
        chunk = read(tape, begin, end, None, self.runtime.recorder.block_bytes)
        tape[begin:] = [one for one in tape[begin:] if one & KIND_MASK in (Kind.ALLOC, Kind.FREE)]
        chunk.end = len(tape)
        wanted = [one for one in given if isinstance(one, torch.Tensor) and one.requires_grad]
        made = [one for one in pytree.tree_leaves(result) if isinstance(one, torch.Tensor)]
        kept = [one for one in made if not any(one is other for other in given)]
        if chunk.like(history.known):
            self._watch(Call(history, chunk, module, [weakref.ref(one) for one in wanted], keep=wanted), kept)
        pairs = [(one, grad) for one, grad in zip(kept, grads, strict=True) if grad is not None]
        plain_backward([one for one, _ in pairs], [grad for _, grad in pairs])
        found = [one.grad for one in wanted]
        self._learn_backward(replay)
        for one in wanted:
            one.grad = None  # or who gets it would have to copy it
        return found

    def _watch(self, call: Call, made: list[torch.Tensor]) -> None:
        """See when the backward of a call begins, and in which blocks gradients come. Hooks that the program puts on what the call
        returned are no part of it: they run for a folded one, too. Those that its modules have put there (FSDP2's gather weights) are."""
        for number, one in enumerate(made):
            if one.grad_fn is None:
                continue
            call.nodes.add(one.grad_fn._sequence_nr())
            hooks = one._backward_hooks
            if not hooks:
                one.grad_fn.register_prehook(partial(self._reached, call, number, one.output_nr))
                continue
            others = dict(hooks)
            hooks.clear()  # (the engine calls them in the order that they were put in: `move_to_end` changes nothing)
            # (The program's hooks outlive an output that it drops; the graph has them.)
            one.register_hook(
                partial(self._before_hooks, call, number, weakref.ref(one), weakref.ref(hooks), len(others))
            )
            hooks.update(others)

    # ------------------------------------------------------------ backward

    def begin_backward(self, roots: Any) -> None:
        if not self.depth:
            self.look_back()
            self.roots = roots
            # Before any hook of it has run: hooks of what was folded never do.
            self.before = {module: settings(module, found) for module, found in self.holders.items()}
            self.began = self.runtime.here()
        self.depth += 1

    def _setting(self, module: torch.nn.Module) -> Any:
        """How the module was set when the backward that runs began."""
        return self.before.get(module)

    def end_backward(self) -> None:
        self.depth -= 1
        if self.depth:
            return
        self.settings = frozenset(self.before.items())
        self.before, self.roots = {}, ()
        self.replayed = isinstance(self.current, Replay)
        self._learn_backward(None)
        self.ended = self.runtime.here()

    def _reached(self, call: Call, number: int, place: int, grads: tuple[Any, ...]) -> None:
        self._fired(call, number, grads[place])

    def _before_hooks(
        self,
        call: Call,
        number: int,
        output: Callable[[], torch.Tensor | None],
        hooks: Callable[[], Any],
        own: int,
        grad: Any,
    ) -> None:
        made = output()
        if (made is not None and made.retains_grad) or len(hooks() or ()) > own + 1:
            call.history.off = True  # what the program's hooks do cannot be told from what the modules' do
        self._fired(call, number, grad)

    def _fired(self, call: Call, number: int, grad: Any) -> None:
        """The backward of a call that ran begins, or gets its next gradient."""
        for place, one in enumerate(plain_tensors(grad)):
            for block in blocks_of([one], self.runtime.tensors):
                call.grads[block] = number, place
        if self.current is call:
            return
        if not self.depth or self.current is not None or call.begin >= 0:
            self._give_up(self.current)
            call.history.off = True
            return
        inputs = [wanted() for wanted in call.inputs]
        if any(one is None or one.grad is not None for one in inputs) or torch.is_grad_enabled():
            call.history.off = True
        if call.keep is None and not self._alone(call.nodes, call.module, inputs):
            call.history.off = True
        if self._communicated():
            # FSDP2's hooks on what a module returned gather for its backward before that is seen to begin.
            if self.folded:
                self.unfold("collectives between a loss and its model")
            call.history.off = True
        self.current, call.begin, call.setting = call, self.runtime.here(), self._setting(call.module)

    def _alone(self, nodes: Collection[int], module: torch.nn.Module, inputs: list[Any]) -> bool:
        """Whether all that the backward goes through beside a call has run when that begins, and leads to none of its gradients: what
        runs later, or is added to them, would be written with the call and, where that is folded, run besides. nodes: of its outputs."""
        first, own = min(nodes), {id(one) for one in (*module.parameters(), *inputs)}
        return all(
            id(node.variable) not in own if node.name() == LEAF else node._sequence_nr() > first
            for node in walked(self.roots, nodes)
        )

    def _communicated(self) -> bool:
        """Whether the backward that runs has issued collectives so far."""
        recorder = self.runtime.recorder
        words = recorder.tape[self.began :]
        return any(
            recorder.ops[one >> KIND_BITS].name.startswith("c10d.") for one in words if one & KIND_MASK == Kind.OP
        )

    def _give_up(self, other: Call | Replay | None) -> None:
        if isinstance(other, Replay):
            self.unfold("a backward through several calls")
        if other is not None:
            other.history.off = True

    def _learn_backward(self, follows: Replay | None) -> None:
        """The backward of the call that ran last is over. follows: whose goes on."""
        call, self.current = self.current, follows
        if not isinstance(call, Call) or call.history.off:
            return
        end, recorder = self.runtime.here(), self.runtime.recorder
        chunk = read(recorder.tape, call.begin, end, call.chunk, recorder.block_bytes)
        seen = call.history.backwards.setdefault(call.setting, Backward())
        wanted = [one() for one in call.inputs]
        found = [
            leaf for one in wanted
            if one is not None and one.grad is not None and (leaf := leaf_of(one.grad, chunk, self.runtime))
        ]  # fmt: skip
        if not chunk.fit or len(found) < len(wanted):
            call.history.backwards[call.setting] = Backward()
        elif seen.learn(chunk, self.step):
            seen.grads, seen.given = found, call.grads
            if call.history.known is not None and call.chunk.like(call.history.known):
                call.history.known.early = call.chunk.early

    def look_back(self) -> None:
        """Weights' gradients that were put off (zero bubble, DualPipe) are made between a backward and what comes next. Of a folded call
        nobody has put off any: where products stand there, nothing is folded."""
        begin, self.ended = self.ended, None
        if begin is None:
            return
        recorder = self.runtime.recorder
        since = {one >> KIND_BITS for one in recorder.tape[begin:] if one & KIND_MASK == Kind.OP}
        if any(work(recorder.ops[op]).kind in PRODUCTS for op in since):
            if self.folded:
                self.unfold("products between a backward and the next call")
            self.runtime.repeats = None

    def unfold(self, reason: str) -> NoReturn:
        """Nobody has seen what comes now: whoever started this process runs it again as it is."""
        print(f"anychip: run again, without folding micro-batches, because of {reason}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        EXIT(UNFOLD)

    def _key(self, module: torch.nn.Module, given: list[Any]) -> Any:
        """What calls have in common that may do the same; None where that cannot be said."""
        try:
            described = tuple(describe(one, 0) for one in given)
        except Unlike:
            return None
        autocast = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
        stream = int(self.runtime.native.stream[0])
        return id(module), described, settings(module, self.holders[module]), autocast, stream


def _ready(history: History) -> bool:
    """Backwards of such calls are known, or there was none so far, as while a pipeline fills."""
    backwards = history.backwards.values()
    return any(one.known is not None for one in backwards) or (not backwards and history.ran >= FIRST)


def _called(run: Run, given: list[Any], spec: Any, places: list[Held]) -> Any:
    """The result with these instead of what the call was given; modules hold what they did before."""
    args, kwargs = pytree.tree_unflatten(given[: spec.num_leaves], spec)
    before = [fields.get(name) for fields, name in places]
    _hold(places, given[spec.num_leaves :])
    try:
        return run(*args, **kwargs)
    finally:
        _hold(places, before)


def _hold(places: list[Held], values: list[Any]) -> None:
    for (fields, name), value in zip(places, values, strict=True):
        fields[name] = value
