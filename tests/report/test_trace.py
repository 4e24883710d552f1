"""--trace: what Perfetto needs in order to draw it right."""

import gzip
import json

import pytest

from anychip.report import files, trace
from anychip.spec import load_chip
from anychip.timeline import price


@pytest.fixture
def events(program):
    return json.loads(trace.to_bytes(price(program, load_chip("h100"))))["traceEvents"]


def slices(events, process, thread):
    return [e for e in events if e["ph"] == "X" and (e["pid"], e["tid"]) == (process, thread)]


def test_slices_of_a_thread_nest(events):
    """Two slices of one thread are apart or one holds the other: Perfetto drops what crosses."""
    for thread in {(e["pid"], e["tid"]) for e in events if e["ph"] == "X"}:
        spans = [(e["ts"], e["ts"] + e["dur"]) for e in slices(events, *thread)]
        for a, b in spans:
            for c, d in spans:
                assert b <= c + 1e-3 or d <= a + 1e-3 or (a <= c and d <= b + 1e-3) or (c <= a and b <= d + 1e-3)


def test_host_shows_phases_modules_and_ops(events):
    names = [e["name"] for e in slices(events, trace.HOST, 0)]
    for name in ("forward", "backward", "optimizer", "(root module)", "linear", "mm", "read a value"):
        assert names.count(name) == {"mm": 6}.get(name, 3), name


def test_each_stream_is_a_thread(events):
    assert [e["name"] for e in slices(events, trace.CHIP, 1)] == ["copy_"] * 3
    named = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name" and e["pid"] == trace.CHIP}
    assert named[0] == "default stream"
    assert named[1] == "stream 1"


def test_kernels_say_where_their_time_comes_from(events):
    kernel = slices(events, trace.CHIP, 0)[0]
    assert kernel["args"]["shapes"] == "[256, 512] x [512, 1024]"
    assert kernel["args"]["evidence"] in {"measured", "interpolated", "modelled", "bytes_only"}
    mystery = next(e for e in slices(events, trace.CHIP, 0) if e["name"] == "fuse")
    assert mystery["args"]["evidence"] == "bytes_only"
    assert mystery["dur"] > 0


def test_memory_counter(events):
    values = [e["args"]["bytes"] for e in events if e["ph"] == "C"]
    # 3 MiB for good, and in each step 5 MiB that come and go.
    assert max(values) == 8 << 20
    assert values[-1] == 3 << 20


def test_nothing_takes_negative_time(events):
    assert all(e["dur"] >= 0 and e["ts"] >= 0 for e in events if e["ph"] == "X")


def test_files_are_whole_and_gzipped_by_name(tmp_path):
    path = tmp_path / "t.json.gz"
    files.write_whole(path, b"{}")
    assert gzip.decompress(path.read_bytes()) == b"{}"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "t.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("path", "name"),
    [("t.json", "t.h100.json"), ("t.json.gz", "t.h100.json.gz"), ("t", "t.h100"), ("v1.2.json", "v1.2.h100.json")],
)
def test_one_file_for_each_of_several_targets(path, name):
    assert files.with_name(path, "h100").name == name
