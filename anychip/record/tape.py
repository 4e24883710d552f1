"""The tape: everything a program did to its chip, in host order, as a sequence of int64 words.

A word is ``payload << KIND_BITS | kind``. The recorder appends one Python int per happening, which is
what keeps recording cheap; numpy reads the whole tape at once, which is what keeps pricing cheap. What a
payload means is said beside each kind. Nothing on the tape is a time: times come from a chip.
"""

from collections.abc import Iterable
from enum import IntEnum

import numpy as np
import numpy.typing as npt

KIND_BITS = 5
KIND_MASK = (1 << KIND_BITS) - 1


class Kind(IntEnum):
    """What one word says. The states they describe (current stream, module, region) hold until changed."""

    OP = 0  # payload: index into Program.ops; it is launched on the current stream
    ALLOC = 1  # payload: block; its bytes are Program.block_bytes[block]
    FREE = 2  # payload: block; a block may be allocated again later
    STREAM = 3  # payload: stream that following ops go to; 0 is the default stream
    RECORD = 4  # payload: event, recorded on the current stream
    WAIT = 5  # payload: event that the current stream waits for
    SYNC = 6  # payload: 0, the host waits for the whole chip; n > 0, for stream n - 1
    SYNC_EVENT = 7  # payload: event that the host waits for
    READ = 8  # payload: place; the host read a value: it waits for the current stream
    ENTER = 9  # payload: module (index into Program.modules), forward begins
    EXIT = 10  # payload: module, forward ends
    MARK = 11  # payload: a Mark
    COMPILED = 12  # payload: region number (from 1) that begins; 0, the region ends
    USE = 13  # payload: block read by the preceding OP (only in compiled regions)
    DEF = 14  # payload: block written by the preceding OP (only in compiled regions)
    GRAPH = 15  # payload: 1, a captured graph is replayed from here: one launch; 0, it ends
    HOST = 16  # payload: nanoseconds that the host spent on its own
    NODE = 17  # payload: module; the ops of a backward that follow belong to it
    RECORD_STREAM = 18  # payload: block that the current stream uses too (caching allocator)
    ALLOC_CALL = 19  # payload: an AllocatorCall, a thing the program asked of the allocator
    OPTIMIZER = 20  # payload: number of the optimizer whose OPTIMIZER_BEGIN follows
    BATCH = 21  # payload: 1, the collectives from here on are one launch, sends and receives at once; 0, they end
    AT = 22  # payload: place of the user's source that issued the collectives that follow


# The kinds that loops over words compare with, as plain ints: an enum's member costs ten times as much.
ALLOC, FREE, OP, HOST, MARK = map(int, (Kind.ALLOC, Kind.FREE, Kind.OP, Kind.HOST, Kind.MARK))
STREAM, RECORD, WAIT, BATCH = map(int, (Kind.STREAM, Kind.RECORD, Kind.WAIT, Kind.BATCH))
SYNC, SYNC_EVENT, READ, COMPILED, GRAPH = map(int, (Kind.SYNC, Kind.SYNC_EVENT, Kind.READ, Kind.COMPILED, Kind.GRAPH))
RECORD_STREAM, ALLOC_CALL, USE, DEF = map(int, (Kind.RECORD_STREAM, Kind.ALLOC_CALL, Kind.USE, Kind.DEF))

HOST_STREAM = 1_000_000  # from here on: streams of no chip, on which hosts' own collectives run beside one another

# What a word's payload names.
OF_BLOCKS = (Kind.ALLOC, Kind.FREE, Kind.USE, Kind.DEF, Kind.RECORD_STREAM)
OF_EVENTS = (Kind.RECORD, Kind.WAIT, Kind.SYNC_EVENT)
OF_MODULES = (Kind.ENTER, Kind.EXIT, Kind.NODE)


class Mark(IntEnum):
    """Where a program stands in its training step; steps are derived from these (`record.steps`)."""

    FORWARD_BEGIN = 0  # outermost call of a module, gradients enabled and wanted
    FORWARD_END = 1
    INFER_BEGIN = 2  # outermost call of a module without gradients
    INFER_END = 3
    BACKWARD_BEGIN = 4
    BACKWARD_END = 5
    OPTIMIZER_BEGIN = 6
    OPTIMIZER_END = 7
    STEP = 8  # the function named by --step-mark has returned: a step ends here, whatever optimizers do
    UNLEARNT = 9  # nothing is learnt of what the last backward went through; once more: of what the one before it did
    AGAIN = 10  # the call that begins next is given what its module was before, in a graph that was kept
    GRAPH = 11  # of the gradients that the last backward was asked for there is a graph, which another may go through
    CAPTURED = (
        12  # a CUDA graph is there, and none was replayed so far: calls until here may have been to warm up for it
    )


class AllocatorCall(IntEnum):
    EMPTY_CACHE = 0
    RESET_PEAK = 1


def flags(kinds: Iterable[int]) -> npt.NDArray[np.bool_]:
    """By a kind's number whether it is one of these."""
    found = np.zeros(KIND_MASK + 1, bool)
    found[list(kinds)] = True
    return found


def order_of(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Their stable order. numpy counts numbers of 16 bits, which those of blocks, reused as they are, nearly always are; it
    compares larger ones."""
    order: npt.NDArray[np.int64] = np.argsort(
        numbers.astype(np.uint16) if numbers.max(initial=0) < 1 << 16 else numbers, kind="stable"
    )
    return order


def word(kind: Kind, payload: int = 0) -> int:
    return payload << KIND_BITS | kind
