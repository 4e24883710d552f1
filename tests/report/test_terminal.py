"""The answer on the terminal: what it says, and that it fits."""

import io
from dataclasses import replace

import pytest

from anychip import api
from anychip.report import terminal

FOUR = ["h100", "mi300x", "tpu-v5p", "ascend-910b"]


def shown(answer, width=80):
    file = io.StringIO()
    terminal.show(answer, file=file, width=width)
    return file.getvalue()


@pytest.fixture
def answer(program):
    return api.forecast(program, on=FOUR)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_screen(answer, width):
    assert max(map(len, shown(answer, width).splitlines())) <= width


def test_four_targets_stand_side_by_side_in_80_columns(answer):
    (heading,) = [line for line in shown(answer).splitlines() if line.split() == FOUR]
    (step,) = [line for line in shown(answer).splitlines() if line.startswith("step time")]
    assert len(heading) <= 80
    assert step.count("us") + step.count("ms") == 4


def test_an_alias_is_shown_with_what_it_means(answer):
    assert "ascend-910b -> huawei-ascend-910b2" in shown(answer)


def test_no_colour_outside_a_terminal(answer):
    assert "\x1b" not in shown(answer)


def test_what_does_not_fit_says_so(answer):
    forecasts = tuple(replace(forecast, fits=False) for forecast in answer.forecasts)
    (line,) = [x for x in shown(replace(answer, forecasts=forecasts)).splitlines() if x.split()[:1] == ["fits"]]
    assert line.split() == ["fits"] + ["NO"] * 4


def test_one_target_says_why_each_operation_takes_its_time(program):
    text = shown(api.forecast(program, on="h100"))
    (line,) = [line for line in text.splitlines() if line.startswith("mystery.fuse")]
    assert "bytes alone" in line
    for word in ("time limited by", "memory at peak", "activations", "evidence", "one sigma", "MFU"):
        assert word in text


def test_warnings_and_limits_are_at_the_end(answer):
    text = shown(answer)
    assert text.index("top operations") < text.index("h100: ") < text.index("warning: Priced by bytes alone")
    assert text.splitlines()[-1].startswith("A forecast for virtual chips")


def test_an_unknown_figure_is_a_dash_never_zero(answer):
    forecasts = tuple(replace(forecast, energy_j=None) for forecast in answer.forecasts)
    (line,) = [x for x in shown(replace(answer, forecasts=forecasts)).splitlines() if x.startswith("energy")]
    assert line.split()[3:] == ["-"] * 4
