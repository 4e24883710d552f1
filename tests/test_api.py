"""`forecast`: which chips share a recording, which get their own, what is warned of. The recording itself is faked."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from anychip import api
from anychip.device import answers, launch
from anychip.errors import BadTarget, BadUse, ProgramFailed, UnknownChip
from anychip.record import Kind, Op, Place, Program, Question, TensorMeta, word
from anychip.spec import load_chip

X = TensorMeta((64, 64), (64, 1), "float32")
PLACE = Place("train.py", 7, "main")


def recording(chip, *questions, **meta):
    """A program of one product that asked the chip some questions."""
    return Program(
        tape=np.array([word(Kind.ALLOC, 0), word(Kind.OP, 0)], dtype=np.int64),
        ops=[Op("aten.mm.default", (X, X), outputs=(X,))],
        block_bytes=np.array([X.nbytes], dtype=np.int64),
        questions=[Question(name, answers.answer(chip, name), PLACE) for name in questions],
        meta={"argv": ["train.py"], "chip": chip.id, **meta},
    )


@pytest.fixture
def calls(monkeypatch):
    """What launch.record was called with; it answers with a recording that asked `calls.asks`."""

    class Calls(list):
        asks = ()
        meta = {}

    found = Calls()

    def record(argv, chip, **options):
        found.append((chip.id, options["show_output"], threading.current_thread()))
        return recording(chip, *found.asks, **found.meta)

    monkeypatch.setattr(launch, "record", record)
    return found


def test_one_recording_serves_chips_that_answer_alike(calls):
    answer = api.forecast(__file__, on=["h100", "mi300x", "tpu-v5p"])
    assert [chip for chip, *_ in calls] == ["nvidia-h100-sxm"]
    assert answer.programs[0] is answer.programs[2]
    assert answer.names == ("h100", "mi300x", "tpu-v5p")
    assert [f.chip for f in answer.forecasts] == ["nvidia-h100-sxm", "amd-mi300x", "google-tpu-v5p"]


def test_a_chip_that_answers_otherwise_is_recorded_again_without_its_output(calls):
    calls.asks = ("name",)
    said = []
    answer = api.forecast(__file__, on=["h100", "mi300x"], progress=said.append)
    assert [(chip, shown) for chip, shown, _ in calls] == [("nvidia-h100-sxm", True), ("amd-mi300x", False)]
    assert answer.programs[1].meta["chip"] == "amd-mi300x"
    assert any("amd-mi300x" in text and "name" in text and "train.py:7" in text for text in said)


def test_only_the_chips_that_differ_are_recorded_again(calls):
    calls.asks = ("tf32",)  # the H100 and the A100 have it, the TPU has not
    api.forecast(__file__, on=["h100", "a100", "tpu-v5p"])
    assert [chip for chip, *_ in calls] == ["nvidia-h100-sxm", "google-tpu-v5p"]


def test_loading_warns_and_names_the_question_and_the_line():
    saved = recording(load_chip("h100"), "capability")
    answer = api.forecast(saved, on=["h100", "v100"])
    (warning,) = [text for text in answer.warnings if "capability" in text]
    assert warning.startswith("nvidia-v100")
    assert "train.py:7" in warning


def test_loading_onto_a_chip_that_answers_alike_is_silent():
    saved = recording(load_chip("h100"))
    assert not [text for text in api.forecast(saved, on="ascend-910b").warnings if "answered" in text]


def test_a_chip_named_twice_is_one_target(calls):
    assert api.forecast(__file__, on=["h100", "nvidia-h100-sxm"]).names == ("h100",)


def test_an_interrupted_recording_is_priced_but_not_repeated(calls):
    calls.asks = ("name",)
    calls.meta = {"interrupted": True}
    answer = api.forecast(__file__, on=["h100", "mi300x"])
    assert len(calls) == 1
    assert answer.interrupted
    assert answer.exit_code == 130


def test_exit_codes():
    h100 = load_chip("h100")
    fine = api.forecast(recording(h100), on=h100)
    assert fine.exit_code == 0
    assert api.forecast(recording(h100, exit_code=3), on=h100).exit_code == 3
    small = h100.with_figures({"memory.main.usable": 1000.0})
    assert api.forecast(recording(h100), on=small).exit_code == 1
    assert replace(fine, interrupted=True).exit_code == 130


def test_a_program_that_fails_on_one_chip_fails(calls, monkeypatch):
    calls.asks = ("name",)
    first = launch.record

    def record(argv, chip, **options):
        if chip.id == "amd-mi300x":
            raise ProgramFailed("train.py failed", 7)
        return first(argv, chip, **options)

    monkeypatch.setattr(launch, "record", record)
    with pytest.raises(ProgramFailed):
        api.forecast(__file__, on=["h100", "mi300x"])


@pytest.mark.parametrize(
    ("on", "error"), [([], BadUse), ("nope", UnknownChip), ("h100:8", BadTarget), (["h100", "h100:x"], BadTarget)]
)
def test_bad_targets(on, error):
    with pytest.raises(error):
        api.forecast(__file__, on=on)


def test_tokens_per_step_is_taken_as_given():
    h100 = load_chip("h100")
    (forecast,) = api.forecast(recording(h100), on=h100, tokens_per_step=1000).forecasts
    assert forecast.tokens_per_s_per_chip == pytest.approx(1000 / forecast.step_time_s)


def test_a_chip_is_as_good_as_its_name():
    h100 = load_chip("h100")
    assert api.forecast(recording(h100), on=h100).names == ("nvidia-h100-sxm",)


def test_reserved_memory_is_replayed_again_only_where_memory_is_short():
    """64 x 64 float32 is 16 KiB: one segment of 2 MiB of the small pool."""
    h100 = load_chip("h100")
    small = h100.with_figures({"memory.main.usable": 1000.0})
    answer = api.forecast(recording(h100), on=[h100, small, load_chip("tpu-v5p")])
    assert answer.reserved_bytes[0] == 2 << 20
    assert answer.reserved_bytes[2] is None


def test_a_recording_of_its_own_names_the_questions(calls):
    calls.asks = ("name",)
    assert api.forecast(__file__, on=["h100", "mi300x"]).own_recordings == ((), ("name",))
