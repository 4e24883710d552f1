"""Jobs of many ranks on the terminal, in JSON and as a trace."""

import io
import json
from dataclasses import replace

import pytest

from anychip import api, recordings, units
from anychip.cluster.stragglers import SPREAD
from anychip.report import terminal, to_json, trace, write_memory_snapshots, write_traces
from anychip.report.job import ran_text
from tests.cluster.jobs import Rank, job, one_f_one_b


@pytest.fixture(scope="module")
def answer():
    return api.forecast(one_f_one_b(4, 8, 1e-3, 2e-3, 10**6, replicas=4, steps=3), on=["h100:16@llama3", "mi300x:16"])


def shown(answer, width=80):
    file = io.StringIO()
    terminal.show(answer, file=file, width=width)
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_screen(answer, width):
    assert max(map(len, shown(answer, width).splitlines())) <= width


def test_it_says_where_and_which_ranks_ran(answer):
    text = shown(answer, 100)
    assert "h100:16@llama3 -> nvidia-h100-sxm:16@meta-24k-roce" in text
    assert "ran 4 of 16 ranks: 0 (for 4), 4 (for 4), 8 (for 4), 12 (for 4)" in text


def test_numbers_of_one_chip_share_a_line():
    """A range of twelve sizes said twelve times what the chip is and where its error comes from."""
    rank = Rank(0, 8, [(tuple(range(8)), "dp")], range(8))
    one = api.forecast(job(rank.compute(1e-3)), on=["h100:8", "mi300x:8"])
    (h100, mi300x), (chip, other) = one.forecasts, one.chips
    sizes = replace(
        one, names=("h100:8", "h100:16", "mi300x:8"), chips=(chip, chip, other),
        forecasts=(h100, replace(h100, num_chips=16), mi300x), reserved_bytes=(None,) * 3, own_recordings=(),
    )  # fmt: skip
    text = shown(sizes, 200)
    assert "  h100:8, h100:16 -> nvidia-h100-sxm@nvidia-dgx-h100-superpod (NVIDIA" in text
    assert "  mi300x:8 -> amd-mi300x:8@" in text
    assert text.count(", grade ") == 2
    assert text.count("which stands for all") == 3


def test_what_makes_ranks_unequal_is_said(answer):
    """Times that hold for a slow node looked like those of a sound job."""
    assert "unequal" not in shown(answer, 100)
    pace = answer.forecasts[0].pace
    assert pace > 1.01
    assert f"arithmetic as on the slowest chip that others wait for: {pace - 1:.1%} longer" in shown(answer, 100)
    assert to_json(answer)["stragglers"] == {"jitter": 0, "slow_node": 1, "degraded_link": 1, "spread": SPREAD}
    job_of_two = one_f_one_b(2, 1, 1e-3, 1e-3, steps=2)
    slow = api.forecast(job_of_two, on="h100:2", jitter=0.02, slow_node=1.5, degraded_link=0.5)
    text = "unequal ranks: jitter 0.02, the last node's kernels x1.5, the last node's network at 0.5 of its rate"
    assert text in shown(slow, 120)
    assert to_json(slow)["stragglers"] == {"jitter": 0.02, "slow_node": 1.5, "degraded_link": 0.5, "spread": SPREAD}


def test_it_has_a_row_for_each_rank_and_axis(answer):
    text = shown(answer, 100)
    for stage in range(4):
        (line, *_) = [line for line in text.splitlines() if line.startswith(f"{4 * stage} (pp {stage})")]
        assert line.split()[3] == "4"
    assert text.count("ranks of ") == 2
    assert "idle for others" in text
    assert "other ranks" in text


def test_every_rank_and_one_rank():
    one = api.forecast(one_f_one_b(2, 1, 1e-3, 1e-3, steps=2), on="h100:2").forecasts[0]
    assert ran_text(one) == "ran every one of 2 ranks"
    program = one_f_one_b(4, 2, 1e-3, 1e-3, steps=2)
    program.meta["ranks_run"] = [0, 1, 3]  # the second stood for 2
    some = api.forecast(program, on="h100:4")
    assert ran_text(some.forecasts[0]) == "ran 3 of 4 ranks: 0, 1, 3; 1 put together from these"
    assert [rank["ran"] for rank in to_json(some)["targets"][0]["ranks"]] == [1, 1, 0, 1]
    rank = Rank(0, 8, [(tuple(range(8)), "dp")], range(8))
    alike = api.forecast(job(rank.compute(1e-3)), on="h100:8").forecasts[0]
    assert ran_text(alike) == "ran rank 0, which stands for all 8"
    program = job(rank.compute(1e-3))
    program.meta["ranks_run"] = list(range(8))  # --ranks all
    each = api.forecast(program, on="h100:8").forecasts[0]
    assert ran_text(each) == "ran every one of 8 ranks: all do as rank 0"
    assert each.ranks[0].ran == 8


def test_json(answer):
    data = json.loads(json.dumps(to_json(answer), allow_nan=False))
    assert data["distinct_ranks"] == 4
    target = data["targets"][0]
    assert target["num_chips"] == 16
    assert target["cluster"] == "meta-24k-roce"
    assert [rank["rank"] for rank in target["ranks"]] == [0, 4, 8, 12]
    assert target["ranks"][1]["place"] == {"pp": 1}
    assert set(target["axes"]["pp"]) == {"size", "calls", "nbytes", "busy_s", "exposed_s", "waiting_s"}
    assert sum(part["share"] for part in target["critical_path"]) == pytest.approx(1)
    assert sum(target["breakdown_s"].values()) == pytest.approx(target["step_time_s"])


def test_the_trace_has_two_processes_for_each_distinct_rank(answer):
    events = trace.job_trace(answer.timeline(0))["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names[1] == "rank 0 (and 3 alike): host (virtual clock)"
    assert names[8].startswith("rank 12 (and 3 alike): nvidia-h100-sxm")
    assert set(names) == set(range(1, 9))
    waits = [e for e in events if e["name"].startswith("waits: ")]
    # the last stage waits three slots of the first stages' forwards for its first input
    (first,) = [e for e in waits if e["pid"] == 8 and e["ts"] < 1000]
    assert first["name"] == "waits: recv"
    assert first["dur"] == pytest.approx(3e3, rel=0.2)


def fan_in():
    """A hub receives from two that come at different times, in one batch."""
    ranks = [Rank(i, 3, [((0, 1, 2), "pp")]).compute(1e-3 * i) for i in range(3)]
    ranks[0].run(ranks[0].recv(1, 10**7), ranks[0].recv(2, 10**7))
    for i in (1, 2):
        ranks[i].run(ranks[i].send(0, 10**7))
    return api.forecast(job(*ranks), on="h100:3")


@pytest.mark.parametrize("made", ["pipeline", "batch"])
def test_slices_of_a_thread_nest(answer, made):
    answer = answer if made == "pipeline" else fan_in()
    events = [e for e in trace.job_trace(answer.timeline(0))["traceEvents"] if e["ph"] == "X"]
    for thread in {(e["pid"], e["tid"]) for e in events}:
        spans = sorted((e["ts"], -e["dur"]) for e in events if (e["pid"], e["tid"]) == thread)
        ends = []
        for start, minus in spans:
            while ends and ends[-1] <= start + 1e-2:
                ends.pop()
            assert not ends or start - minus <= ends[-1] + 1e-2
            ends.append(start - minus)


def test_files_are_named_by_target_and_rank(answer, tmp_path):
    write_traces(answer, tmp_path / "t.json")
    assert {path.name for path in tmp_path.iterdir()} == {
        "t.nvidia-h100-sxm-16.json",
        "t.amd-mi300x-16.json",
    }
    one = api.forecast(one_f_one_b(2, 1, 1e-3, 1e-3, steps=2), on="h100:2")
    write_memory_snapshots(one, tmp_path / "m.pickle")
    assert {path.name for path in tmp_path.glob("m.*")} == {"m.rank0.pickle", "m.rank1.pickle"}


def test_many_counts_are_a_table(monkeypatch):
    def fake(program, places, *_):
        return recordings.Recorded({place: alike(place.num_chips) for place in places})

    monkeypatch.setattr(api, "record_all", fake)
    answer = api.forecast(__file__, on="h100:2..64")
    text = shown(answer)
    rows = [line.split() for line in text.splitlines() if line.startswith("h100:")]
    assert [row[0] for row in rows if row[-1] in ("yes", "NO")] == [f"h100:{2**i}" for i in range(1, 7)]
    assert max(map(len, text.splitlines())) <= 80
    (step,) = [line for line in text.splitlines() if line.startswith("time of the run")]
    assert step.count("ms") == 1  # only the last stands in full, as is said
    assert "In full h100:64, the last" in text
    # each with its error, and what it does by samples where it reads no tokens; why in words of the last alone
    assert rows[0][3] == units.share(answer.forecasts[0].step_time_error)
    assert "samples/s" in text
    assert [line for line in text.splitlines() if "+-" in line and "one sigma" not in line][1].startswith("h100:64: +-")
    assert "h100:32: " not in text
    several = shown(api.forecast(__file__, on=["h100:2..16", "mi300x:2..8"]))
    assert "In full h100:16, mi300x:8, the last of each chip" in several
    (step,) = [line for line in several.splitlines() if line.startswith("time of the run")]
    assert step.count("ms") == 2


@pytest.mark.parametrize("width", [80, 96, 100, 120])
def test_no_count_of_a_range_is_broken(width, monkeypatch):
    """Of h100:8..16384 the last row was called h100:1638, with a 4 below."""

    def fake(program, places, *_):
        return recordings.Recorded({place: alike(place.num_chips) for place in places})

    monkeypatch.setattr(api, "record_all", fake)
    answer = api.forecast(__file__, on="h100:8..16384", tokens_per_step=10**6)
    text = shown(answer, width=width)
    rows = [line.split() for line in text.splitlines() if line.startswith("h100:")]
    assert [row[0] for row in rows if row[-1] in ("yes", "NO")] == [f"h100:{2**i}" for i in range(3, 15)]
    assert max(map(len, text.splitlines())) <= width
    assert ("in all" in text) == (width >= 100)


def test_modules_of_a_range_are_those_of_what_stands_in_full(monkeypatch):
    def fake(program, places, *_):
        return recordings.Recorded({place: alike(place.num_chips) for place in places})

    monkeypatch.setattr(api, "record_all", fake)
    answer = api.forecast(__file__, on="h100:2..64")
    known = [
        replace(one, peak_memory_bytes=2**30, memory_by_module={"a": 2**29, "b": 2**29}) for one in answer.forecasts
    ]
    assert "memory at peak by module, h100:64: " in shown(replace(answer, forecasts=known))


def alike(count):
    rank = Rank(0, count, [(tuple(range(count)), "dp")], range(count)).compute(1e-3)
    return job(rank.run(rank.call("allreduce_", 0, 10**6)))
