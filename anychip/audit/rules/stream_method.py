"""Methods of streams and events: record_stream, wait_stream, wait_event, elapsed_time, cuda_stream.

torch.Stream and torch.Event have the same ones on other devices, so they move with the object; the raw handle
`cuda_stream` is CUDA's own and goes to C++ that must be looked at.
"""

from collections.abc import Iterable

from anychip.audit.finding import Finding, finding
from anychip.audit.rules._attributes import is_called, of_objects
from anychip.source.module import Module

NAME = "stream-method"
VALID = ("stream.write(x)\n", "def record_stream(): ...\nrecord_stream()\n", "timer.elapsed()\n")
INVALID = (
    ("x.record_stream(s)\n", (".record_stream()",)),
    ("ms = start.elapsed_time(end)\n", (".elapsed_time()",)),
    ("launch(stream.cuda_stream)\n", (".cuda_stream",)),
)
_METHODS = ("record_stream", "wait_stream", "wait_event", "elapsed_time")
_FIX = "stays: torch.Stream and torch.Event have it on every device"


def find(module: Module) -> Iterable[Finding]:
    for name in _METHODS:
        for node in of_objects(module, name):
            if is_called(module, node):
                yield finding(module, node, NAME, "cosmetic", f".{name}()", "order of streams or time of events", _FIX)
    for node in of_objects(module, "cuda_stream"):
        yield finding(
            module,
            node,
            NAME,
            "thought",
            ".cuda_stream",
            "CUDA's raw handle of a stream",
            "torch.Stream's native handle of the chip",
        )
