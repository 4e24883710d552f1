"""Programs that raise or run out of memory, through the command line: what is said, and the exit code."""

import json
import re
import traceback
from pathlib import Path

import pytest

from anychip.device import traces
from tests.command import PROGRAMS, TRAIN, forecast, start, target


def test_a_program_that_raises_before_a_step_shows_its_own_traceback_and_one_line_of_ours():
    done = forecast("--quiet", TRAIN, "--raise-at", "0")
    assert done.returncode == 1
    assert done.out == ""
    *lines, ours, why, code = done.err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "train_small.py" in lines[1]
    assert lines[-1] == "ValueError: nothing left at step 0"
    assert ours.startswith("anychip: ")
    assert "an exit code of its own, 1," in ours
    assert re.fullmatch(r"ValueError: nothing left at step 0 \(train_small\.py:\d+\)", why)
    assert code == "anychip: exit code 1: the program's own; it failed, and there are no figures."


def test_the_last_line_says_what_the_exit_code_means_where_a_program_fails_on_several_chips():
    """On which others it fails stood last."""
    done = forecast("--quiet", TRAIN, "--raise-at", "0", on=("h100", "mi300x"))
    *_, others, last = done.err.splitlines()
    assert others.startswith("It fails on amd-mi300x, too: ")
    assert last == "anychip: exit code 1: the program's own; it failed, and there are no figures."


def test_the_traceback_of_a_program_has_its_frames_and_those_of_torch(tmp_path):
    """Five to eight frames of ours stood between the program's line and the message, and what the meta kernel had said."""
    program = tmp_path / "wrong.py"
    program.write_text(
        "import torch\n"
        "try:\n"
        "    torch.nn.Sequential(torch.nn.Linear(8, 8)).cuda()(torch.randn(4, 5, device='cuda'))\n"
        "except RuntimeError as error:\n"
        "    torch.empty(1 << 40, device='cuda')\n"
    )
    done = forecast("--quiet", str(program))
    files = re.findall(r'File "(.+?)", line', done.err)
    assert {"wrong.py" if file == str(program) else "torch" if "/torch/" in file else file for file in files} == {
        "wrong.py",
        "torch",
    }
    assert "mat1 and mat2 shapes cannot be multiplied (4x5 and 8x8)" in done.err
    assert "meta" not in done.err
    said = re.sub(r"\n +[~^]+\n", "\n", done.err)  # later Pythons underline the call
    assert "line 5, in <module>\n    torch.empty(1 << 40, device='cuda')\ntorch.OutOfMemoryError: CUDA out" in said
    program.write_text("import torch\nthis is not Python\n")
    done = forecast("--quiet", str(program))
    assert re.findall(r'File "(.+?)", line', done.err) == [str(program)]


@pytest.mark.parametrize(("on", "who"), [("h100", "the program"), ("h100:2", "rank 0")])
def test_what_filled_the_memory_is_told_where_no_step_was_complete(on, who):
    """It ended with the allocator's message alone, which does not say of what there is too much."""
    done = forecast("--quiet", PROGRAMS / "short_of_memory.py", "20", on=(on,))
    assert done.returncode == 1
    told = done.err.partition("\nOutOfMemoryError: ")[2].splitlines()
    assert told[0] == f"{who} was refused 1.00 GiB more of 79.1 GiB, at short_of_memory.py:22"
    held = dict(re.findall(r"^  (\w+) +([\d.]+) GiB$", "\n".join(told), re.MULTILINE))
    # 20 layers of 1 GiB and as much of gradients; of two moments each for 19 of them there is room, and for none more
    assert float(held["parameters"]) == pytest.approx(20, abs=0.5)
    assert float(held["gradients"]) == pytest.approx(20, abs=0.5)
    assert 37 <= float(held["optimizer"]) <= 39
    assert f"--on LARGER{on[4:]} --on nvidia-h100-sxm{on[4:]}" in told[-2]
    assert told[-1] == "anychip: exit code 1: it does not fit."


def test_of_several_counts_one_that_does_not_suffice_is_left_out_for_what_it_lacks():
    done = forecast("--quiet", PROGRAMS / "short_of_memory.py", "20", on=("h200:2", "h100:4"))
    assert done.returncode == 1
    assert "left out, as it does not fit on 4 chips: rank 0 was refused 1.00 GiB more" in " ".join(done.err.split())


@pytest.mark.parametrize("count", ["", ":2"])
def test_memory_that_grows_with_each_step_is_told(count, tmp_path):
    program = tmp_path / "keeps.py"
    program.write_text(
        "import torch\n"
        "model = torch.nn.Linear(4096, 4096).cuda()\n"
        "optimizer = torch.optim.AdamW(model.parameters())\n"
        "kept = []\n"
        "for step in range(9):\n"
        "    found = model(torch.ones(1 << 17, 4096, device='cuda'))\n"
        "    kept.append(found.detach())\n"
        "    found.sum().backward()\n"
        "    optimizer.step()\n"
    )
    done = forecast("--quiet", program, on=[f"h100{count}"])
    # An output is 2^17 * 4096 * 4 B = 2 GiB. Beside three of them there are an input and 0.3 GiB of the model and its optimizer:
    # 79.1 - 8.3 GiB are left, for 35 more.
    on = " on ranks 0, 1" if count else ""
    assert (
        f"warning: nvidia-h100-sxm: memory grows{on}: each step keeps 2.00 GiB that it made, in all 3 that were recorded. "
        "If that goes on, it is full after about 38 steps."
    ) in done.err
    assert done.returncode == 0
    program.write_text(
        program.read_text().replace("kept.append", "kept[:] = ").replace("found.detach()", "[found.detach()]")
    )
    assert "grows" not in forecast("--quiet", program, on=[f"h100{count}"]).err


def test_a_program_that_ran_out_of_memory_after_some_steps_does_not_fit(tmp_path):
    """The steps that it had taken fitted, and so it was said to fit."""
    done = forecast("--quiet", "--json", tmp_path / "short.json", PROGRAMS / "short_of_memory.py", "12", "16")
    found = target(tmp_path / "short.json")
    assert (done.returncode, found["fits"]) == (1, False)
    assert found["peak_memory_bytes"] < found["memory_bytes"]
    assert any(
        "nvidia-h100-sxm: does not fit: the program was refused 4.00 GiB more of 79.1 GiB, at short_of_memory.py:21, after 2 steps"
        in one
        for one in json.loads((tmp_path / "short.json").read_text())["warnings"]
    )


def test_a_failure_among_others_names_its_chip(tmp_path):
    done = forecast("--quiet", PROGRAMS / "short_of_memory.py", "12", "16", on=("h200", "h100"))
    told = "warning: nvidia-h100-sxm: does not fit: the program was refused 4.00 GiB more of 79.1 GiB, at short_of_memory.py:21, after 2 steps"
    assert told in done.err
    assert done.err.splitlines()[-1] == "anychip: exit code 1: it does not fit on h100."


@pytest.mark.parametrize("asks", [(), ("asks",)])
def test_a_chip_with_too_little_memory_has_its_column_in_either_order(asks, tmp_path):
    """It was left out where it came first, and where the program had asked it for its name."""
    columns = {}
    for on in (("l4", "h100"), ("h100", "l4")):
        done = forecast("--json", tmp_path / "both.json", PROGRAMS / "short_of_memory.py", "6", "1", *asks, on=on)
        found = json.loads((tmp_path / "both.json").read_text())
        assert (done.returncode, found["outcome"], found["left_out"]) == (1, "does_not_fit", [])
        assert done.err.splitlines()[-1] == "anychip: exit code 1: it does not fit on l4."
        told = "nvidia-l4: does not fit: the program was refused 1.00 GiB more of 22.0 GiB, at short_of_memory.py:22; its figures are of what the program does on nvidia-h100-sxm."
        assert told in found["warnings"]
        columns[on] = {one["asked"]: one for one in found["targets"]}
    first, second = columns.values()
    assert first == second
    assert (first["l4"]["fits"], first["h100"]["fits"]) == (False, True)
    failure = first["l4"]["failure"]
    assert (failure["steps"], failure["refused_bytes"], failure["line"]) == (0, 1 << 30, 22)


@pytest.mark.parametrize(
    ("on", "lender", "peak_gib"),
    [(("l4", "h100", "h200"), "nvidia-h200-sxm", 90), (("b200", "l4", "h100", "h200"), "nvidia-h200-sxm", 90), (("l4", "h100"), "nvidia-h100-sxm", 30)],
)  # fmt: skip
def test_what_a_chip_would_need_is_of_one_that_had_enough(on, lender, peak_gib, tmp_path):
    """It was of the first other target, also where the program ran out of memory there, too."""
    program = tmp_path / "late.py"
    program.write_text(
        "import torch\n"
        "model = torch.nn.Linear(1024, 1024).cuda()\n"
        "optimizer = torch.optim.SGD(model.parameters(), 1e-3)\n"
        "x = [torch.empty(30 << 18, 1024, device='cuda')]\n"
        "for step in range(3):\n"
        "    if step == 2:\n"
        "        x.append(torch.empty(60 << 18, 1024, device='cuda'))\n"
        "    model(x[0][:1024]).sum().backward()\n"
        "    optimizer.step()\n"
    )
    forecast("--quiet", "--json", tmp_path / "all.json", program, on=on)
    answer = json.loads((tmp_path / "all.json").read_text())
    found = {one["asked"]: one for one in answer["targets"]}
    assert [name for name in on if found[name]["fits"]] == [name for name in on if name in ("h200", "b200")]
    assert peak_gib < found["l4"]["peak_memory_bytes"] / 2**30 < peak_gib + 1
    assert any(f"its figures are of what the program does on {lender}." in text for text in answer["warnings"])
    more = "more than " if lender == "nvidia-h100-sxm" else ""
    said = f"nvidia-l4: does not fit: needs {more}{peak_gib}.0 GiB, has 22.0 GiB: "
    (told,) = [text for text in answer["warnings"] if text.startswith(said)]
    assert " GiB" in told.removeprefix(said)  # what fills it


def test_no_chip_has_the_figures_of_one_that_compiles_whole_steps(tmp_path):
    """An H100 that was refused memory was cheaper beside a TPU than beside another GPU: it had the TPU's fused kernels."""
    program = tmp_path / "large.py"
    program.write_text(
        "import torch\n"
        "model = torch.nn.Linear(1024, 1024).cuda()\n"
        "x = torch.empty(25 << 18, 1024, device='cuda')\n"
        "for step in range(3):\n"
        "    model(x[:1024]).sum().backward()\n"
    )
    done = forecast("--quiet", "--json", tmp_path / "all.json", program, on=("l4", "tpu-v5p"))
    answer = json.loads((tmp_path / "all.json").read_text())
    assert [one["asked"] for one in answer["targets"]] == ["tpu-v5p"]
    assert any(text.startswith("left out, as it does not fit on nvidia-l4: ") for text in answer["warnings"]), done.err
    assert (answer["outcome"], answer["left_out"]) == ("does_not_fit", ["l4"])
    assert done.err.splitlines()[-1] == "anychip: exit code 1: it does not fit on l4."


def test_what_finds_no_room_in_a_piece_does_not_fit_whoever_was_recorded(tmp_path):
    """An L4 that was recorded refused it, and beside an H100, whose recording it took, it fitted. Of its 22.03 GiB 13 are kept, and 8 are one
    segment, of which every other GiB is held: 4 are free there and 1 beside, none of them for 4.5, though 21.5 are all that live."""
    program = tmp_path / "pieces.py"
    program.write_text(
        "import torch\n"
        "model = torch.nn.Linear(64, 64).cuda()\n"
        "def gib(size): return torch.empty(int(size * 2**30), dtype=torch.int8, device='cuda')\n"
        "kept = [gib(6.5), gib(6.5)]\n"
        "for step in range(3):\n"
        "    whole = gib(8)\n"
        "    del whole\n"
        "    pieces = [gib(1) for _ in range(8)]\n"
        "    del pieces[::2]\n"
        "    pieces.append(gib(4.5))\n"
        "    model(torch.ones(4, 64, device='cuda'))\n"
        "    del pieces\n"
    )
    found = {}
    for on in (("l4",), ("h100", "l4")):
        done = forecast("--quiet", "--json", tmp_path / "found.json", program, on=on)
        found[on] = json.loads((tmp_path / "found.json").read_text())
        assert (done.returncode, found[on]["outcome"]) == (1, "does_not_fit")
    h100, l4 = found["h100", "l4"]["targets"]
    assert (h100["fits"], l4["fits"], l4["own_recording"]) == (True, False, [])
    told = "nvidia-l4: does not fit: tensors take 21.5 GiB of 22.0 GiB, but PyTorch's allocator finds no room for one of them in a piece."
    assert any(text.startswith(told) for text in found["h100", "l4"]["warnings"])


def test_a_program_that_makes_do_with_less_memory_is_recorded_on_each_chip(tmp_path):
    """In one order the smaller chip was said not to fit, in the other both took the smaller batch."""
    program = tmp_path / "adapts.py"
    program.write_text(
        "import torch\n"
        "model, size = torch.nn.Linear(1024, 1024).cuda(), 1 << 24\n"
        "while True:\n"
        "    try:\n"
        "        x = torch.empty(size, 1024, device='cuda')\n"
        "        break\n"
        "    except torch.OutOfMemoryError:\n"
        "        size //= 2\n"
        "optimizer = torch.optim.SGD(model.parameters(), 1e-3)\n"
        "for _ in range(3):\n"
        "    model(x[:1024]).sum().backward()\n"
        "    optimizer.step()\n"
    )
    for on in (("l4", "h100"), ("h100", "l4")):
        done = forecast("--quiet", "--json", tmp_path / "both.json", program, on=on)
        found = {one["asked"]: one for one in json.loads((tmp_path / "both.json").read_text())["targets"]}
        assert done.returncode == 0
        assert 16 < found["l4"]["peak_memory_bytes"] / 2**30 < 17
        assert 64 < found["h100"]["peak_memory_bytes"] / 2**30 < 65


def test_what_may_be_a_fault_of_ours_keeps_our_frames():
    def frames(kind):
        try:
            exec(compile(f"raise {kind}", str(Path(traces.__file__).with_name("part.py")), "exec"))
        except (TypeError, RuntimeError) as error:
            return [Path(one.filename).name for one in traceback.extract_tb(traces.without_ours(error))]

    assert frames("TypeError") == ["test_failing_programs.py", "part.py"]
    assert frames("RuntimeError") == ["test_failing_programs.py"]


def test_a_program_that_raises_after_steps_is_priced_and_its_exit_code_kept():
    done = forecast(TRAIN, "--raise-at", "2")
    assert done.returncode == 1
    assert "ValueError: nothing left at step 2" in done.err
    assert "step time" in done.out
    told = r"ended with exit code 1 after 2 steps at train_small\.py:\d+: ValueError: nothing left at step 2; the figures hold"
    assert re.search(told, " ".join(done.out.split()))
    assert done.err.splitlines()[-1].startswith("anychip: exit code 1: the program's own")


def test_what_an_exit_code_means_is_in_the_json(tmp_path):
    """It was 1 for a program that failed and for one that does not fit; before a first step there was no file."""
    found = tmp_path / "found.json"
    for at, steps, on in (("0", 0, "h100"), ("2", 2, "h100"), ("2", 2, "h100:2")):
        done = forecast("--quiet", "--json", found, TRAIN, "--raise-at", at, on=(on,))
        told = json.loads(found.read_text())
        assert (done.returncode, told["outcome"], told["exit_code"]) == (1, "program_failed", 1)
        failure = told["failure"]
        assert (failure["error"], failure["steps"]) == (f"ValueError: nothing left at step {at}", steps)
        assert (failure["rank"], failure["file"], failure["refused_bytes"]) == (0, str(TRAIN), 0)
        assert len(told["targets"]) == (steps > 0)
    done = forecast("--quiet", "--json", found, PROGRAMS / "short_of_memory.py", "20")
    told = json.loads(found.read_text())
    assert (told["outcome"], told["targets"], told["left_out"]) == ("does_not_fit", [], ["h100"])
    assert told["failure"]["refused_bytes"] == 1 << 30


@pytest.mark.parametrize("code", [0, 3])
def test_sys_exit_keeps_its_code(code):
    done = forecast("--quiet", TRAIN, "--exit-at", "2", "--exit-code", code)
    assert done.returncode == code
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("code", "on"), [(0, "h100"), (3, "h100:2")])
def test_a_program_that_leaves_by_os_exit_is_priced_and_keeps_its_code(code, on, tmp_path):
    """Python's end is not reached: all that it did was lost, and 0 was an exit code 1 of the program's own."""
    program = tmp_path / "leaves.py"
    program.write_text(
        "import os, torch\n"
        "model = torch.nn.Linear(64, 64, device='cuda')\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for _ in range(2):\n"
        "    model(torch.zeros(8, 64, device='cuda')).sum().backward()\n"
        "    optimizer.step()\n"
        "if os.fork() == 0:\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        f"os._exit({code})\n"
    )
    done = forecast(program, on=(on,))
    assert done.returncode == code, done.err
    assert "step time" in done.out
    assert "Traceback" not in done.err
    assert ("ended with exit code 3 after 2 steps at leaves.py:10;" in " ".join(done.out.split())) == (code == 3)


def test_a_program_that_asks_its_user_is_told_that_nothing_is_on_stdin(tmp_path):
    """No page and no message said that what is piped to it does not arrive."""
    program = tmp_path / "asks.py"
    program.write_text("import torch\ntorch.zeros(8, device='cuda')\ninput('name? ')\n")
    done = forecast("--quiet", program)
    assert done.returncode == 1
    assert "EOFError: EOF when reading a line (asks.py:3) Nothing is on its stdin" in done.err


def test_a_host_without_memory_for_a_model_is_told_from_a_chip_without(tmp_path):
    """A model made on the CPU takes this machine's memory: torch's own words said nothing of where to make it."""
    program = tmp_path / "large.py"
    program.write_text("import torch\ntorch.empty(1 << 50)\n")
    process = start("--quiet", program, on=("h100",))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "(large.py:2)" in err
    assert "This machine ran out of memory, not the chip" in err
    assert 'with torch.device("cuda"): model = ...' in err


def test_a_failure_inside_of_a_package_is_at_the_programs_own_line(tmp_path):
    """It was said to be at __init__.py:778, a line of numpy's."""
    program = tmp_path / "old.py"
    program.write_text("import numpy\n\n\ndef lowest():\n    return numpy.no_such_name\n\n\nlowest()\n")
    done = forecast(program)
    assert done.returncode == 1
    assert re.search(r"^.*AttributeError: .*no_such_name.* \(old\.py:5\)$", done.err, re.MULTILINE)


def test_a_failure_by_a_value_that_was_made_up_says_so(tmp_path):
    """BoTorch's fits "failed", as no descent was seen in a loss that is always 1.0, and nothing said where that came from."""
    program = tmp_path / "fit.py"
    program.write_text(
        "import torch\n"
        "if torch.randn(8, device='cuda').sum().item() > 0.5:\n"
        "    raise RuntimeError('all attempts to fit the model have failed')\n"
    )
    *_, failed, why, _ = forecast("--quiet", program).err.splitlines()
    assert failed == "RuntimeError: all attempts to fit the model have failed (fit.py:3)"
    assert why.startswith("The last value that it read of the chip was 1.0, at fit.py:2; values are made up")
    program.write_text("import torch\ntorch.ones(8, device='cuda')\nraise RuntimeError('of its own')\n")
    assert "made up" not in forecast("--quiet", program).err
