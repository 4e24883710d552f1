"""Watches a program take its steps: module calls, backward passes, optimizers. `counted` says when there are enough."""

import sys
import weakref
from collections.abc import Callable
from functools import partial, wraps
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from anychip.device.insides._torch import watch_engine
from anychip.device.runtime import Runtime
from anychip.device.steps import iterations
from anychip.device.steps.activation import Activation, called_directly
from anychip.device.steps.backward import BackwardModules, learning, roots_of
from anychip.device.steps.blocks import functorch, unwrapped
from anychip.device.steps.counted import Steps
from anychip.device.steps.optimizers import Optimizers, parameters_of
from anychip.device.steps.own_optimizer import OwnOptimizer
from anychip.device.steps.trials import Trials
from anychip.device.steps.weights import Weights, rests_on_host, stacked
from anychip.record import Kind, Mark, word
from anychip.record.tape import KIND_BITS

BEGIN = {True: word(Kind.MARK, Mark.FORWARD_BEGIN), False: word(Kind.MARK, Mark.INFER_BEGIN)}
END = {True: word(Kind.MARK, Mark.FORWARD_END), False: word(Kind.MARK, Mark.INFER_END)}


ATTRIBUTED = 2  # steps in which backward passes are told apart by module: what comes after repeats them


class OutermostCall(NamedTuple):
    """module: its index. leave: the word that says that it is left. marked: whether it has parameters, and so counts."""

    module: int
    leave: int
    training: bool
    marked: bool


class Hooks:
    """Installed once; writes marks and module paths on the tape."""

    def __init__(self, runtime: Runtime, steps: Steps) -> None:
        self.runtime, self.steps = runtime, steps
        self.weights, self.optimizers = Weights(runtime.tensors), Optimizers(runtime.recorder)
        steps.lacks_one = lambda: bool(self.optimizers.unstepped())
        self.tape = runtime.recorder.tape
        self._words: dict[int, tuple[Any, int, int]] = {}
        self._paths: dict[int, str] = {}
        self._depth = 0
        runtime.in_module = lambda: self._depth > 0
        self.backward = BackwardModules(self.tape)
        self._outer: list[int] = []  # modules that are being called, by index
        self._open: tuple[Activation, OutermostCall] | None = None  # whose end will not be seen
        self._seen: set[type] = set()  # classes whose `forward` is wrapped
        self._trials = Trials(self.tape)
        self._watched: Any = None  # a parameter of the module that was called last, weakly
        self._own_optimizer = OwnOptimizer(
            runtime, self._is_parameter, self._own_optimizer_begins, self._own_optimizer_stepped
        )

    def install(self) -> None:
        self._hook_modules()
        self._hook_backward()
        self._hook_optimizers()
        register_optimizer_step_pre_hook(self._optimizer_begin)
        register_optimizer_step_post_hook(self._optimizer_end)

    def mark_steps_at(self, name: str) -> None:
        """End a step whenever a function of this name returns: `train_step`, `Trainer.training_step`.

        Python's profiling hook sees every return of the main thread, which costs the program some speed.
        """
        self.steps.by_mark = True
        mark = word(Kind.MARK, Mark.STEP)

        def profile(frame: Any, event: str, _argument: Any) -> None:
            if event == "return" and name in (frame.f_code.co_name, frame.f_code.co_qualname):
                self.tape.append(mark)
                self.steps.marked()

        sys.setprofile(profile)

    # ------------------------------------------------------------ modules

    def _hook_modules(self) -> None:
        original, hooks = torch.nn.Module.__call__, self

        # torch's profiler takes what is called `self` in this function for the module that is called.
        def __call__(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            if torch._C._get_tracing_state():
                return original(self, *args, **kwargs)
            if hooks._open is not None:
                hooks._end_call_that_is_over(sys._getframe(1))
            if hooks._depth == 0:
                return hooks._outermost(original, self, args, kwargs)
            enter, leave = hooks._module_words(self)
            append, outer = hooks.tape.append, hooks._outer
            if hooks.steps.done < ATTRIBUTED and torch.is_grad_enabled():
                if outer:
                    hooks.backward.entered(args, outer[-1])
                append(enter)
                hooks._depth += 1
                outer.append(enter >> KIND_BITS)
                try:
                    result = original(self, *args, **kwargs)
                    hooks.backward.left(result, enter >> KIND_BITS)
                    return result
                finally:
                    outer.pop()
                    hooks._depth -= 1
                    append(leave)
            append(enter)
            hooks._depth += 1
            try:
                return original(self, *args, **kwargs)
            finally:
                hooks._depth -= 1
                append(leave)

        torch.nn.Module.__call__ = __call__  # type: ignore[method-assign]
        applied = torch.nn.Module._apply

        @wraps(applied)
        def _apply(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            hooks.weights.note_replaced(self)
            return applied(self, *args, **kwargs)

        torch.nn.Module._apply = _apply  # type: ignore[method-assign]

    def _outermost(self, original: Callable[..., Any], module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        found = called_directly(sys._getframe(2))
        if found is not None:
            owner, frame = found
            self._see_direct_calls(type(owner))
            call = self._enter(owner)
            if call is not None:
                self._open = Activation(frame), call
                return module(*args, **kwargs)
        call = self._enter(module, (args, kwargs))
        if call is None:
            return original(module, *args, **kwargs)
        ended = True
        try:
            # (A transform of torch.func hands in wrappers without memory, which cannot be made again.)
            repeats = self.runtime.repeats if call.training and functorch.maybe_current_level() is None else None
            run = partial(original, module)
            if self.runtime.compiles_whole:
                run = partial(self.runtime.regions.whole, run)
            result = run(*args, **kwargs) if repeats is None else repeats.call(module, run, args, kwargs)
            if call.training and self.steps.done < ATTRIBUTED:
                self.backward.left(result, call.module)
            return result
        except KeyboardInterrupt:
            ended = False
            raise
        finally:
            self._leave(call, ended)

    def _see_direct_calls(self, kind: type[torch.nn.Module]) -> None:
        """From now on a call of this class's `forward` by its name, which skips `__call__`, is one of the module."""
        if kind in self._seen:
            return  # an instance has a `forward` of its own, its call is nothing to the chip, or it was bound before
        self._seen.add(kind)
        original = kind.forward

        @wraps(original)
        def forward(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            if torch._C._get_tracing_state():
                return original(module, *args, **kwargs)
            self._end_call_that_is_over(sys._getframe(1))
            if self._depth:
                return original(module, *args, **kwargs)
            return self._outermost(original, module, args, kwargs)

        kind.forward = forward  # type: ignore[method-assign]

    def end_open_call(self, ended: bool = True) -> None:
        """A call whose end was not seen is over. ended: and had come to its end."""
        if self._open is not None:
            (_, call), self._open = self._open, None
            self._leave(call, ended)

    def _end_call_that_is_over(self, frame: FrameType) -> None:
        if self._open is not None and not self._open[0].is_running(frame):
            self.end_open_call()

    def _enter(self, module: torch.nn.Module, given: Any = ()) -> OutermostCall | None:
        """Note that an outermost call begins; None where it is nothing to the chip. given: its arguments, where they are known."""
        every = self.weights.of(module)
        parameters = [one for one in every if one.device.type != "cpu"]
        if every and not parameters:
            if not rests_on_host(module, every):
                return None  # a model on the host
            parameters = every
            self.optimizers.rest(every)
        if any(stacked(one) for one in parameters):
            self.weights.note(parameters)
            return None  # how many they are cannot be told from a batch; their optimizer says where steps end
        training = torch.is_grad_enabled() and any(one.requires_grad for one in parameters)
        marked = bool(parameters)
        if marked:
            self.runtime.clocks.count_host()
            if training:
                self._own_optimizer.close()
                weight = next(one for one in parameters if one.requires_grad)
                self._trials.called(module, given, weight)
                self._watched = weakref.ref(weight)
                self.steps.forward()
            self.tape.append(BEGIN[training])
            if id(module) not in self._paths:
                self.weights.note(parameters)
            self._name_submodules(module)
        enter, leave = self._module_words(module)
        self.tape.append(enter)
        self._depth += 1
        self._outer.append(enter >> KIND_BITS)
        return OutermostCall(enter >> KIND_BITS, leave, training, marked)

    def _leave(self, call: OutermostCall, ended: bool) -> None:
        """ended: one that Ctrl-C cut short is no call."""
        self._outer.pop()
        self._depth -= 1
        self.tape.append(call.leave)
        if call.marked and ended:
            self.tape.append(END[call.training])
            self.runtime.clocks.skip_host()
            if not self.runtime.graphs.capturing:  # each replay is one
                self.steps.call()

    def _name_submodules(self, module: torch.nn.Module) -> None:
        if id(module) not in self._paths:
            for path, child in module.named_modules():
                self._paths.setdefault(id(child), path or type(module).__name__)
                self.weights.note_held(child, self._module_words(child, own=child is module)[0] >> KIND_BITS)

    def _module_words(self, module: torch.nn.Module, own: bool = False) -> tuple[int, int]:
        """What says that a module is entered and left. own: words that no other module of its name has."""
        known = self._words.get(id(module))
        if known is not None and known[0]() is module:
            return known[1], known[2]
        index = self.runtime.recorder.module(self._paths.get(id(module), type(module).__name__), own)
        words = word(Kind.ENTER, index), word(Kind.EXIT, index)
        self._words[id(module)] = (weakref.ref(module), *words)
        return words

    # ------------------------------------------------------------ backward, optimizers

    def _hook_backward(self) -> None:
        autograd: Any = torch.autograd
        autograd.backward = self._around_backward(autograd.backward)
        autograd.grad = self._around_backward(autograd.grad, accumulates=False)
        watch_engine(self._around_backward)

    def _around_backward(self, original: Callable[..., Any], accumulates: bool = True) -> Callable[..., Any]:
        @wraps(original)
        def backward(*args: Any, **kwargs: Any) -> Any:
            self.end_open_call()
            if not self._depth:
                self._trials.begins()
                self.runtime.clocks.count_host()
            depth, self._depth = self._depth, 1  # modules that backward calls again (recompute) are not outermost
            self.tape.append(word(Kind.MARK, Mark.BACKWARD_BEGIN))
            self.runtime.regions.begin_backward()
            repeats = self.runtime.repeats
            roots = args[:1] or [kwargs.get(name) for name in ("tensors", "outputs")]
            if repeats is not None:
                repeats.begin_backward(roots)
            # Weights that no module has are known by their gradients.
            by_hand = accumulates and not depth and not self.optimizers.made
            is_bare = by_hand and self._watched is None
            if is_bare:
                self.weights.note(learning(roots))
            try:
                with torch.autograd.set_multithreading_enabled(False):
                    result = original(*args, **kwargs)
            finally:
                self._depth = depth
                self.backward.forget()
                self.runtime.regions.end_backward()
                if self.runtime.collectives is not None:
                    self.runtime.collectives.wait_for_unwaited()
                if repeats is not None:
                    repeats.end_backward()
                self.runtime.tensors.drain()  # what ended in it, or it would count as gradients
                self.tape.append(word(Kind.MARK, Mark.BACKWARD_END))
                if not depth:
                    self.runtime.clocks.skip_host()
                watched = self._watched() if self._watched is not None else None
                self.optimizers.to_be_used |= watched is not None
                if is_bare or (by_hand and watched is not None):
                    self._own_optimizer.watch()
            if not accumulates and any(one is not None and unwrapped(one).requires_grad for one in result):
                self.tape.append(word(Kind.MARK, Mark.GRAPH))
            if not depth and accumulates:
                self._trials.made(repeats is not None and repeats.replayed, repeats and repeats.settings)
                self.steps.backward()
            elif not depth:
                self._trials.asked_for(*args, **kwargs)
            if not depth and not self.optimizers.made and any(one.device.type != "cpu" for one in roots_of(roots)):
                self.steps.went_back()
            return result

        return backward

    def _hook_optimizers(self) -> None:
        original = torch.optim.Optimizer.__init__

        @wraps(original)
        def __init__(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            self.optimizers.add(optimizer)
            self._own_optimizer.close()

        torch.optim.Optimizer.__init__ = __init__  # type: ignore[method-assign, assignment]
        for kind in (torch.optim.Optimizer, torch.nn.Module):
            kind.zero_grad = self._after_zeroing(kind.zero_grad)  # type: ignore[method-assign]
        iterations.install(self.runtime.recorder.warn)

    def _after_zeroing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def zero_grad(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self._trials.zeroed()
            return result

        return zero_grad

    def _is_parameter(self, tensor: torch.Tensor) -> bool:
        return self._depth == 0 and tensor in self.weights

    def _own_optimizer_begins(self) -> None:
        self.steps.optimizer(0)
        self._new_step()
        self.tape.append(word(Kind.OPTIMIZER, 0))

    def _own_optimizer_stepped(self) -> None:
        self._trials.stepped()
        self.steps.stepped()

    def _optimizer_begin(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.end_open_call()
        is_first = optimizer not in self.optimizers
        number = self.optimizers.begins(optimizer)
        if number is None:
            return
        parameters = parameters_of(optimizer)
        if is_first:
            self.weights.note_optimizer(optimizer, parameters)
        self.steps.optimizer(number)
        self._new_step()
        self.weights.note(parameters)
        self.runtime.clocks.count_host()
        self.tape.append(word(Kind.OPTIMIZER, number))
        self.tape.append(word(Kind.MARK, Mark.OPTIMIZER_BEGIN))

    def _new_step(self) -> None:
        repeats = self.runtime.repeats
        if repeats is not None:
            repeats.look_back()
            repeats.step += 1

    def _optimizer_end(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if optimizer in self.optimizers:
            self.tape.append(word(Kind.MARK, Mark.OPTIMIZER_END))
            self._trials.stepped()
            self.steps.stepped()
            if any(one.device.type == "cpu" for one in parameters_of(optimizer)):
                self.runtime.clocks.count_host()  # its own kernels, which run
            else:
                self.runtime.clocks.skip_host()
