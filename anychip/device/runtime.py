"""`Runtime`: one virtual chip in this process, and everything that belongs to it."""

import os
from bisect import bisect_right
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch

from anychip.cost.fusion import fuse
from anychip.device.cuda.answers import answer, is_asked_in_vain
from anychip.device.cuda.clock import Clocks, VirtualClock
from anychip.device.files.saved import Saved
from anychip.device.graphs import Graphs
from anychip.device.insides._torch import Native
from anychip.device.insides._torch_tensors import Tensors
from anychip.device.ops.kernels import Kernels
from anychip.device.ops.micro_pipeline import MicroPipeline
from anychip.drivers.base import Call
from anychip.drivers.null import NEAR, NullDriver
from anychip.memory import TapeMemory, settings_of
from anychip.memory.tape import TapeAllocator
from anychip.record import Kind, Op, Place, word
from anychip.record.recorder import Recorder
from anychip.spec import Chip

SLEEP_HZ = 1e9


class Runtime:
    """The parts, wired. Made once per process, before torch.cuda is imported.

    count: devices that the program sees. device_type: "cuda", or the name of a PrivateUse1 device.
    """

    def __init__(
        self,
        chip: Chip,
        *,
        count: int = 1,
        device_type: str = "cuda",
        host_measured: bool = False,
        imbalance: float = 1.0,
    ) -> None:
        self.chip, self.count, self.device_type, self.pid = chip, count, device_type, os.getpid()
        self.recorder = Recorder()
        self.saved: Saved | None = None  # the checkpoints that the program touches
        self.clock = VirtualClock(self.recorder, chip)
        self.clocks = Clocks(self.recorder, self.clock, host_measured)
        self.memory = TapeMemory(
            self.recorder.tape, self.recorder.block_bytes, chip.memory_bytes,
            settings_of(chip.platform.alloc_conf, "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"),
        )  # fmt: skip
        self.native = Native()
        self.driver = NullDriver(self.recorder, self.clock, self.out_of_memory, chip.memory_bytes, imbalance)
        self.driver.current_stream = self._current_stream
        self.tensors = Tensors(self.native, device_type, count, self.driver.alloc, self.driver.free)
        self.kernels = Kernels(self.recorder, self.driver, self.tensors)
        self.regions = Regions(self)
        self.micro_pipeline = MicroPipeline(self)
        self.streams = StreamWatcher(self)
        self.graphs = Graphs(self.recorder, self.here)
        self.groups: Any = None  # of torch.distributed, where this torch has it
        self.collectives: Any = None
        self.stages: Any = None  # of a pipeline, that do what this rank does
        self.repeats: Any = None  # where micro-batches are folded
        self.joins: Callable[[int, int], None] = lambda rank, size: None
        self.finish: Callable[[], None] = lambda: None  # ends the recording
        self.refused_bytes = 0  # what was asked for last that did not fit
        self.pools = 0
        self._events: dict[int, int] = {}
        self._num_events = 0
        # Whether the program is inside of a module's call or a backward.
        self.in_module: Callable[[], bool] = lambda: False

    # ------------------------------------------------------------ questions

    def ask(self, name: str, place: Place | None = None) -> Any:
        """Answer a question about the chip, and keep it with its line, unless it decides nothing. place: the line, where it is
        not the one that runs now."""
        given = answer(self.chip, name)
        return given if is_asked_in_vain(name) else self.recorder.ask(name, given, place)

    @cached_property
    def compiles_whole(self) -> bool:
        """Whether the chip's software compiles a step whole, as the program's line that calls a module is answered."""
        return bool(self.ask("compiles_whole"))

    def out_of_memory(self, nbytes: int) -> None:
        """Called when an allocation comes near the chip's memory: raise if PyTorch's allocator would."""
        text = self.memory.check(nbytes)
        if text is not None and not self._fits_fused(nbytes):
            self.ask("memory_bytes")  # with more memory the program would have gone on
            self.refused_bytes = nbytes
            raise torch.OutOfMemoryError(text)

    def _fits_fused(self, nbytes: int) -> bool:
        """Whether it may fit, as a compiler's kernels do not write all that its regions are run to write here. Of one that
        is still open that is not known yet.

        As much as is then left may be asked for before it is looked at again; the forecast sees all of it fused.
        """
        if not self.regions.any:
            return False
        program = self.recorder.program({})
        if self.regions.open:
            program.tape = program.tape[: np.flatnonzero(program.kinds == Kind.COMPILED)[-1]]
        program = fuse(program)
        fused = TapeAllocator(self.memory.capacity_bytes, self.memory.settings)
        fused.run(program.tape.tolist(), program.block_bytes.tolist())
        left = self.memory.capacity_bytes - fused.allocator.allocated_bytes - nbytes
        if left < 0:
            return False
        self.driver.check_above_bytes = self.driver.used_bytes + nbytes + left
        return True

    def limit_memory(self, fraction: float) -> None:
        self.memory.limit(int(self.chip.memory_bytes * fraction))
        self.driver.check_above_bytes = int(self.chip.memory_bytes * fraction * NEAR)

    def generator(self, index: int) -> torch.Generator:
        return torch.Generator(device=torch.device("cuda", index))

    # ------------------------------------------------------------ devices and streams

    def set_device(self, index: int) -> None:
        self.native.device[0] = self.native.device[0] & 0xFF | index << 8

    def set_stream(self, stream: int) -> None:
        if stream != self.native.stream[0]:
            self.native.stream[0] = stream
            self.streams.follow()

    def _current_stream(self) -> int:
        """Of the tape, too, from here on."""
        self.streams.before()
        return self.streams.current

    def callbacks(self) -> dict[str, Any]:
        """What native events and streams of C++ call."""
        return {
            "record": self._record_event,
            "block": lambda event, stream: self.driver.wait(self._events.get(event, 0), stream),
            "synchronize_event": lambda event: self.driver.synchronize_event(self._events.get(event, 0)),
            "synchronize_stream": self.driver.synchronize,
            "synchronize_device": self.driver.synchronize,
            "elapsed_ms": self.elapsed_ms,
        }

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two recorded events, given by their handles."""
        if start not in self._events or end not in self._events:
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        return self.driver.elapsed_ms(self._events[start], self._events[end])

    def _record_event(self, handle: int, stream: int) -> int:
        """Each recording of an event is an event of its own on the tape; the handle points to the latest."""
        event = self.new_event()
        handle = handle or event
        self._events[handle] = event
        self.driver.record(event, stream)
        return handle

    def new_event(self) -> int:
        """A number for one more event on the tape."""
        self._num_events += 1
        return self._num_events

    def here(self) -> int:
        """The place on the tape, with everything written that has happened."""
        self.tensors.drain()
        self.streams.before()
        if self.collectives is not None:
            self.collectives.forget_place()
        return len(self.recorder.tape)

    def note_sleep(self, cycles: int) -> None:
        self.recorder.tape.append(self.recorder.op_word(Op("anychip.sleep", (cycles / SLEEP_HZ,))))


class StreamWatcher:
    """Keeps the tape's current stream true once a program uses more than one.

    Autograd runs a backward op on the stream of its forward op and switches natively, unseen by Python; so
    from the first switch on, every op is looked at.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.current = 0
        self._watching = False

    def follow(self) -> None:
        stream = int(self.runtime.native.stream[0])
        if not self._watching:
            self._watching = True
            self.runtime.kernels.watch(self)
        if stream != self.current:
            self.current = stream
            self.runtime.driver.use_stream(stream)

    def before(self) -> None:
        if self.runtime.native.stream[0] != self.current:
            self.follow()

    def after(self, call: Call) -> None:
        pass


class Regions:
    """Compiled regions: forward calls of what `torch.compile` made, and the backward ops that belong to them.

    While one is open every op notes the blocks that it reads and writes, so that it can be seen which ops a
    compiler would fuse. Backward ops are attributed by autograd's sequence numbers.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.open = 0
        self.depth = 0
        self.backwards = 0  # that run: one inside another, where reentrant checkpoints compute again
        self.in_backward = False
        self.graphed = False
        self._tuned: list[bool] = []  # of each region
        self.graphs = 0  # open ones of functions that are captured as they are, one inside another
        self.has_graphs = False
        self._starts: list[int] = []
        self._ends: list[int] = []

    @property
    def any(self) -> bool:
        return bool(self._starts)

    def begin(self, graphed: bool = False, tuned: bool = False) -> None:
        """graphed: the compiler also captures a CUDA graph, so the region is one launch. tuned: it makes reductions of products of
        one row."""
        self.depth += 1
        if self.depth > 1:
            return
        self.graphed = graphed and not self.graphs
        if self.graphed:
            self.runtime.recorder.tape.append(word(Kind.GRAPH, 1))
        self._starts.append(torch._C._autograd._get_sequence_nr())
        self._ends.append(0)
        self._tuned.append(tuned)
        self._open(len(self._starts))
        self.runtime.kernels.watch(self)

    def end(self) -> None:
        self.depth -= 1
        if self.depth:
            return
        self._ends[-1] = torch._C._autograd._get_sequence_nr()
        self._open(0)
        if self.graphed:
            self.runtime.recorder.tape.append(word(Kind.GRAPH, 0))
        self.runtime.kernels.unwatch(self)

    def whole(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function as `torch.compile` would have it called: what the chip's software compiles without being asked."""
        self.begin()
        try:
            return function(*args, **kwargs)
        finally:
            self.end()

    def begin_graph(self) -> None:
        """What runs until `end_graph` is one launch, in the kernels that it is made of; so is its backward."""
        self.graphs += 1
        if self.graphs == 1:
            self.has_graphs = True
            self.runtime.recorder.tape.append(word(Kind.GRAPH, 1))

    def end_graph(self) -> None:
        self.graphs -= 1
        if not self.graphs:
            self.runtime.recorder.tape.append(word(Kind.GRAPH, 0))

    def begin_backward(self) -> None:
        self.backwards += 1
        if self.backwards > 1:
            return
        if self.graphed or self.has_graphs:
            self.runtime.recorder.tape.append(word(Kind.GRAPH, 1))
        if self._starts:
            self.in_backward = True
            self.runtime.kernels.watch(self)

    def end_backward(self) -> None:
        self.backwards -= 1
        if self.backwards:
            return
        if self.in_backward:
            self.in_backward = False
            self._open(0)
            self.runtime.kernels.unwatch(self)
        if self.graphed or self.has_graphs:
            self.runtime.recorder.tape.append(word(Kind.GRAPH, 0))

    def _open(self, region: int) -> None:
        if region != self.open:
            self.runtime.micro_pipeline.flush()
            self.runtime.tensors.drain()  # what ended with the region is no result of it
            if self.open and region:
                self.runtime.recorder.tape.append(word(Kind.COMPILED, 0))
            self.open = region
            self.runtime.kernels.reduces_rows = bool(region) and self._tuned[region - 1]
            self.runtime.recorder.tape.append(word(Kind.COMPILED, region))

    def before(self) -> None:
        if self.in_backward and not self.depth:
            # What a checkpoint computes again, which is with gradients, is not of the node that asks for it.
            self._open(0 if torch.is_grad_enabled() else self.of_node())
        self.runtime.micro_pipeline.before()

    def of_node(self) -> int:
        """The region whose forward made the autograd node that runs; 0 where none did."""
        node = torch._C._current_autograd_node()
        if node is None:
            return 0
        sequence = node._sequence_nr()
        at = bisect_right(self._starts, sequence)
        return at if at and sequence < self._ends[at - 1] else 0

    def after(self, call: Call) -> None:
        if not self.open:
            return
        tape, by_address = self.runtime.recorder.tape, self.runtime.tensors.by_address
        written = call.outputs + call.mutated
        for kind, tensors in ((Kind.USE, call.tensors), (Kind.DEF, written)):
            for tensor in tensors:
                block = by_address.get(tensor.untyped_storage().data_ptr()) if tensor.is_cuda else None
                if block is not None and block.nbytes:
                    tape.append(word(kind, block.words >> 5))
        self.runtime.micro_pipeline.after(call)
