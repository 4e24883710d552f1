"""--memory-snapshot: torch's own reader of snapshots is the oracle."""

import pickle

import numpy as np

from anychip.record import Kind, Mark, Program, word
from anychip.report.snapshot import to_bytes

# Blocks of 1 MiB and 2 MiB; the second is freed and allocated again on stream 1; both live at the end: 3 MiB.
PROGRAM = Program(
    tape=np.array(
        [
            word(Kind.MARK, Mark.FORWARD_BEGIN),
            word(Kind.ENTER, 0),
            word(Kind.ENTER, 1),
            word(Kind.ALLOC, 0),
            word(Kind.EXIT, 1),
            word(Kind.ALLOC, 1),
            word(Kind.EXIT, 0),
            word(Kind.MARK, Mark.FORWARD_END),
            word(Kind.FREE, 1),
            word(Kind.STREAM, 1),
            word(Kind.ALLOC, 1),
        ],
        dtype=np.int64,
    ),
    ops=[],
    block_bytes=np.array([1 << 20, 2 << 20], dtype=np.int64),
    modules=["", "layers.0"],
)


def test_torch_reads_it():
    from torch.cuda import _memory_viz

    data = pickle.loads(to_bytes(PROGRAM))
    assert "total_allocated: 3.0MiB" in _memory_viz.segsum(data)
    trace = _memory_viz.trace(data)
    assert trace.count("del ") == 1
    assert "5 entries" in trace  # three allocations; one free, requested and completed


def test_events_say_where_they_happened():
    (events,) = pickle.loads(to_bytes(PROGRAM))["device_traces"]
    assert [frame["name"] for frame in events[0]["frames"]] == ["layers.0", "(root module)", "forward"]
    assert [frame["name"] for frame in events[2]["frames"]] == ["outside a step"]
    assert [event["stream"] for event in events] == [0, 0, 0, 0, 1]


def test_a_block_keeps_its_address_and_shares_none():
    (events,) = pickle.loads(to_bytes(PROGRAM))["device_traces"]
    first, second = events[0]["addr"], events[1]["addr"]
    assert second == first + (1 << 20)
    assert events[-1]["addr"] == second
