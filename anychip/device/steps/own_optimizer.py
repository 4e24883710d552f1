"""The optimizer of a program that makes none of torch's: parameters are written between a backward and the next forward."""

from collections.abc import Callable

import torch

from anychip.device.runtime import Runtime
from anychip.drivers.base import Call
from anychip.record import Kind, Mark, word

END = word(Kind.MARK, Mark.OPTIMIZER_END)


class OwnOptimizer:
    """The optimizer of a program that has none of torch's, known by what it does. Sees every call from the end of a backward to
    the next forward, and says how one begins and where the last of it so far ends."""

    def __init__(
        self,
        runtime: Runtime,
        is_parameter: Callable[[torch.Tensor], bool],
        begins: Callable[[], None],
        stepped: Callable[[], None],
    ) -> None:
        self.tape, self.kernels = runtime.recorder.tape, runtime.kernels
        self.is_parameter, self.begins, self.stepped = is_parameter, begins, stepped
        self.watches = False
        self._end: int | None = None

    def watch(self) -> None:
        self.close()
        self.watches, self._end = True, None
        self.kernels.watch(self)

    def close(self) -> None:
        if self.watches:
            self.watches = False
            self.kernels.unwatch(self)

    def before(self) -> None:
        pass

    def after(self, call: Call) -> None:
        if not any(self.is_parameter(one) for one in call.mutated):
            return
        # What a graph captured is taken off the tape, an end there too.
        if self._end is None or self.tape[self._end : self._end + 1] != [END]:
            self.begins()
        else:
            self.tape[self._end] = word(Kind.OPTIMIZER, 0)  # it has not ended there
        self._end = len(self.tape)
        self.tape.append(END)
        self.stepped()
