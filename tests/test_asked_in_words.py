"""What a chip answers otherwise is told in a reader's words wherever it is told, not by the name of a key."""

import pytest

from anychip import api
from anychip.device import launch
from anychip.spec import load_chip
from tests.recordings import recording

ASKED = "compiles_whole"


def test_a_recording_that_is_loaded_tells_it_in_words() -> None:
    answer = api.forecast(recording(load_chip("h100"), ASKED), on=["h100", "tpu-v5p"])
    (told,) = (text for text in answer.warnings if "would have answered" in text)
    assert told.startswith("google-tpu-v5p would have answered whether steps are compiled whole (train.py:7) otherwise")


def test_progress_tells_it_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "record", lambda argv, chip, **options: recording(chip, ASKED))
    said: list[str] = []
    api.forecast(__file__, on=["h100", "tpu-v5p"], progress=said.append)
    (told,) = (text for text in said if "again" in text)
    assert told.endswith("google-tpu-v5p: it answers otherwise (whether steps are compiled whole, train.py:7)")
