"""The virtual clock: what time it is on the chip, for a program that measures itself.

`time.time`, `monotonic`, `perf_counter` and their `_ns` forms answer from it, but only where the program
itself asks: the standard library's own waiting (queues, threads, sockets) goes by the real clock, and so do
threads that the program did not start.
"""

import threading
import time
import timeit
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from anychip.cost.price import Prices, Row
from anychip.network import Fabric, collective_of
from anychip.record import Kind, Op, word
from anychip.record.recorder import Recorder, is_standard_library
from anychip.spec import Chip
from anychip.timeline import Engine

REAL = {name: getattr(time, name) for name in ("time", "monotonic", "perf_counter", "sleep")}
NAP_S = 0.02  # what remains of a sleep, so that other threads and processes get their turn


class Groups(Protocol):
    """Whom a rank's collectives are among."""

    rank: int

    def ranks(self, number: int) -> tuple[int, ...]: ...


class JobPrices(Prices):
    """Prices of one rank's ops, its collectives at what the network takes when all come at the same time."""

    def __init__(self, ops: list[Op], chip: Chip, fabric: Fabric, groups: Groups, known: Prices | None = None) -> None:
        self.fabric, self.groups = fabric, groups
        super().__init__(ops, chip, known)

    def like(self, ops: list[Op]) -> Prices:
        return JobPrices(ops, self.chip, self.fabric, self.groups, self)

    def _row(self, op: Op) -> Row:
        row = super()._row(op)
        call = collective_of(op)
        if call is None:
            return row
        ranks = self.groups.ranks(call.group) if call.peer is None else (self.groups.rank, call.peer)
        return (self.fabric.cost(call.kind, call.nbytes, ranks, call.dtype).time_s, 0.0, 1, row[3], False, *row[5:])


class VirtualClock:
    """Prices the tape as far as it has grown whenever it is asked."""

    def __init__(self, recorder: Recorder, chip: Chip) -> None:
        self.recorder = recorder
        self.engine = Engine(chip, recorder.ops, recorder.block_bytes)
        self._read = 0
        self._lock = threading.Lock()

    def join(self, fabric: Fabric, groups: Groups) -> None:
        """From here on collectives take the network's time. Before the program's first op."""
        self.engine.prices = JobPrices(self.recorder.ops, self.engine.prices.chip, fabric, groups)

    def _catch_up(self) -> None:
        tape = self.recorder.tape
        if self._read < len(tape):
            with self._lock:
                end = len(tape)
                self.engine.run(np.array(tape[self._read : end], dtype=np.int64))
                self._read = end

    def now_s(self) -> float:
        """Seconds on the host's clock since the program began."""
        self._catch_up()
        return self.engine.host_s

    def event_s(self, event: int) -> float:
        self._catch_up()
        return self.engine.event_time_s(event)


class Clocks:
    """Puts the virtual clock in the place of Python's. `measured` counts the host's own time between calls, too."""

    def __init__(self, recorder: Recorder, clock: VirtualClock, measured: bool) -> None:
        self.recorder, self.clock, self.measured = recorder, clock, measured
        self.zero = {name: function() for name, function in REAL.items() if name != "sleep"}
        self._last_s = REAL["perf_counter"]()
        self._real_threads: set[int] = set()

    def install(self) -> None:
        for name in ("time", "monotonic", "perf_counter"):
            seconds = self._seconds(name, REAL[name])
            setattr(time, name, seconds)
            setattr(time, f"{name}_ns", self._nanoseconds(seconds))
        time.sleep = self._sleep  # type: ignore[assignment]
        timeit.default_timer = time.perf_counter

    def _seconds(self, name: str, real: Callable[[], float]) -> Callable[[], float]:
        zero, now_s = self.zero[name], self.clock.now_s

        def seconds() -> float:
            return zero + now_s() if self._asked_by_program() else real()

        seconds.__name__ = name
        return seconds

    def _nanoseconds(self, seconds: Callable[[], float]) -> Callable[[], int]:
        def nanoseconds() -> int:
            return int(seconds() * 1e9)

        nanoseconds.__name__ = f"{seconds.__name__}_ns"
        return nanoseconds

    def _asked_by_program(self) -> bool:
        if threading.current_thread() is not threading.main_thread():
            return False
        return not is_standard_library(3)

    def _sleep(self, seconds: float) -> None:
        if not self._asked_by_program():
            REAL["sleep"](seconds)
            return
        self.count_host()
        self.recorder.tape.append(word(Kind.HOST, int(seconds * 1e9)))
        REAL["sleep"](min(seconds, NAP_S))
        self._last_s = REAL["perf_counter"]()  # the nap is no time of its own

    def count_host(self, *_: Any) -> None:
        """With --host measured: put the real time since the last look on the tape. In calls of models, backward passes and
        optimizers it is what recording takes, many times what the chip's host takes, and left out (`skip_host`)."""
        if self.measured:
            now = REAL["perf_counter"]()
            self.recorder.tape.append(word(Kind.HOST, max(int((now - self._last_s) * 1e9), 0)))
            self._last_s = REAL["perf_counter"]()

    def skip_host(self) -> None:
        """What has passed since the last look is not the program's."""
        self._last_s = REAL["perf_counter"]()
