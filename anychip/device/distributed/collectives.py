"""The kernels of torch's collectives: operators of `c10d`, noted with their tensors and their group.

Among one rank a collective costs a copy or nothing, as on the real thing. Among more it runs on a stream of its group's
own, behind what the program has issued, unless it is called synchronously: then on the current stream, as torch's NCCL
backend does. `Work.wait` is the current stream waiting for it. Small values are worked out as if every rank held this one's.
"""

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.distributed import distributed_c10d as c10d

from anychip.device.distributed.call import BETWEEN_TWO, POINT_TO_POINT, REDUCTIONS, Call
from anychip.device.distributed.groups import Groups
from anychip.device.distributed.pending import Pending
from anychip.device.distributed.refusals import check
from anychip.device.insides._torch import Engine
from anychip.device.insides._torch_host import implement
from anychip.device.ops.kernels import canonical, flat_tensors
from anychip.device.runtime import Runtime
from anychip.drivers.values import KEPT, SMALL
from anychip.errors import Deadlock
from anychip.record import Kind, Op, word
from anychip.record.recorder import user_place
from anychip.record.tape import HOST_STREAM

COMM_STREAM = 1000  # numbers of streams that programs cannot make
NO_STREAM = HOST_STREAM - 1  # nothing is ever on it

# operators whose result stands where the input stood
IN_PLACE = (
    "allreduce_",
    "allreduce_coalesced_",
    "broadcast_",
    "reduce_",
    "barrier",
    "send",
    "recv_",
    "recv_any_source_",
    "monitored_barrier_",
)
# those with an output and an input, in this order
OUT_OF_PLACE = (
    "allgather_", "_allgather_base_", "allgather_coalesced_", "allgather_into_tensor_coalesced_",
    "reduce_scatter_", "_reduce_scatter_base_", "reduce_scatter_tensor_coalesced_",
    "alltoall_", "alltoall_base_", "gather_", "scatter_",
)  # fmt: skip
RETURN_TENSORS = ("allreduce_", "broadcast_", "allgather_", "_allgather_base_", "reduce_scatter_", "_reduce_scatter_base_",
                  "alltoall_", "scatter_")  # fmt: skip
FROM_ROOT = ("broadcast_object_list", "scatter_object_list")
SUM, AVERAGE = 0, 1  # c10d::ReduceOp::RedOpType
# Collectives of one small tensor whose values travel where every rank runs, and what reductions do with all of them.
SHARED = ("allreduce_", "allgather_", "_allgather_base_", "alltoall_base_")
REDUCED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda each: each.sum(0),
    "avg": lambda each: each.sum(0) / len(each),
    "product": lambda each: each.prod(0),
    "min": lambda each: each.amin(0),
    "max": lambda each: each.amax(0),
}


class Collectives:
    def __init__(self, runtime: Runtime, groups: Groups) -> None:
        self.runtime, self.groups = runtime, groups
        self._heard: dict[int, int] = {}  # by group
        self.kept: deque[Any] = deque(maxlen=4096)  # C++ holds a Work, but not its Python half
        # Of the coalesced batch that is open: small tensors to receive.
        self.batch: list[tuple[Call, torch.Tensor]] | None = None
        self.batch_host_events: list[int] = []  # of what hosts exchange in it
        self.late: list[tuple[Call, torch.Tensor]] = []  # of the receive that is being issued
        self.gathered: list[torch.Tensor] = []
        self.unwaited: list[Pending] = []  # called by C++ in a backward: whoever called waits at its end
        self.buckets: set[int] = set()  # blocks of what is reduced so where it lies
        self._place = -1
        self._batch_start = 0
        self._lines: dict[tuple[Any, ...], int] = {}  # of hosts' collectives, each with a stream of its own
        self.beside: set[int] = set()  # groups in which other threads call hosts' collectives
        self.told_as: str | None = None
        self._told: dict[tuple[int, str], int] = {}  # broadcasts, by group and root

    # ------------------------------------------------------------ kernels

    def kernel(self, name: str) -> Callable[..., Any]:
        schema = torch._C._get_schema(f"c10d::{name}", "")
        names = [argument.name for argument in schema.arguments]
        defaults = {
            argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()
        }

        def run(*args: Any, **kwargs: Any) -> Any:
            at = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
            number, ranks = self.groups.number(at["process_group"])
            out_of_place = name in OUT_OF_PLACE
            outputs = flat_tensors(args[0])
            inputs = flat_tensors(args[1]) if out_of_place else outputs
            check(name, at, outputs, inputs, len(ranks))
            call = Call(name, at, outputs, inputs, number, ranks)
            work = self._alone(call) if len(ranks) == 1 else self._among(call)
            self.kept.append(work)
            if name == "monitored_barrier_":
                work.wait()
                return None
            return (args[0], work.boxed()) if name in RETURN_TENSORS else work.boxed()

        return run

    def _alone(self, call: Call) -> Pending:
        """In a group of one the input is copied, unless it lies where the output does."""
        if call.name in OUT_OF_PLACE:
            for one, other in zip(call.outputs, call.inputs, strict=False):
                if one.data_ptr() != other.data_ptr():
                    one.view(-1).copy_(other.reshape(-1))
        return Pending(self, call.outputs, None)

    def _among(self, call: Call) -> Pending:
        if self.groups.is_over(call.name, call.group, call.peer):
            if self.batch is not None:
                del self.runtime.recorder.tape[self._batch_start :]
            self.runtime.finish()
        event = host_event = None
        if any(tensor.device.type != "cpu" for tensor in (*call.outputs, *call.inputs)):
            event = self._note(call)
        else:
            host_event = self._note_of_hosts(call)
        self._values(call)
        work = Pending(self, call.outputs, event, gathers=call.name == "allgather_")
        if host_event is not None:
            (work.host_events if self.batch is None else self.batch_host_events).append(host_event)
        # Until the next one: a program may ask for the future of a gather into a list that nobody else holds.
        self.gathered = call.outputs if work.gathers and call.at["async_op"] else []
        work.late, self.late = self.late, []
        if call.name == "recv_any_source_":
            work.source = self._next_source(call)
        if event is not None and self.batch is None and called_by_autograd():
            self.unwaited.append(work)
            if call.inputs is call.outputs:
                self.buckets.update(self.runtime.tensors.numbers(call.inputs))
        return work

    def _next_source(self, call: Call) -> int:
        """Whom a receive from any rank is told to have heard from, within the group: the others in turn, as nobody is known to be
        first."""
        others = [place for place, rank in enumerate(call.ranks) if rank != self.groups.rank]
        turn = self._heard[call.group] = self._heard.get(call.group, -1) + 1
        return others[turn % len(others)] if others else 0

    # ------------------------------------------------------------ the tape

    def _note(self, call: Call) -> int | None:
        """Put the collective on the tape; the event that says that it is over, None where the stream itself says so."""
        recorder = self.runtime.recorder
        self.runtime.streams.before()
        self._at()
        words = [recorder.op_word(call.op(sure=not self.runtime.driver.values.invented))]
        pieces = call.pieces
        if pieces:
            # The buffer is given back at once, on the host's clock, as the real one is.
            flat = pieces[0].new_empty((len(pieces), *pieces[0].shape))
            ends = (flat[0], pieces[0]) if call.name == "reduce_scatter_" else (pieces[0], flat[0])
            copies = [
                recorder.op_word(Op("aten.copy_.default", canonical(ends), (("non_blocking", True),), (), (0,)))
            ] * len(pieces)
            words = [*copies, *words] if call.name == "reduce_scatter_" else [*words, *copies]
        if self.batch is not None or not call.at.get("async_op", True):
            for op in words:
                self.runtime.driver.launch(op)
            return None
        stream = COMM_STREAM + call.group if call.peer is None else self.groups.pair_stream(call.group, call.peer)
        beside, names = self.runtime.micro_pipeline, self.groups.names(call.group)
        event = self._on_stream(stream, words, beside.issues(call.name, names, call.inputs))
        beside.issued(call.name, names, call.outputs, event)
        return event

    def _on_stream(self, stream: int, words: list[int], behind: int | None = None) -> int:
        """Words on a communication stream, behind an event or all that the current one has so far; returns the event of their
        end."""
        runtime = self.runtime
        current = runtime.driver.current_stream()
        begin, end = runtime.new_event() if behind is None else behind, runtime.new_event()
        runtime.recorder.tape.extend((
            *([word(Kind.RECORD, begin)] if behind is None else []), word(Kind.STREAM, stream), word(Kind.WAIT, begin), *words,
            word(Kind.RECORD, end), word(Kind.STREAM, current),
        ))  # fmt: skip
        return end

    def _note_of_hosts(self, call: Call) -> int | None:
        """The same of tensors that hosts have: the event that says so on the host."""
        op = call.op(host=True, sure=not self.runtime.driver.values.invented)
        line = (call.group,) if call.name not in BETWEEN_TWO else (call.group, call.name, call.peer, call.at["tag"])
        return self._of_hosts(op, line)

    def note_objects(self, name: str, group: Any, root: int | None = None) -> None:
        """Put a collective of objects on the tape, after which the host goes on when all have come; on a chip's backend whoever has given
        what all get goes on at once."""
        if group.size() == 1:
            return
        number, ranks = self.groups.number(group)
        named = () if root is None else (("root", ranks[root]),)
        args = (), (), number
        if c10d._get_object_coll_device(group) == "cpu":
            event = self._of_hosts(Op(f"c10d.{name}.default", args, (("host", True), *named)), (number,))
            self.wait_on_host([] if event is None else [event])
        elif in_main_thread():
            self._at()
            self.runtime.driver.launch(self.runtime.recorder.op_word(Op(f"c10d.{name}.default", args, named)))
            if name not in FROM_ROOT or root != group.rank():
                self.runtime.driver.synchronize(int(self.runtime.native.stream[0]))
            elif self.runtime.in_module():
                # Its calls fold on no rank then: those that wait would count other objects than the root gives.
                self.runtime.driver.synchronize(NO_STREAM)

    def _of_hosts(self, op: Op, line: tuple[Any, ...]) -> int | None:
        """A collective between hosts, beside all but those of its line; the event of its end. None in other threads than the program's
        first, whose calls stand in no order with its own."""
        if not in_main_thread():
            self.beside.add(line[0])
            return None
        runtime, at = self.runtime, self._batch_start if self.batch is not None else len(self.runtime.recorder.tape)
        stream = HOST_STREAM + self._lines.setdefault(line, len(self._lines))
        end, self._place = runtime.new_event(), runtime.recorder.place(user_place())
        words = (
            word(Kind.AT, self._place), word(Kind.STREAM, stream), runtime.recorder.op_word(op), word(Kind.RECORD, end),
            word(Kind.STREAM, int(runtime.native.stream[0])),
        )  # fmt: skip
        runtime.recorder.tape[at:at] = words  # before a batch that is open, which is one launch of the chip
        self._batch_start = at + len(words)
        return end

    def wait_on_host(self, events: Iterable[int]) -> None:
        self.runtime.recorder.tape.extend(word(Kind.SYNC_EVENT, event) for event in events)

    def _at(self) -> None:
        place = self.runtime.recorder.place(user_place())
        if place != self._place:
            self._place = place
            self.runtime.recorder.tape.append(word(Kind.AT, place))

    def forget_place(self) -> None:
        """Have the next collective say its line."""
        self._place = -1

    def wait(self, event: int) -> None:
        if self.runtime.micro_pipeline.puts_off(event):
            return
        self.runtime.streams.before()
        self.runtime.recorder.tape.append(word(Kind.WAIT, event))

    def wait_for_unwaited(self) -> None:
        """A backward is over: DistributedDataParallel, which lives in C++, waits for its buckets here."""
        for work in self.unwaited:
            work.wait()
        self.unwaited.clear()

    # ------------------------------------------------------------ coalesced batches

    def begin_batch(self, *_: Any) -> None:
        if self.batch is None:
            self.runtime.streams.before()
            self.batch = []
            self._batch_start = len(self.runtime.recorder.tape)

    def end_batch(self, group: Any, *_: Any) -> Pending:
        """What stood between is one launch on the group's stream."""
        assert self.batch is not None
        late, self.batch = self.batch, None
        host_events, self.batch_host_events = self.batch_host_events, []
        tape = self.runtime.recorder.tape
        words = tape[self._batch_start :]
        work = Pending(self, [], None)
        work.late, work.host_events = late, host_events
        if words:
            del tape[self._batch_start :]
            stream = COMM_STREAM + self.groups.number(group)[0]
            work.event = self._on_stream(stream, [word(Kind.BATCH, 1), *words, word(Kind.BATCH, 0)])
        self.kept.append(work)
        return work

    # ------------------------------------------------------------ values

    def _values(self, call: Call) -> None:
        """Small tensors that have values: what comes out if every rank holds what this one does."""
        if call.name in POINT_TO_POINT:
            self._exchange(call)
            return
        if call.name == "broadcast_":
            self._from_root(call)
            return
        if self._of_all(call):
            return
        if call.name not in ("allreduce_", "allreduce_coalesced_", "reduce_") and call.name not in OUT_OF_PLACE:
            return
        sums = "reduce_op" in call.at and int(call.at["reduce_op"].op()) == SUM
        for output, value in self._results(call, len(call.ranks)):
            self.runtime.driver.values.invented = True
            self._tell(output, value * len(call.ranks) if sums else value)

    def _of_all(self, call: Call) -> bool:
        """Small tensors where every rank runs: what each has really travels, but in modules, whose repeated calls a rank leaves
        out, unless it is told apart (`telling`)."""
        what = self.told_as if self.told_as is not None else "" if self.runtime.in_module() else call.name
        if not what or call.name not in SHARED or len(call.inputs) != 1 or call.inputs[0].numel() > SMALL:
            return False
        value = self._value(call.inputs[0])
        each = self.groups.of_each(self.groups.which_of(call.group), None if value is None else value.clone(), what)
        if each is None and self.told_as and self.groups.everyone:
            self.runtime.finish()  # others have done their steps: there is nobody to go along with
        if each is None or any(one is None or one.shape != each[0].shape for one in each):
            return False
        if call.name == "allreduce_":
            reduce = REDUCED.get(REDUCTIONS[int(call.at["reduce_op"].op())])
            if reduce is None:
                return False
            parts = [reduce(torch.stack(each)).to(each[0].dtype)]
        elif call.name == "alltoall_base_":
            if len({*call.at["input_split_sizes"], *call.at["output_split_sizes"]}) > 1 or each[0].numel() % len(each):
                return False
            mine = call.ranks.index(self.groups.rank)
            parts = [torch.cat([one.reshape(len(each), -1)[mine] for one in each])]
        else:
            parts = each if len(call.outputs) == len(each) else [torch.cat([one.reshape(-1) for one in each])]
        for output, part in zip(call.outputs, parts, strict=True):
            self._tell(output, part.reshape(output.shape))
        return True

    @contextlib.contextmanager
    def telling(self, what: str) -> Iterator[None]:
        """Small values that ranks tell one another meanwhile are counted under a name of their own, as not all stand at the same line; ""
        are not told."""
        before, self.told_as = self.told_as, what
        try:
            yield
        finally:
            self.told_as = before

    def _results(self, call: Call, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Outputs and their values before a sum over the ranks; only those whose values are known."""
        if not call.inputs:  # a scatter, of which only the root has the input
            return []
        spread = len(call.outputs) == size * len(call.inputs)  # allgather: a list of outputs for each input
        mine = call.ranks.index(self.groups.rank)
        swapped = call.name == "alltoall_" and len(call.inputs) == len(call.outputs) == size
        found = []
        for number, output in enumerate(call.outputs):
            source = call.inputs[mine if swapped else number // size if spread else min(number, len(call.inputs) - 1)]
            # As much as is kept: how many tokens each rank has for each of hundreds of experts, the bytes of an object.
            kept = output.numel() * output.element_size() <= KEPT
            value = self._value(source) if kept or output.device.type == "cpu" else None
            if value is None:
                if call.inputs is not call.outputs:
                    self._forget(output)
                continue
            flat = value.reshape(-1)
            if call.name == "alltoall_base_" and len({*call.at["input_split_sizes"]}) < 2 and flat.numel() % size == 0:
                flat = flat.view(size, -1)[mine].repeat(size)  # of each of the others what it has for this rank
            found.append((output, _part(flat, output, mine)))
        return found

    def _exchange(self, call: Call) -> None:
        """What a program sends in small tensors decides what it does: it really travels."""
        mailbox, peer = self.groups.mailbox, call.peer
        if mailbox is None or peer is None or peer == self.groups.rank:
            return
        for tensor in call.outputs:
            if tensor.numel() > SMALL:
                continue
            if call.name == "send":
                value = self._value(tensor)
                mailbox.send(peer, None if value is None else value.clone())
                continue
            # As on a real chip, the host goes on, and waits when it asks: it may have to send first.
            self._forget(tensor)
            (self.late if self.batch is None else self.batch).append((call, tensor))

    def _from_root(self, call: Call) -> None:
        """Whole numbers that one rank gives to all say what all are to do (whether to train, how long the sequences are): they
        really travel. Those of modules, whose repeated calls a rank leaves out, are taken if they are there."""
        mailbox, root = self.groups.mailbox, call.ranks[call.at["root_rank"]]
        if mailbox is None:
            return
        inner = self.runtime.in_module()
        for tensor in call.outputs:
            if tensor.dtype.is_floating_point or tensor.dtype.is_complex or not 0 < tensor.numel() <= SMALL:
                continue
            where = f"{call.at['root_rank']}" + (f"-{tensor.numel()}-{user_place().line}" if inner else "")
            number = self._told[call.group, where] = self._told.get((call.group, where), -1) + 1
            group = self.groups.which_of(call.group)
            key, kin = f"value-{group.key}-{where}-{number}", f"value-{len(group.ranks)}-{group.copy}-{where}-{number}"
            if root == self.groups.rank:
                value = self._value(tensor)
                mailbox.publish(key, None if value is None else value.clone(), kin)
            elif mailbox.holds(key, kin, waits=not inner):
                with contextlib.suppress(Deadlock):  # the root has ended before: then it is not waited for
                    value = mailbox.published(key, root, "broadcast", user_place(), kin)
                    if value is not None:
                        self._tell(tensor, value.reshape(tensor.shape))

    def receive(self, call: Call, tensor: torch.Tensor) -> None:
        mailbox, peer = self.groups.mailbox, call.peer
        assert mailbox is not None
        assert peer is not None
        value = mailbox.receive(peer, self.groups.around(peer, call.ranks), "recv", user_place())
        if value is not None and value.numel() == tensor.numel():  # else they do not fit, which the whole job is told
            self._tell(tensor, value.reshape(tensor.shape))

    def _value(self, tensor: torch.Tensor) -> torch.Tensor | None:
        return tensor.detach() if tensor.device.type == "cpu" else self.runtime.driver.values_of(tensor)

    def _tell(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        if tensor.device.type == "cpu":
            tensor.detach().copy_(value)
        else:
            self.runtime.driver.tell(tensor, value)

    def _forget(self, tensor: torch.Tensor) -> None:
        if tensor.device.type != "cpu" and tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes():
            self.runtime.driver.forget(tensor)

    # ------------------------------------------------------------ registration

    def install(self) -> None:
        kernels = [(name, self.kernel(name), key) for name in (*IN_PLACE, *OUT_OF_PLACE) for key in ("CUDA", "CPU")]
        kernels.append(("allreduce_", self.kernel("allreduce_"), "SparseCUDA"))
        nothing = (("check_for_nan", lambda *_, **__: None, key) for key in ("CUDA", "CPU"))
        implement("c10d", [*kernels, *nothing])


def in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _part(flat: torch.Tensor, output: torch.Tensor, mine: int) -> torch.Tensor:
    """What of the input an output gets: all of it as often as it fits (gather), or this rank's part of it (scatter)."""
    count = output.numel()
    if count > flat.numel() > 0:
        flat = flat.repeat(-(-count // flat.numel()))
    start = mine * count if flat.numel() >= (mine + 1) * count else 0
    return flat[start : start + count].reshape(output.shape).to(output.dtype)


def called_by_autograd() -> bool:
    """Whether C++ called, in a backward, not Python code that could wait itself."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename == __file__:
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return frame.f_code is Engine.run.__code__
