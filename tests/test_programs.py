"""Small programs on the real virtual device, through the command line: what is said, where, and the exit code."""

import gzip
import json
import pickle
import re

import pytest

from tests.command import INFER, PROGRAMS, TRAIN, forecast, start, target


def test_a_program_ends_after_three_steps_and_its_output_is_on_stderr():
    process = start(TRAIN)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert [line for line in err.splitlines() if line.startswith("step")] == ["step 0 1.0", "step 1 1.0", "step 2 1.0"]
    assert "step 0" not in out
    again = forecast(TRAIN)
    assert again.returncode == 0
    for one in (out, again.out):
        assert re.search(r"^step time +\d", one, re.MULTILINE)
    assert [line for line in again.err.splitlines() if line.startswith("step")] == [
        "step 0 1.0",
        "step 1 1.0",
        "step 2 1.0",
    ]


def test_files_are_written(tmp_path):
    names = ("j.json", "t.json.gz", "m.pickle", "p.anychip")
    json_, trace, snapshot, saved = (tmp_path / name for name in names)
    done = forecast(
        "--quiet",
        "--json",
        json_,
        "--trace",
        trace,
        "--memory-snapshot",
        snapshot,
        "--save",
        saved,
        "--steps",
        "2",
        TRAIN,
    )
    assert (done.returncode, done.out) == (0, "")
    answer = json.loads(json_.read_text())
    assert (answer["schema"], answer["steps"]) == (1, 2)
    assert json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert pickle.loads(snapshot.read_bytes())["device_traces"]
    again = tmp_path / "again.json"
    assert "wrote" not in done.err
    done = forecast("--json", again, "--trace", trace, "--memory-snapshot", snapshot, "--load", saved)
    assert done.returncode == 0
    assert target(again)["step_time_s"] == target(json_)["step_time_s"]
    assert done.err.splitlines()[-3:] == [f"anychip: wrote {path}" for path in (again, trace, snapshot)]


def test_calls_end_a_program_that_has_no_optimizer(tmp_path):
    out = tmp_path / "j.json"
    done = forecast("--calls", "2", "--json", out, INFER, "1000000")
    assert done.returncode == 0
    assert "sum" not in done.err  # it was ended before
    assert json.loads(out.read_text())["steps"] == 2
    assert target(out)["step_kind"] == "call"


def test_many_calls_without_a_step_say_how_to_end_them():
    done = forecast(INFER, "101")
    assert "--calls N" in done.err
    assert "sum 1.0" in done.err


def test_a_program_without_any_step_says_so_and_what_to_try():
    done = forecast("--quiet", PROGRAMS / "no_model.py")
    assert done.returncode == 0
    assert "No step was found" in done.err
    assert "--calls N" in done.err


def test_a_program_that_stays_on_the_cpu_is_no_forecast(tmp_path):
    """Exit 0 and figures of nothing would look like an answer."""
    script = tmp_path / "on_cpu.py"
    script.write_text("import torch\nprint(torch.nn.Linear(4, 4)(torch.ones(2, 4)).sum().item() != 0)\n")
    done = forecast(script)
    assert done.returncode == 2
    assert "without a single operation on the chip" in done.err
    assert done.out == ""


def test_a_program_of_bare_tensors_ends_after_three_steps(tmp_path):
    out = tmp_path / "j.json"
    done = forecast("--quiet", "--json", out, PROGRAMS / "bare.py")
    assert done.returncode == 0, done.err
    assert json.loads(out.read_text())["steps"] == 3
    assert "step 9" not in done.err


def test_tokens_per_step_are_counted_as_given(tmp_path):
    out = tmp_path / "j.json"
    assert forecast("--quiet", "--tokens-per-step", "1000", "--json", out, TRAIN).returncode == 0
    assert target(out)["tokens_per_s_per_chip"] == pytest.approx(1000 / target(out)["step_time_s"])


@pytest.mark.parametrize(("host", "said"), [("modelled", True), ("measured", False)])
def test_what_a_modelled_host_leaves_out_is_said(host, said, tmp_path):
    done = forecast("--host", host, "--json", tmp_path / "host.json", TRAIN)
    assert (
        "host: launching alone; --host measured adds data loading and Python between calls"
        in " ".join(done.out.split())
    ) == said
    assert json.loads((tmp_path / "host.json").read_text())["host"] == host
    assert "steps: 3 were recorded, all but the first count; what comes once in more" in done.out


def test_a_measured_host_takes_longer_than_a_modelled_one(tmp_path):
    """Two layers on a virtual chip: the time that passes here is mostly Python's."""
    times = []
    for host in ("modelled", "measured"):
        out = tmp_path / f"{host}.json"
        assert forecast("--quiet", "--host", host, "--json", out, TRAIN).returncode == 0
        times.append(target(out)["step_time_s"])
    assert times[1] > times[0]


def test_a_measured_host_leaves_out_what_a_recorded_call_takes(tmp_path):
    """What a virtual chip does in a call takes many times what a host takes to issue it."""
    program = tmp_path / "spin.py"
    program.write_text("""
import sys, time, torch
class Net(torch.nn.Linear):
    def forward(self, x):
        spin(sys.argv[1] == "inside")
        return super().forward(x)
def spin(really):
    began = time.process_time()
    while really and time.process_time() - began < 0.05:
        pass
net = Net(8, 8).cuda()
optimizer = torch.optim.SGD(net.parameters(), 0.1)
for _ in range(3):
    spin(sys.argv[1] == "between")
    net(torch.randn(4, 8, device="cuda")).sum().backward()
    optimizer.step()
""")
    times = {}
    for where in ("inside", "between"):
        out = tmp_path / f"{where}.json"
        assert forecast("--quiet", "--host", "measured", "--json", out, program, where).returncode == 0
        times[where] = target(out)["step_time_s"]
    assert times["between"] > 0.05
    assert times["inside"] < times["between"] / 2


@pytest.mark.parametrize("flag", [("--device", "npu")])
def test_what_is_not_there_yet_is_refused_in_one_line(flag):
    done = forecast(*flag, TRAIN)
    assert done.returncode == 2
    assert done.out == ""
    assert "Traceback" not in done.err
    assert f"{flag[0]} " in done.err.splitlines()[-1]
    assert "not there yet" in done.err.splitlines()[-1]


def test_a_function_of_the_program_can_end_its_steps(tmp_path):
    # Rounds of 0, 1 and 2 optimizer steps: three steps as marked end before the fourth round.
    out = tmp_path / "out.json"
    assert (
        forecast("--quiet", "--step-mark", "Trainer.one_round", "--json", out, PROGRAMS / "marked.py").returncode == 0
    )
    assert target(out)["step_kind"] == "train"
    assert json.loads(out.read_text())["steps"] == 3


def test_a_mark_that_no_function_has_is_told(tmp_path):
    out = tmp_path / "j.json"
    done = forecast("--quiet", "--json", out, "--step-mark", "no_such", PROGRAMS / "bare.py")
    assert "No function called no_such returned" in done.err
    assert json.loads(out.read_text())["steps"] == 10


def test_imbalance_makes_the_first_expert_the_fullest():
    """32 tokens choose among 4 experts: 8 each; with the fullest at twice the mean 16, and 6, 5, 5 for the others."""
    even = forecast("--quiet", PROGRAMS / "experts.py").err
    assert "tokens per expert [8, 8, 8, 8]" in even
    assert "tokens per expert [16, 6, 5, 5]" in forecast("--quiet", "--imbalance", "2", PROGRAMS / "experts.py").err


@pytest.mark.parametrize(("how", "sizes", "said"), [
    # 4,096 tokens choose among 4: with the fullest at twice the mean 2,048, and a third of what is left for each of the others
    ("equal", [2048, 683, 683, 683], "the first part is the fullest at masked_experts.py:24."),
    ("other", [2048, 683, 683, 683], "the first part is the fullest at masked_experts.py:24."),
    ("hot", [1024] * 4, "without effect; a mask at masked_experts.py:24 selects an equal part each time, as it does not tell "
                        "which part it is of."),
    ("float", [4096] * 4, "without effect; a mask at masked_experts.py:24 selects everything each time, as it does not tell "
                          "which part it is of."),
])  # fmt: skip
def test_imbalance_reaches_experts_that_are_picked_by_masks_or_says_that_it_does_not(how, sizes, said):
    done = forecast("--quiet", "--imbalance", "2", PROGRAMS / "masked_experts.py", how)
    assert f"tokens per expert {sizes}" in done.err
    assert f"warning: --imbalance 2: {said}" in done.err


def test_an_imbalance_beyond_all_tokens_is_cut_and_told():
    """Of 4 experts the fullest gets 4 times the mean at most; where each token picks 2 of them, twice."""
    told = forecast("--quiet", "--imbalance", "20", PROGRAMS / "experts.py").err
    assert "tokens per expert [32, 0, 0, 0]" in told
    assert (
        "--imbalance 20: cut to 4, at which the first of 4 parts gets every token; the first part is the fullest at"
        in told
    )
    for how in ("equal", "counts", "hot"):
        told = forecast("--quiet", "--imbalance", "20", PROGRAMS / "best_experts.py", how).err
        assert "tokens per expert [4096, 136" in told
        assert "--imbalance 20: cut to 2, at which the first of 4 parts gets every token" in told


def test_an_imbalance_of_what_data_do_not_split_is_told():
    assert "--imbalance 2: without effect; no experts were found." in forecast("--quiet", "--imbalance", "2", TRAIN).err


@pytest.mark.parametrize(("way", "said"), [("fork", "child ended with 5"), ("spawn", "child sees False")])
def test_children_run_on_their_own_and_the_recording_is_the_parents(way, said, tmp_path):
    out = tmp_path / "j.json"
    done = forecast("--json", out, "--steps", "2", TRAIN, "--children", way)
    assert done.returncode == 0
    assert said in done.err
    assert json.loads(out.read_text())["steps"] == 2


@pytest.mark.parametrize(
    ("chip", "dtype", "said"),
    [
        (
            "a100",
            "float8_e4m3fn",
            "has no float8_e4m3fn matrix products: the program would fail there (aten.addmm, aten.mm)",
        ),
        ("v100", "bfloat16", "emulates bfloat16 matrix products (aten.addmm, aten.mm)"),
    ],
)
def test_a_dtype_that_the_chip_lacks_is_told(chip, dtype, said):
    done = forecast("--quiet", TRAIN, "--dtype", dtype, on=[chip])
    assert f"{said}." in done.err
    assert f"warning: nvidia-{chip}" in done.err


def test_a_chip_that_refuses_a_dtype_is_bad_news(tmp_path):
    """It was said that the program would fail there, and exit code 0."""
    out = tmp_path / "answer.json"
    for count in ("", ":2"):
        done = forecast("--json", out, TRAIN, "--dtype", "float64", on=[f"h100{count}", f"ascend-910b{count}"])
        found = json.loads(out.read_text())
        assert (done.returncode, found["exit_code"], found["outcome"]) == (1, 1, "would_fail")
        assert [len(one["would_fail"]) for one in found["targets"]] == [0, 1]
        assert re.search(r"would run +yes +NO", done.out)
        assert done.err.splitlines()[-1] == f"anychip: exit code 1: the program would fail on ascend-910b{count}."


def test_a_dtype_that_the_chip_has_is_not_mentioned():
    assert "products" not in forecast("--quiet", TRAIN, "--dtype", "bfloat16", on=["h100"]).err


def test_two_steps_that_differ_are_told(tmp_path):
    """The median of two is their mean, and so they never were."""
    program = tmp_path / "evaluates.py"
    program.write_text(
        "import torch\n"
        "model = torch.nn.Linear(64, 64).cuda()\n"
        "optimizer = torch.optim.SGD(model.parameters(), 1e-3)\n"
        "for step in range(3):\n"
        "    model(torch.ones(8, 64, device='cuda')).sum().backward()\n"
        "    optimizer.step()\n"
        "    if step == 1:\n"
        "        with torch.no_grad():\n"
        "            for _ in range(20): model(torch.ones(8, 64, device='cuda'))\n"
    )
    done = forecast("--quiet", program)
    assert re.search(r"Steps took .* on average; times are of their mean\. .*--steps takes in more", done.err)
    assert "Steps took" not in forecast("--quiet", TRAIN).err


@pytest.mark.parametrize("on", ["h100,mi300x", "h100:8, mi300x"])
def test_targets_in_one_are_told_apart(on):
    done = forecast(TRAIN, on=(on,))
    assert done.returncode == 2
    assert done.err.endswith(f"one target at a time. Try: --on {on.partition(',')[0]} --on mi300x\n")
