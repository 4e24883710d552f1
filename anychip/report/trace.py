"""A timeline as Chrome trace JSON, for https://ui.perfetto.dev or chrome://tracing.

In: a Timeline. Out: a dict of plain values. Process 1 is the host: phases, modules and the issuing of operations as nested
slices. Process 2 is the chip: one thread for each stream, and one that shows which phase the chip is in. A counter shows
the bytes of live blocks. Of a job each distinct rank has two processes of its own, the second recorded one 3 and 4, and
slices before its collectives show how long it waits for the others. Times are in microseconds, as the format wants them; none is a time of this machine.
Source of the format: "Trace Event Format", https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from anychip.cluster import ClusterTimeline, RankTimeline
from anychip.cost.price import EVIDENCE, LIMITS
from anychip.record.op import Op, TensorMeta
from anychip.record.tape import Kind, Mark
from anychip.timeline import Timeline

HOST, CHIP = 1, 2
LANE = 100_000  # numbers of threads between what runs at the same time on one stream
PHASE_THREAD = 90_000  # below the streams, whose threads have their own numbers (those of collectives begin at 1,000)
BEGINS = {
    Mark.FORWARD_BEGIN: "forward",
    Mark.INFER_BEGIN: "inference",
    Mark.BACKWARD_BEGIN: "backward",
    Mark.OPTIMIZER_BEGIN: "optimizer",
}
ENDS = {Mark.FORWARD_END, Mark.INFER_END, Mark.BACKWARD_END, Mark.OPTIMIZER_END}

Event = dict[str, Any]


def trace(timeline: Timeline, hidden: npt.NDArray[np.bool_] | None = None) -> dict[str, Any]:
    """The whole recording. hidden: launches that are shown otherwise."""
    shown = np.ones(timeline.op.size, bool) if hidden is None else ~hidden
    events = [
        *_names(timeline),
        *_host(timeline),
        *_kernels(timeline, shown),
        *_phases_on_chip(timeline),
        *_memory(timeline),
    ]
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"chip": timeline.chip.id, "time": "virtual: a forecast, not a measurement"},
    }


def to_bytes(timeline: Timeline) -> bytes:
    return json.dumps(trace(timeline), separators=(",", ":")).encode()


def job_trace(job: ClusterTimeline) -> dict[str, Any]:
    """All distinct ranks of a job, on one clock."""
    events: list[Event] = []
    for number, rank in enumerate(job.ranks):
        alike = f" (and {len(rank.members) - 1:,} alike)" if len(rank.members) > 1 else ""
        title = f"rank {rank.rank}{alike}"
        waits = np.isin(rank.timeline.position, [wait.position for wait in rank.waits])
        mine = [*trace(rank.timeline, waits)["traceEvents"], *_meetings(rank, waits)]
        for event in mine:
            event["pid"] += 2 * number
            if event["name"] == "process_name":
                event["args"]["name"] = f"{title}: {event['args']['name']}"
        events += mine
        events += [_sort(HOST + 2 * number, 2 * number), _sort(CHIP + 2 * number, 2 * number + 1)]
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"chip": job.chip.id, "chips": job.num_chips, "time": "virtual: a forecast, not a measurement"},
    }


def job_to_bytes(job: ClusterTimeline) -> bytes:
    return json.dumps(job_trace(job), separators=(",", ":")).encode()


def _sort(process: int, place: int) -> Event:
    return {"ph": "M", "name": "process_sort_index", "pid": process, "tid": 0, "args": {"sort_index": place}}


def _meetings(rank: RankTimeline, waits: npt.NDArray[np.bool_]) -> Iterator[Event]:
    """Collectives that meet others: what a rank waits for until the last has come, then the collective. Those of one
    batch may cross one another, so each stream has as many threads as it needs."""
    streams = dict(zip(rank.timeline.position[waits].tolist(), rank.timeline.stream[waits].tolist(), strict=True))
    ends: dict[tuple[int, int], float] = {}
    for wait in sorted(rank.waits, key=lambda wait: wait.ready_s):
        call, stream, lane = rank.calls[wait.op], int(streams[wait.position]), 0
        while ends.get((stream, lane), 0.0) > wait.ready_s:
            lane += 1
        if (stream, lane) not in ends and lane:
            yield _name("thread_name", CHIP, stream + LANE * lane, f"stream {stream}, at the same time")
        ends[stream, lane] = wait.end_s
        thread = stream + LANE * lane
        if wait.start_s > wait.ready_s:
            yield _slice(f"waits: {call.kind}", CHIP, thread, wait.ready_s, wait.start_s)
        axis = rank.program.groups[call.group].axis or "unnamed group"
        if wait.end_s > wait.start_s:
            yield _slice(call.kind, CHIP, thread, wait.start_s, wait.end_s, bytes=call.nbytes, axis=axis)


def _us(seconds: float) -> float:
    """Microseconds to the nanosecond: nine digits suffice for a day of virtual time."""
    return round(float(seconds) * 1e6, 3)


def _slice(name: str, process: int, thread: int, start_s: float, end_s: float, **args: Any) -> Event:
    start, end = _us(start_s), _us(end_s)
    event = {
        "ph": "X",
        "name": name,
        "pid": process,
        "tid": thread,
        "ts": start,
        "dur": round(max(0.0, end - start), 3),
    }
    return {**event, "args": args} if args else event


def _names(timeline: Timeline) -> Iterator[Event]:
    yield _name("process_name", HOST, 0, "host (virtual clock)")
    yield _name("process_name", CHIP, 0, f"{timeline.chip.id} (virtual)")
    yield _name("thread_name", HOST, 0, "program")
    yield _name("thread_name", CHIP, PHASE_THREAD, "phase")
    for stream in np.unique(timeline.stream).tolist():
        yield _name("thread_name", CHIP, stream, f"stream {stream}" if stream else "default stream")


def _name(what: str, process: int, thread: int, name: str) -> Event:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}


def short(op: Op) -> str:
    """aten._scaled_dot_product_flash_attention.default -> _scaled_dot_product_flash_attention."""
    parts = op.name.split(".")
    return parts[1] if len(parts) == 3 else op.name


def shapes(op: Op) -> str:
    """The shapes of an op's tensors as called: [8192, 768] x [768, 3072]; of many, the first few."""
    found = [_shape(tensor) for tensor in op.tensors]
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    return " x ".join(found[:4]) + more


def _shape(tensor: TensorMeta) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"


def _host(timeline: Timeline) -> Iterator[Event]:
    """Phases, modules, issued ops and waits, nested as they were entered."""
    program, clock = timeline.program, timeline.host_s
    open_: list[tuple[str, float]] = []
    kinds, payloads = program.kinds, program.payloads
    wanted = (Kind.OP, Kind.ENTER, Kind.EXIT, Kind.MARK, Kind.READ, Kind.SYNC, Kind.SYNC_EVENT)
    for at in np.flatnonzero(np.isin(kinds, wanted)).tolist():
        kind, payload = int(kinds[at]), int(payloads[at])
        before, after = float(clock[at - 1]) if at else 0.0, float(clock[at])
        if kind == Kind.OP:
            yield _slice(short(program.ops[payload]), HOST, 0, before, after)
        elif kind == Kind.READ:
            place = program.places[payload]
            yield _slice("read a value", HOST, 0, before, after, place=f"{place.file}:{place.line}")
        elif kind in (Kind.SYNC, Kind.SYNC_EVENT):
            yield _slice("synchronize", HOST, 0, before, after)
        elif kind == Kind.ENTER:
            open_.append((program.modules[payload] or "(root module)", before))
        elif kind == Kind.MARK and Mark(payload) in BEGINS:
            open_.append((BEGINS[Mark(payload)], before))
        elif open_:
            name, begun = open_.pop()
            yield _slice(name, HOST, 0, begun, after)
    end = float(clock[-1]) if clock.size else 0.0
    for name, begun in reversed(open_):  # a program that was interrupted leaves them open
        yield _slice(name, HOST, 0, begun, end)


def _kernels(timeline: Timeline, shown: npt.NDArray[np.bool_]) -> Iterator[Event]:
    prices, ops = timeline.prices, timeline.program.ops
    described: dict[int, dict[str, str]] = {}
    columns = (timeline.op, timeline.start_s, timeline.end_s, timeline.stream)
    for op, start, end, stream in zip(*(column[shown].tolist() for column in columns), strict=True):
        if end <= start:
            continue
        if op not in described:
            described[op] = {
                "shapes": shapes(ops[op]),
                "evidence": EVIDENCE[prices.evidence[op]],
                "limit": LIMITS[prices.limit[op]],
            }
        yield _slice(short(ops[op]), CHIP, stream, start, end, **described[op])


def _phases_on_chip(timeline: Timeline) -> Iterator[Event]:
    """From a phase's first op to its last on the chip; cut where the next one begins, so that slices do not cross."""
    program = timeline.program
    at = np.flatnonzero(program.kinds == Kind.MARK)
    spans: list[tuple[str, float, float]] = []
    begun: tuple[str, int] | None = None
    last = 0
    for position in at.tolist():
        mark, before, last = Mark(int(program.payloads[position])), last, position
        if mark == Mark.OPTIMIZER_END and begun is None:
            begun = "optimizer", before  # a program's own, whose begin is not seen
        if mark in BEGINS:
            begun = (BEGINS[mark], position)
        elif mark in ENDS and begun is not None:
            first, past = np.searchsorted(timeline.position, (begun[1], position))
            if past > first:
                spans.append((begun[0], timeline.start_s[first], timeline.end_s[first:past].max()))
            begun = None
    for index, (name, start, end) in enumerate(spans):
        limit = spans[index + 1][1] if index + 1 < len(spans) else end
        yield _slice(name, CHIP, PHASE_THREAD, start, min(end, max(limit, start)))


def _memory(timeline: Timeline) -> Iterator[Event]:
    """Bytes of live blocks by host time, one point for each moment at which they changed."""
    program = timeline.program
    kinds = program.kinds
    at = np.flatnonzero((kinds == Kind.ALLOC) | (kinds == Kind.FREE))
    sizes = program.block_bytes[program.payloads[at]]
    live = np.cumsum(np.where(kinds[at] == Kind.ALLOC, sizes, -sizes))
    times = timeline.host_s[at]
    last = np.append(times[1:] != times[:-1], True) if at.size else np.zeros(0, bool)
    for time_s, value in zip(times[last].tolist(), live[last].tolist(), strict=True):
        yield {"ph": "C", "name": "memory", "pid": CHIP, "tid": 0, "ts": _us(time_s), "args": {"bytes": value}}
