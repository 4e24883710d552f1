"""The optimizers that a program made: which step for the chip, which have yet to."""

import weakref
from typing import Any

from anychip.device.steps.holdings import done_seldom
from anychip.record.recorder import Recorder

STEPS_ON_HOST = (
    "An optimizer steps on the host (offloaded parameters): the CPU's time for it is not in the forecast; --host measured "
    "counts this machine's."
)


class Optimizers:
    """made: all, whether they have stepped or not. to_be_used: a trained module's gradients came, and none has stepped since."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.made: weakref.WeakSet[Any] = weakref.WeakSet()
        self._kinds: dict[str, None] = {}  # of all that there were
        self._in_use = False  # one has stepped, on the chip or on the host
        self.to_be_used = False
        self._numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # of those that stepped
        self._beside: weakref.WeakSet[Any] = weakref.WeakSet()  # that have stepped on the host, for nothing on the chip
        self._resting: set[int] = set()  # parameters of models that work on the chip and rest on the host, by id

    def add(self, optimizer: Any) -> None:
        self.made.add(optimizer)
        self._kinds[type(optimizer).__name__] = None

    def __contains__(self, optimizer: Any) -> bool:
        """Whether it has stepped for the chip."""
        return optimizer in self._numbers

    def rest(self, parameters: list[Any]) -> None:
        """These lie on the host, and their model works on the chip."""
        self._resting.update(map(id, parameters))

    def begins(self, optimizer: Any) -> int | None:
        """The number of one that steps; None where it does so on the host, for nothing on the chip."""
        parameters = parameters_of(optimizer)
        self._in_use = True
        if is_on_host(parameters):
            known = optimizer in self or not self._resting.isdisjoint(map(id, parameters))
            if not parameters or not (known or self._steps_for_chip(optimizer)):
                self._beside.add(optimizer)
                return None
            if optimizer not in self:
                self.recorder.warn(STEPS_ON_HOST)
        self.to_be_used = False
        return self._numbers.setdefault(optimizer, len(self._numbers))

    def _steps_for_chip(self, optimizer: Any) -> bool:
        """Whether an optimizer of the host's tensors steps on what the chip's model has: no other one has tensors of the
        chip, and gradients have come of which no use was made (ZeRO-Offload: the host keeps copies of its own)."""
        others = (one for one in self.made if one is not optimizer)
        return self.to_be_used and all(is_on_host(parameters_of(other)) for other in others)

    def unstepped(self, on_host: bool = False) -> list[Any]:
        """Optimizers that are there, train what no other does, and took no step yet: a GAN's generator that steps once in five steps
        of its critic. on_host: those of the host's tensors, too, as the outer one of ranks that meet every so many steps (DiLoCo)."""
        stepped = {id(one) for optimizer in self._numbers for one in parameters_of(optimizer)}
        return [
            optimizer for optimizer in self.made
            if optimizer not in self._beside
            and (ids := {id(one) for one in parameters_of(optimizer) if (on_host or one.device.type != "cpu") and one.requires_grad})
            and stepped.isdisjoint(ids)
        ]  # fmt: skip

    def tell_unused(self) -> None:
        """Say so where none has stepped, of a program that ended as if nothing were wrong."""
        if self._kinds and not self._in_use:
            self.recorder.warn(
                f"The program made an optimizer ({', '.join(self._kinds)}) that took no step, and ended by itself: figures are of calls of a model "
                "alone. If it was to train, what it printed says why it did not: an error that it caught, or no data."
            )

    def tell(self, steps: int) -> None:
        """Say of optimizers that took no step while others took so many, and of what they do once in more of them."""
        if idle := self.unstepped(on_host=True):
            kinds = ", ".join(sorted(type(one).__name__ for one in idle))
            self.recorder.warn(
                f"{len(idle)} of the program's {len(self.made)} optimizers ({kinds}) took no step in the {steps} recorded: the "
                "time, memory and throughput of a step are without it. If it steps once in several steps of the others (a generator "
                f"after its critic), record at least as many: --steps {max(20, 4 * steps)}."
            )
        for optimizer in self._numbers:
            for name, once_in in done_seldom(optimizer, steps).items():
                self.recorder.warn(
                    f"{type(optimizer).__name__} has {name} = {once_in:,}: what it does once in so many steps may be in none of the "
                    f"{steps} recorded. --steps {2 * once_in + 1} tells how long steps take on average."
                )


def parameters_of(optimizer: Any) -> list[Any]:
    return [one for group in optimizer.param_groups for one in group["params"]]


def is_on_host(parameters: list[Any]) -> bool:
    return all(one.device.type == "cpu" for one in parameters)
