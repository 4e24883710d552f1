"""`forecast`: which chips share a recording, which get their own, what is warned of. The recording itself is faked."""

import io
import re
import threading
from dataclasses import replace

import numpy as np
import pytest

from anychip import api
from anychip.caveats import targets
from anychip.device import launch
from anychip.errors import INTERRUPTED, BadChipFile, BadTarget, BadUse, ProgramFailed, UnknownChip
from anychip.places import Place
from anychip.record import Kind, Op, TensorMeta, word
from anychip.report import terminal
from anychip.spec import load_chip
from tests.recordings import job_of, recording
from tests.spec.conftest import ACME


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
    assert any(text.startswith("amd-mi300x would have answered name") for text in answer.warnings)


def test_a_chip_on_which_the_program_was_interrupted_before_a_step_is_left_out(calls, monkeypatch):
    """It was left out as if the program failed there, and the answer was not one that was interrupted."""
    calls.asks = ("name",)
    first = launch.record

    def record(argv, chip, **options):
        if chip.id == "amd-mi300x":
            raise ProgramFailed("train.py: interrupted before its first step was complete.", INTERRUPTED)
        return first(argv, chip, **options)

    monkeypatch.setattr(launch, "record", record)
    answer = api.forecast(__file__, on=["h100", "mi300x"])
    assert (answer.names, answer.left_out) == (("h100",), ("mi300x",))
    assert (answer.outcome, answer.exit_code) == ("interrupted", 130)
    assert answer.warnings[0] == "left out: amd-mi300x: train.py: interrupted before its first step was complete."


def test_exit_codes():
    h100 = load_chip("h100")
    fine = api.forecast(recording(h100), on=h100)
    assert fine.exit_code == 0
    assert api.forecast(recording(h100, exit_code=3), on=h100).exit_code == 3
    small = h100.with_figures({"memory.main.usable": 1000.0})
    assert api.forecast(recording(h100), on=small).exit_code == 1
    assert replace(fine, interrupted=True).exit_code == 130


def test_a_program_that_fails_on_one_chip_is_answered_for_the_others(calls, monkeypatch):
    calls.asks = ("name",)
    first = launch.record

    def record(argv, chip, **options):
        if chip.id in bad:
            raise ProgramFailed(f"ValueError: not on {chip.id if unlike else 'this chip'}", 7)
        return first(argv, chip, **options)

    monkeypatch.setattr(launch, "record", record)
    bad, unlike = {"amd-mi300x"}, True
    for on in (["h100", "mi300x"], ["mi300x", "h100"]):
        answer = api.forecast(__file__, on=on)
        assert (answer.names, answer.left_out, answer.exit_code) == (("h100",), ("mi300x",), 1)
        assert "left out, as the program fails on amd-mi300x: ValueError: not on amd-mi300x" in answer.warnings
    bad = {"amd-mi300x", "nvidia-h100-sxm"}
    with pytest.raises(ProgramFailed, match="h100"):
        api.forecast(__file__, on=["h100", "mi300x"])
    # What fails alike on two chips is the program's own fault, and the third is spared.
    bad, unlike = bad | {"nvidia-a100-sxm-80gb"}, False
    calls.clear()
    with pytest.raises(ProgramFailed):
        api.forecast(__file__, on=["h100", "mi300x", "a100"])


def test_what_a_program_lacks_for_two_numbers_of_chips_it_lacks_for_all(calls, monkeypatch):
    """Of each of a dozen sizes the same error was waited for."""
    ran = []

    def record(argv, chip, *, world_size, **options):
        ran.append((chip.id, world_size))
        raise ProgramFailed(f"x failed.\n{why}", 7)

    monkeypatch.setattr(launch, "record", record)
    sizes = [f"h100:{size}" for size in (8, 16, 32, 64)]
    why = "ModuleNotFoundError: No module named 'x'"
    with pytest.raises(ProgramFailed) as failed:
        api.forecast(__file__, on=sizes)
    assert [size for _, size in ran] == [8, 16]
    assert f"It fails on {', '.join(f'nvidia-h100-sxm:{size}' for size in (16, 32, 64))}, too: {why}" in str(
        failed.value
    )
    ran.clear()
    why = "AssertionError: the number of ranks must be one of 24's"  # as it may be for others
    with pytest.raises(ProgramFailed):
        api.forecast(__file__, on=sizes)
    assert sorted(size for _, size in ran) == [8, 16, 32, 64]


def test_each_chip_that_is_short_of_memory_is_told_and_none_is_spared(calls, monkeypatch):
    first = launch.record
    short = {"nvidia-h100-sxm": 79, "nvidia-h800-sxm": 79, "nvidia-a100-sxm-40gb": 39}

    def record(argv, chip, **options):
        if chip.id in short:
            raise ProgramFailed(
                f"x failed.\nOutOfMemoryError: refused 16 GiB more of {short[chip.id]} GiB\n  weights 64 GiB", 1
            )
        return first(argv, chip, **options)

    monkeypatch.setattr(launch, "record", record)
    on = ["h100", "h800", "a100-40gb"]
    answer = api.forecast(__file__, on=[*on, "mi300x"])
    assert answer.names == (*on, "mi300x")
    assert [forecast.fits for forecast in answer.forecasts] == [False, False, False, True]
    assert answer.left_out == ()
    assert [text.partition(":")[0] for text in answer.warnings][:3] == [*short]
    with pytest.raises(ProgramFailed) as failed:
        api.forecast(__file__, on=on)
    assert str(failed.value).splitlines()[-2:] == [
        "It fails on nvidia-h800-sxm, too: OutOfMemoryError: refused 16 GiB more of 79 GiB",
        "It fails on nvidia-a100-sxm-40gb, too: OutOfMemoryError: refused 16 GiB more of 39 GiB",
    ]


@pytest.mark.parametrize(("line", "hint"), [
    ("os.environ['LOCAL_RANK']", r"several ranks\? Then: --on nvidia-h100-sxm:8"),
    ("os.environ.get('LOCAL_RANK', 0) / 0", r"division by zero \(train\.py:3\)$"),
])  # fmt: skip
def test_a_program_that_fails_for_want_of_its_rank_is_told_how_to_have_one(line, hint, tmp_path):
    path = tmp_path / "train.py"
    path.write_text(f"import os, torch\ntorch.ones(1).cuda()\n{line}\n", encoding="utf-8")
    with pytest.raises(ProgramFailed, match=hint) as failed:
        api.forecast(str(path), on=["h100"])
    assert failed.value.exit_code == 1


@pytest.mark.parametrize(
    ("on", "error"), [([], BadUse), ("nope", UnknownChip), ("h100+rocm", BadTarget), (["h100", "h100:x"], BadTarget)]
)
def test_bad_targets(on, error):
    with pytest.raises(error):
        api.forecast(__file__, on=on)


def test_samples_per_step_are_taken_as_given_and_shown_beside_tokens():
    """Where they are not seen there was no way to have them."""
    h100 = load_chip("h100")
    for one, options in ((recording(h100), {}), (job_of(h100, 8), {"tokens_per_step": 4096})):
        answer = api.forecast(one, on=h100, samples_per_step=96, **options)
        (found,) = answer.forecasts
        assert found.samples_per_step == 96
        assert found.samples_per_s == pytest.approx(96 / found.step_time_s)
        text = io.StringIO()
        terminal.show(answer, file=text)
        assert re.search(r"^samples per \w+ +96 ", text.getvalue(), re.MULTILINE)
        assert ("tokens per" in text.getvalue()) == bool(options)


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


def test_what_a_compiled_region_keeps_to_itself_is_not_reserved():
    # a -> b -> c, of 64 MiB each, with b gone afterwards: two segments, not three
    big = TensorMeta((1 << 24,), (1,), "float32")
    one = recording(load_chip("h100"))
    one.ops[:] = [Op("aten.relu.default", (big,), (), (big,))]
    one.block_bytes = np.array([64 << 20] * 3)
    words = [(Kind.ALLOC, 0), (Kind.COMPILED, 1)]
    for source, result in ((0, 1), (1, 2)):
        words += [(Kind.ALLOC, result), (Kind.OP, 0), (Kind.USE, source), (Kind.DEF, result)]
    words += [(Kind.FREE, 1), (Kind.COMPILED, 0)]
    one.tape = np.array([word(*each) for each in words])
    assert api.forecast(one, on="h100").reserved_bytes[0] == 2 * (64 << 20)


def test_a_recording_of_its_own_names_the_questions(calls):
    calls.asks = ("name",)
    assert api.forecast(__file__, on=["h100", "mi300x"]).own_recordings == ((), ("name",))


def test_what_the_check_finds_in_a_file_of_ones_own_is_warned_of(tmp_path):
    """A bandwidth of GB/s for TB/s is doubtful, and priced; one that no unit has is refused."""
    file = tmp_path / "acme-one.toml"
    program = recording(load_chip("h100"))

    def told(text):
        file.write_text(text)
        warnings = api.forecast(program, str(file)).warnings
        return [text for text in warnings if text.startswith("anychip chips check")]

    assert told(ACME) == []
    slipped = told(ACME.replace("TB/s", "GB/s"))
    assert any(
        f"{file}:22: memory.main.bandwidth: 1 GB/s is outside of what has been built" in text for text in slipped
    )
    with pytest.raises(BadChipFile, match="cannot be"):
        told(ACME.replace('1, unit = "TB/s"', '1e-20, unit = "TB/s"'))
    assert not any("chips check" in text for text in api.forecast(program, "h100").warnings)


def test_a_warning_names_its_target_unless_it_holds_for_all():
    """Of several chips nobody knew whose steps were uneven, and of several numbers of one in which of them memory grows."""
    h100, l4 = load_chip("h100"), load_chip("l4")
    places = [Place(f"h100:{count}", h100, count, is_job=True) for count in (8, 16, 64)] + [Place("l4", l4)]
    grows, lacks, full = f"{h100.id}: memory grows.", f"{h100.id} has no fp4.", f"{l4.id}: needs more."
    said = [("Steps differ.", "All.", lacks), ("All.", grows, lacks), ("All.", grows, lacks), ("All.", full)]
    found = targets.of_each(dict(zip(places, said, strict=True)))
    assert found == ["h100:8: Steps differ.", "All.", lacks, "h100:16, h100:64: memory grows.", full]


def test_from_how_many_chips_a_job_fits_is_said():
    """Of four sizes of a job three did not fit, and the reader looked through the columns for the first that did."""
    from types import SimpleNamespace
    from typing import Any

    def found(*fits: bool) -> list[str]:
        forecasts: Any = {
            2**i: SimpleNamespace(chip="nvidia-h100-sxm", num_chips=2**i, fits=one) for i, one in enumerate(fits)
        }
        return targets.fits_from(forecasts)

    assert found(False, False, True, True) == [
        "nvidia-h100-sxm: of the numbers asked for, the program fits on 4 or more chips."
    ]
    assert found(False, True) == ["nvidia-h100-sxm: of the numbers asked for, the program fits on 2 chips."]
    # buckets of gradients: what fits on one chip may not on several
    assert found(True, False, True, False) == [
        "nvidia-h100-sxm: of the numbers asked for, the program fits on 1 or 4 chips."
    ]
    assert found(False, False, False) == [
        "nvidia-h100-sxm: of the numbers asked for, the program does not fit on 4 chips either."
    ]
    assert found(True, True) == found(False) == []


def test_costs_are_at_the_prices_that_are_given():
    """Contracts cost something else than what a cloud lists, and most chips are listed nowhere."""
    saved = recording(load_chip("h100"))
    listed = api.forecast(saved, on=["h100", "tpu-v5p"])
    given = api.forecast(saved, on=["h100", "tpu-v5p"], prices={"nvidia-h100-sxm": 4.0, "tpu-v5p": 2.0})
    assert [one.usd_per_hour for one in given.forecasts] == pytest.approx([4.0, 2.0])
    assert given.forecasts[1].cost_usd == pytest.approx(2.0 * given.forecasts[1].step_time_s / 3600)
    assert [one.step_time_s for one in given.forecasts] == [one.step_time_s for one in listed.forecasts]
    assert listed.forecasts[1].usd_per_hour is None
    own = replace(load_chip("h100"), id="of-a-file-that-no-path-has")
    (found,) = api.forecast(saved, on=[own], prices={"of-a-file-that-no-path-has": 1.5}).forecasts
    assert found.usd_per_hour == pytest.approx(1.5)
    with pytest.raises(BadUse, match="a price is given of amd-mi300x, which is not asked for: --on nvidia-h100-sxm"):
        api.forecast(saved, on=["h100"], prices={"mi300x": 3.0})
    with pytest.raises(BadUse, match="two prices are given of nvidia-h100-sxm, 2 and 3 USD an hour"):
        api.forecast(saved, on=["h100"], prices={"h100": 2.0, "nvidia-h100-sxm": 3.0})


def test_a_program_that_finds_what_the_recording_before_made_is_told_so(calls, monkeypatch):
    calls.asks = ("name",)
    first = launch.record

    def record(argv, chip, **options):
        if chip.id == "amd-mi300x":
            raise ProgramFailed("ValueError: out already exists and is not empty", 1)
        return first(argv, chip, **options)

    monkeypatch.setattr(launch, "record", record)
    (told,) = [one for one in api.forecast(__file__, on=["h100", "mi300x"]).warnings if "left out" in one]
    assert "A recording on another chip that ran before may have made that." in told


def test_a_program_that_fits_by_less_than_a_context_is_told():
    """79.0 of 79.1 GiB fitted without a word, though the driver's own memory is in no figure."""
    h100, program = load_chip("h100"), recording(load_chip("h100"))
    peak = api.forecast(program, on=h100).forecasts[0].peak_memory_bytes
    tight = h100.with_figures({"memory.main.usable": float(peak + 2**29)})
    answer = api.forecast(program, on=tight)
    assert answer.forecasts[0].fits
    assert any("fits by 512 MiB. The driver's context" in text for text in answer.warnings)
    assert not any("context" in text for text in api.forecast(program, on=h100).warnings)
