"""The recording's memory in the format of `torch.cuda.memory._dump_snapshot`, for https://pytorch.org/memory_viz.

In: a Program. Out: one dict of plain values. Blocks get addresses of their own in the order in which they were first
allocated; what torch's caching allocator would have made of them is not shown here: one segment per block that lives at
the end. In place of Python stacks stand the modules that were being called. Source of the format:
torch/cuda/_memory_viz.py, docs.pytorch.org/docs/stable/torch_cuda_memory.html.
"""

import pickle
from typing import Any

import numpy as np

from anychip.record.program import Program
from anychip.record.tape import KIND_BITS, KIND_MASK, Kind, Mark

FIRST_ADDRESS = 1 << 40
PHASES = {
    Mark.FORWARD_BEGIN: "forward",
    Mark.INFER_BEGIN: "inference",
    Mark.BACKWARD_BEGIN: "backward",
    Mark.OPTIMIZER_BEGIN: "optimizer",
}
_KINDS = (Kind.ALLOC, Kind.FREE, Kind.ENTER, Kind.EXIT, Kind.STREAM, Kind.MARK)


def snapshot(program: Program) -> dict[str, Any]:
    """Every allocation and free in order, and what is live at the end."""
    addresses = FIRST_ADDRESS + np.concatenate(([0], np.cumsum(program.block_bytes)))
    events: list[dict[str, Any]] = []
    live: dict[int, dict[str, Any]] = {}
    frames = _Frames(program.modules)
    stream = 0
    for at in np.flatnonzero(np.isin(program.kinds, _KINDS)).tolist():
        word = int(program.tape[at])
        kind, payload = word & KIND_MASK, word >> KIND_BITS
        if kind == Kind.STREAM:
            stream = payload
        elif kind in (Kind.ALLOC, Kind.FREE):
            event = {
                "action": "alloc" if kind == Kind.ALLOC else "free_requested",
                "addr": int(addresses[payload]),
                "size": int(program.block_bytes[payload]),
                "stream": stream,
                "time_us": at,
                "frames": frames.now(),
            }
            events.append(event)
            if kind == Kind.ALLOC:
                live[payload] = event
            else:
                live.pop(payload, None)
                events.append({**event, "action": "free_completed"})
        else:
            frames.change(kind, payload)
    return {
        "segments": [_segment(event) for event in live.values()],
        "device_traces": [events],
        "allocator_settings": {},
        "external_annotations": [],
    }


class _Frames:
    """The modules being called and the phase, innermost first, as torch writes stack frames."""

    def __init__(self, modules: list[str]) -> None:
        self.modules = modules
        self.stack: list[str] = []
        self.phase = "outside a step"
        self._now: list[dict[str, Any]] | None = None

    def change(self, kind: int, payload: int) -> None:
        if kind == Kind.ENTER:
            self.stack.append(self.modules[payload])
        elif kind == Kind.EXIT and self.stack:
            self.stack.pop()
        elif kind == Kind.MARK:
            self.phase = PHASES.get(Mark(payload), "outside a step")
        self._now = None

    def now(self) -> list[dict[str, Any]]:
        if self._now is None:
            names = [name or "(root module)" for name in reversed(self.stack)] + [self.phase]
            self._now = [{"name": name, "filename": "module", "line": 0} for name in names]
        return self._now


def _segment(event: dict[str, Any]) -> dict[str, Any]:
    size = event["size"]
    return {
        "device": 0,
        "address": event["addr"],
        "total_size": size,
        "allocated_size": size,
        "active_size": size,
        "requested_size": size,
        "stream": event["stream"],
        "segment_type": "large" if size > 1 << 20 else "small",
        "segment_pool_id": (0, 0),
        "is_expandable": False,
        "frames": event["frames"],
        "blocks": [
            {
                "address": event["addr"],
                "size": size,
                "requested_size": size,
                "state": "active_allocated",
                "frames": event["frames"],
            }
        ],
    }


def to_bytes(program: Program) -> bytes:
    """The snapshot as torch writes it. Only plain dicts, lists, numbers and text: loading it runs nothing."""
    return pickle.dumps(snapshot(program), protocol=4)
