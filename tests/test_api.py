"""`forecast`: which chips share a recording, which get their own, what is warned of. The recording itself is faked."""

import threading
from dataclasses import replace
from threading import Barrier

import numpy as np
import pytest

from anychip import api, recordings
from anychip.device import launch
from anychip.device.cuda import answers
from anychip.errors import BadChipFile, BadNetwork, BadTarget, BadUse, ProgramFailed, UnknownChip
from anychip.record import Group, Kind, Op, Place, Program, Question, TensorMeta, word
from anychip.spec import UnknownFigure, load_chip

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


def job_of(chip, ranks):
    """A recording of a job whose ranks all do the same: a product and an all-reduce of its result."""
    one = recording(chip)
    one.world_size, one.members, one.groups = ranks, tuple(range(ranks)), [Group(tuple(range(ranks)), "dp")]
    one.ops.append(Op("c10d.allreduce_.default", ((X,), (X,), 0)))
    one.tape = np.append(one.tape, [word(Kind.OP, 1)])
    return one


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

    def interrupted(runs):
        assert begun.wait(20)
        raise KeyboardInterrupt

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
        told = f"OutOfMemoryError: refused 1 GiB more of {chip}'s"
        assert f"left out, as the program fails on {chip}:4: {told}" in warnings


def test_the_line_that_tells_the_error_is_shown(jobs, monkeypatch):
    fails_below(4, "x failed.\nValueError: 2 is too few\nW1127 a library warns at its end", monkeypatch)
    warnings = api.forecast(__file__, on="h100:2..4").warnings
    assert "left out, as the program fails on 2 chips: ValueError: 2 is too few" in warnings


ACME = """\
schema_version = 1
id = "acme-one"
vendor = "Acme"
name = "One"
platform = "nvidia-cuda"
execution = "kernel"
[sources.sheet]
title = "Acme One data sheet"
url = "https://acme.example/one"
kind = "datasheet"
date = "2026-01-02"
[peaks.matrix]
bf16 = { value = 100, unit = "TFLOP/s", src = "sheet" }
[memory.main]
capacity = { value = 32, unit = "GB", src = "sheet" }
bandwidth = { value = 1, unit = "TB/s", src = "sheet" }
"""


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
        f"{file}:16: memory.main.bandwidth: 1 GB/s is outside of what has been built" in text for text in slipped
    )
    with pytest.raises(BadChipFile, match="cannot be"):
        told(ACME.replace('1, unit = "TB/s"', '1e-20, unit = "TB/s"'))
    assert not any("chips check" in text for text in api.forecast(program, "h100").warnings)


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


NORMED = """
import torch
model = torch.nn.Sequential(torch.nn.utils.{norm}(torch.nn.Conv1d(1, 32, 15)), torch.nn.Conv1d(32, 1, 5)).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    model(torch.randn(2, 1, 512, device="cuda")).sum().backward()
    optimizer.step()
"""


@pytest.mark.parametrize("norm", ["spectral_norm", "parametrizations.spectral_norm", "weight_norm"])
def test_a_weight_whose_norm_is_estimated_is_no_batch(norm, tmp_path):
    """A discriminator with spectral norms was told to be given 15 samples, the width of its first kernel."""
    path = tmp_path / "normed.py"
    path.write_text(NORMED.format(norm=norm), encoding="utf-8")
    assert api.forecast(str(path), on=["h100"]).forecasts[0].samples_per_step == 2


STEPS = """
import torch
layers = torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 64)
model = torch.nn.Sequential(*layers).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    model(torch.randn({shape}, device="cuda")).sum().backward()
    optimizer.step()
"""


@pytest.mark.parametrize(("shape", "samples"), [((4, 16, 64), 4), ((4, 2, 8, 64), 4), ((64, 64), 64)])
def test_samples_are_the_first_dimension_of_what_a_linear_layer_is_given(shape, samples, tmp_path):
    """Which torch multiplies as one with the others."""
    path = tmp_path / "linear.py"
    path.write_text(STEPS.format(shape=shape), encoding="utf-8")
    assert api.forecast(str(path), on=["h100"]).forecasts[0].samples_per_step == samples


LABELS = """
import torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.line = torch.nn.Embedding(100, 64), torch.nn.Linear(64, 64)
        self.attention = torch.nn.MultiheadAttention(64, 2, batch_first=True)
        self.cell = torch.nn.LSTMCell(64, 64)
    def forward(self, labels):
        x = self.table(labels)
        return {body}
model = Model().cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    model(torch.zeros({shape}, dtype=torch.long, device="cuda")).sum().backward()
    optimizer.step()
"""


@pytest.mark.parametrize(("body", "shape", "tokens", "samples"), [
    ("self.line(x)", "24", None, 24),
    ("torch.nn.functional.conv2d(x[:, :, None, None], self.line.weight[:, :, None, None])", "24", None, 24),
    ("self.line(x).softmax(-1)", "24", None, 24),
    ("self.line(x)", "24, 8", 24 * 8, 24),
    ("self.attention(x, x, x)[0]", "24", 24, 24),
    ("self.attention(x, x, x, need_weights=False)[0]", "24", 24, 1),
    ("self.cell(x)[0]", "24", 24, 24),
])  # fmt: skip
def test_one_number_for_each_sample_is_no_token(body, shape, tokens, samples, tmp_path):
    """The classes of a conditional GAN's images, users and items. Packed text has one dimension, too, and attention."""
    path = tmp_path / "labels.py"
    path.write_text(LABELS.format(body=body, shape=shape), encoding="utf-8")
    (found,) = api.forecast(str(path), on=["h100"]).forecasts
    assert (found.tokens_per_step, found.samples_per_step) == (tokens, samples)


RECURRENT = """
import torch
from torch.nn.utils.rnn import pack_padded_sequence
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.line = torch.nn.Embedding(100, 64), torch.nn.Linear(64, 64)
        self.layer = torch.nn.{layer}
    def forward(self, x):
        out = self.layer({given})
        return out[0] if isinstance(out, tuple) else out
model = Model().cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    x, tokens = torch.randn({shape}, 64, device="cuda"), torch.zeros({shape}, dtype=torch.long, device="cuda")
    out = model({read})
    out = out[0] if isinstance(out, tuple) else out
    ({loss}).backward()
    optimizer.step()
"""


SUM, CLASSES = "out.sum()", "torch.nn.functional.log_softmax(out.flatten(0, -2), -1).sum()"


@pytest.mark.parametrize("loss", [SUM, CLASSES])
@pytest.mark.parametrize(("layer", "shape", "given", "read", "samples"), [
    ("LSTM(64, 32)", "50, 8", "x", "x", 8),
    ("LSTM(64, 32, batch_first=True)", "8, 50", "x", "x", 8),
    ("GRU(64, 32)", "50, 8", "self.line(x)", "x", 8),
    ("RNN(64, 32)", "50, 8", "self.table(x)", "tokens", 8),
    ("GRU(64, 32, batch_first=True)", "8, 50", "self.line(x)", "x", 8),
    ("TransformerEncoderLayer(64, 2)", "50, 8", "x", "x", 8),
    ("TransformerEncoderLayer(64, 2, batch_first=True)", "8, 50", "self.line(x)", "x", 8),
    ("LSTM(64, 32)", "50", "x", "x", 1),
    ("LSTM(64, 32)", "50, 8", "pack_padded_sequence(x, [50, 40, 30, 20, 10, 9, 8, 7])", "x", 8),
])  # fmt: skip
def test_samples_of_sequences_are_no_steps_in_time(layer, shape, given, read, samples, loss, tmp_path):
    """Where time is first, its steps were taken for samples; and those of a layer before it with the steps, as the loss was."""
    path = tmp_path / "recurrent.py"
    path.write_text(RECURRENT.format(layer=layer, shape=shape, given=given, read=read, loss=loss), encoding="utf-8")
    assert api.forecast(str(path), on=["h100"]).forecasts[0].samples_per_step == samples
