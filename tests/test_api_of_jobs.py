"""`forecast` of jobs: which numbers of chips are recorded, side by side, left out. The recording itself is faked."""

import threading
from concurrent.futures import wait
from threading import Barrier

import pytest

from anychip import api, recordings
from anychip.device import launch
from anychip.errors import BadNetwork, BadUse, ProgramFailed
from anychip.spec import UnknownFigure, load_chip
from tests.recordings import job_of, recording


@pytest.fixture
def jobs(monkeypatch):
    found = []

    def record(argv, chip, **options):
        found.append((chip.id, options["world_size"], options["devices"], options["show_output"]))
        return job_of(chip, options["world_size"]) if options["world_size"] > 1 else recording(chip)

    monkeypatch.setattr(launch, "record", record)
    return found


def test_a_job_is_recorded_once_for_each_number_of_chips(jobs):
    answer = api.forecast(__file__, on=["h100:4..16", "mi300x:8"])
    assert answer.names == ("h100:4", "h100:8", "h100:16", "mi300x:8")
    assert jobs[0] == ("nvidia-h100-sxm", 4, 4, True)
    assert sorted(jobs[1:]) == [("nvidia-h100-sxm", 8, 8, False), ("nvidia-h100-sxm", 16, 8, False)]
    assert [forecast.num_chips for forecast in answer.forecasts] == [4, 8, 16, 8]
    assert answer.programs[1] is answer.programs[3]
    assert answer.timeline(2).num_chips == 16


def test_after_the_first_number_of_chips_others_are_recorded_side_by_side(monkeypatch):
    begun, together = [], Barrier(2, timeout=20)

    def record(argv, chip, *, world_size, jobs, **_):
        begun.append(world_size)
        if world_size > 4:
            assert (begun[0], jobs) == (4, 1)
            together.wait()  # raises where the other has not begun
        return job_of(chip, world_size)

    monkeypatch.setattr(launch, "record", record)
    assert api.forecast(__file__, on="h100:4..16").names == ("h100:4", "h100:8", "h100:16")


def test_what_was_recorded_of_a_range_when_it_was_interrupted_is_kept(monkeypatch):
    begun, asked = threading.Event(), threading.Event()

    def record(argv, chip, *, world_size, **_):
        if world_size > 4:
            begun.set()
            assert asked.wait(20)  # to end
        one = job_of(chip, world_size)
        one.meta["interrupted"] = world_size > 4
        return one

    def interrupted(runs, timeout=None):
        if timeout is None:
            assert begun.wait(20)
            raise KeyboardInterrupt
        return wait(runs, timeout)

    monkeypatch.setattr(launch, "record", record)
    monkeypatch.setattr(launch, "interrupt_all", asked.set)
    monkeypatch.setattr(recordings, "wait", interrupted)
    answer = api.forecast(__file__, on="h100:4..64", jobs=1)
    assert answer.names == ("h100:4", "h100:8")  # the others had not begun
    assert answer.interrupted


def test_one_chip_and_many_side_by_side(jobs):
    answer = api.forecast(__file__, on=["h100", "h100:8"])
    assert [forecast.num_chips for forecast in answer.forecasts] == [1, 8]
    assert answer.timeline(0) is None
    # one chip has no network, and its product takes as long as on each of eight
    assert answer.forecasts[0].axes == {}
    assert set(answer.forecasts[1].axes) == {"dp"}


def test_a_job_of_one_is_recorded_apart_from_the_program_by_itself(monkeypatch):
    found = []

    def record(argv, chip, **options):
        found.append((options["is_job"], options["world_size"]))
        return job_of(chip, options["world_size"]) if options["world_size"] > 1 else recording(chip)

    monkeypatch.setattr(launch, "record", record)
    answer = api.forecast(__file__, on=["h100", "h100:1..2", "mi300x:1"])
    assert answer.names == ("h100", "h100:1", "h100:2", "mi300x:1")
    assert sorted(found) == [(False, 1), (True, 1), (True, 2)]
    assert answer.programs[1] is answer.programs[3] is not answer.programs[0]
    assert api.forecast(answer.programs[1], on=["h100", "h100:1"]).names == ("h100", "h100:1")
    found.clear()
    for on in ("h100", "h100:1", load_chip("h100")):
        api.record(__file__, on)
    assert found == [(False, 1), (True, 1), (False, 1)]


def test_a_recording_of_a_job_is_priced_on_as_many_chips():
    saved = job_of(load_chip("h100"), 8)
    assert api.forecast(saved, on=["mi300x", "h100:8"]).names == ("mi300x:8", "h100:8")
    with pytest.raises(BadUse, match=r"job of 8 ranks.*--on nvidia-h100-sxm:16"):
        api.forecast(saved, on="h100:16")


def test_what_a_cluster_lacks_is_told_before_anything_runs(jobs):
    with pytest.raises(BadNetwork, match="1016"):
        api.forecast(__file__, on="h100:2048@dgx-h100")
    assert not jobs


def test_stragglers_need_several_chips(jobs):
    with pytest.raises(BadUse, match="several chips"):
        api.forecast(__file__, on="h100", jitter=0.1)
    plain = api.forecast(__file__, on="h100:16").forecasts[0]
    assert api.forecast(__file__, on="h100:16", degraded_link=0.1).forecasts[0].step_time_s > plain.step_time_s


def fails_below(ranks, text, monkeypatch):
    first = launch.record

    def record(argv, chip, **options):
        if options["world_size"] < ranks:
            raise ProgramFailed(text, 1)
        return first(argv, chip, **options)

    monkeypatch.setattr(launch, "record", record)


def test_numbers_of_chips_on_which_the_program_fails_are_left_out(jobs, monkeypatch):
    fails_below(8, "train.py failed with exit code 1.\n4 ranks cannot make a mesh of 8", monkeypatch)
    answer = api.forecast(__file__, on="h100:2..16")
    assert answer.names == ("h100:8", "h100:16")
    left_out = [text for text in answer.warnings if text.startswith("left out")]
    assert left_out == [f"left out, as the program fails on {n} chips: 4 ranks cannot make a mesh of 8" for n in (2, 4)]
    with pytest.raises(ProgramFailed):
        api.forecast(__file__, on="h100:2..4")


def test_chips_on_which_the_program_fails_unlike_are_told_apart(jobs, monkeypatch):
    first = launch.record

    def record(argv, chip, **options):
        if options["world_size"] < 8:
            raise ProgramFailed(f"OutOfMemoryError: refused 1 GiB more of {chip.id}'s", 1)
        return first(argv, chip, **options)

    monkeypatch.setattr(launch, "record", record)
    warnings = api.forecast(__file__, on=["h100:4..8", "a100:4"]).warnings
    for chip in ("nvidia-h100-sxm", "nvidia-a100-sxm-80gb"):
        assert f"left out, as it does not fit on {chip}:4: refused 1 GiB more of {chip}'s" in warnings


def test_the_line_that_tells_the_error_is_shown(jobs, monkeypatch):
    fails_below(4, "x failed.\nValueError: 2 is too few\nW1127 a library warns at its end", monkeypatch)
    warnings = api.forecast(__file__, on="h100:2..4").warnings
    assert "left out, as the program fails on 2 chips: ValueError: 2 is too few" in warnings


def test_a_chip_that_lacks_a_figure_is_left_out_of_several(jobs):
    answer = api.forecast(__file__, on=["thead-ppu:8@pcie-host", "h100:8"])
    assert answer.names == ("h100:8",)
    (host,) = (text for text in api.forecast(__file__, on="l40s:8").warnings if "PCIe" in text)
    assert host.startswith("nvidia-l40s: its chips have no link of their own; 8 of one host")
    assert [text for text in answer.warnings if text.startswith("left out: thead-ppu")]
    with pytest.raises(UnknownFigure):
        api.forecast(__file__, on=["thead-ppu:8@pcie-host"])


def test_all_that_a_forecast_needs_and_files_lack_is_told_before_anything_runs(jobs):
    figures = {"memory.main.capacity": None, "memory.main.usable": None, "memory.main.bandwidth": None}
    h100 = load_chip("h100")
    bare = h100.with_figures(figures | {path: None for path in h100.figures if path.startswith("peaks.")})
    half = load_chip("a100").with_figures({"memory.main.capacity": None, "memory.main.usable": None})
    with pytest.raises(UnknownFigure) as error:
        api.forecast(__file__, on=[bare, half])
    bare_needs, half_needs = str(error.value).splitlines()
    for path in ("memory.main.capacity", "memory.main.bandwidth", "peaks.matrix.bf16"):
        assert path in bare_needs
    assert bare_needs.endswith("with their sources")
    assert "a100-sxm-80gb: memory.main.capacity is unknown, and this needs it." in half_needs
    assert not jobs
    usable = half.with_figures({"memory.main.usable": 1e9})
    assert api.forecast(__file__, on=[half, usable]).left_out == (half.id,)


def test_a_recording_is_of_one_target(jobs):
    assert api.record(__file__, "h100:16").world_size == 16
    assert jobs == [("nvidia-h100-sxm", 16, 8, True)]
    with pytest.raises(BadUse, match="one number of chips"):
        api.record(__file__, "h100:8..16")


def test_ranks_that_never_communicate_are_told(jobs, monkeypatch):
    def record(argv, chip, **options):
        one = job_of(chip, options["world_size"])
        one.ops[-1] = one.ops[0]
        return one

    monkeypatch.setattr(launch, "record", record)
    assert [text for text in api.forecast(__file__, on="h100:8").warnings if "8 ranks never communicate" in text]


@pytest.mark.parametrize("stands", [True, False])
def test_a_job_is_priced_while_its_last_samples_run(jobs, monkeypatch, stands):
    prices, priced = [], api._price
    monkeypatch.setattr(api, "_price", lambda program, *rest: prices.append(program) or priced(program, *rest))

    def record(argv, chip, **options):
        drafted, other = (job_of(chip, options["world_size"]) for _ in range(2))
        drafted.meta["chip"] = other.meta["chip"] = chip.id
        options["draft"](drafted)
        return drafted if stands else other

    monkeypatch.setattr(launch, "record", record)
    answer = api.forecast(__file__, on="h100:8")
    assert len(prices) == (1 if stands else 2)
    assert answer.programs[0] is prices[-1]
