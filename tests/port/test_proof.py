"""The proof: what is compared, and one program all the way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anychip import cli
from anychip.errors import BadUse
from anychip.port import proof, reached, show
from anychip.port.project import Result, port
from anychip.port.target import make_target

ROOT = Path(__file__).resolve().parents[2]
OLD = {"steps": 3, "calls": 3, "parameters": 2, "names": ["aten.mm.default"], "losses": [1.0, 0.5], "outputs": []}
PROGRAM = """
import torch

model = torch.nn.DataParallel(torch.nn.Linear(4, 2).cuda())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    loss = model(torch.randn(8, 4, device="cuda")).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""
SCALED = """
import torch

model = torch.nn.Linear(4, 2).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
loss_of = torch.compile(lambda out: (out * 0 + 2).mean())
for _ in range(3):
    scaler.scale(loss_of(model(torch.randn(8, 4, device="cuda")))).backward()
    scaler.step(optimizer)
    scaler.update()
"""


def failed(checks):
    return [check.what.rpartition(": ")[2] for check in checks if check.ok is False]


def test_equal_runs_hold():
    assert failed(proof._compare_virtual("x", OLD, dict(OLD))) == []
    assert failed(proof._compare_cpu(OLD, dict(OLD))) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"steps": 2}, "steps"), ({"steps": 0, "calls": 0}, "steps"), ({"parameters": 0}, "parameters on the device"),
        ({"names": ["aten.mm.default", "aten.add.Tensor"]}, "kinds of operation"), ({"error": "boom"}, "runs"),
    ],
)  # fmt: skip
def test_a_run_that_differs_does_not_hold(change, what):
    assert failed(proof._compare_virtual("x", OLD, {**OLD, **change})) == [what]


@pytest.mark.parametrize(
    ("losses", "ok"), [([1.0, 0.5], True), ([1.0, 0.500001], True), ([1.0, 0.51], False), ([1.0], False)]
)
def test_losses_are_equal_within_rounding(losses, ok):
    checks = proof._compare_cpu(OLD, {**OLD, "losses": losses})
    assert checks[-1].ok is ok


def test_a_comparison_that_could_not_be_made_is_no_success():
    checks = proof._compare_virtual("x", {"error": "no"}, OLD)
    assert checks[0].ok is None
    assert not proof.Proof(tuple(checks)).ok


@pytest.mark.parametrize(("after", "said"), [(OLD, "proof: holds\n"), ({**OLD, "losses": []}, "does NOT hold"),
                                             ({**OLD, "error": "no"}, "does NOT hold")])  # fmt: skip
def test_what_could_not_be_compared_is_said(after, said):
    result = Result(make_target(None), proof=proof.Proof((*proof._compare_cpu(OLD, after),)))
    assert said in show.text(result) + "\n"
    missing = proof._compare_cpu({**OLD, "error": "No module named flash_attn"}, OLD)
    assert "proof: none, as the original could not be run here" in show.text(
        Result(make_target(None), proof=proof.Proof((*missing,)))
    )
    some = Result(make_target(None), proof=proof.Proof((*proof._compare_virtual("x", OLD, OLD), *missing)))
    assert "proof: holds, as far as it could be compared" in show.text(some)


LATE = """
import torch

def late(x):
    return x + torch.zeros(
        2,
        device="cuda",
    )

for step in range(3):
    if step == 5:
        torch.cuda.synchronize(); late(torch.zeros(2))
    torch.cuda.empty_cache()
"""


def test_edits_that_no_run_came_to_are_told(tmp_path):
    """The proof held after three steps, whatever was edited of what comes after a hundred."""
    (tmp_path / "train.py").write_text(LATE)
    (tmp_path / "run.sh").write_text("python train.py --device cuda\n")
    (tmp_path / "never.py").write_text("import torch\ntorch.cuda.synchronize()\nreturn\n")
    result = port(tmp_path, "ascend-910b", out=tmp_path.parent / "new")
    edits = [reached.Place(one.file, one.line, one.ported_line) for one in result.edits if one.rule != "header"]
    assert sorted((one.file, one.line) for one in edits) == [
        ("never.py", 2), ("run.sh", 1), ("train.py", 7), ("train.py", 12), ("train.py", 13)
    ]  # fmt: skip
    lines = reached.ask(tmp_path.parent / "new", edits, tmp_path / "asked", tmp_path / "reached")
    # The port imports torch_npu, which is not here: what stands in for torch has the functions that the program calls.
    code = (
        "import sys, unittest.mock, runpy; sys.modules |= {name: unittest.mock.MagicMock() for name in ('torch', 'torch_npu')}\n"
        "from anychip.port.runners import reached; reached.watch(sys.argv[1]); runpy.run_path('train.py')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "asked")], cwd=tmp_path.parent / "new", capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    missed = reached.unreached(edits, lines, tmp_path / "reached")
    assert [(one.file, one.line) for one in missed] == [
        ("never.py", 2),
        ("run.sh", 1),
        ("train.py", 7),
        ("train.py", 12),
    ]
    result.proof = proof.Proof((*proof._compare_virtual("x", OLD, OLD),), tuple(edits), missed)
    text = show.text(result)
    assert "proof: holds, of 1 of 5 edits: these runs did not reach the others\n" in text
    assert text.endswith("  -    4 edits not reached: never.py:2, run.sh:1, train.py:7, train.py:12")
    assert show.to_json(result)["proof"]["unreached"][1] == {"file": "run.sh", "line": 1, "ported_line": 1}


def test_commands(tmp_path):
    (tmp_path / "a.py").write_text("")
    assert proof.parse("python3 a.py --x 1", tmp_path) == (["a.py", "--x", "1"], False, False)
    assert proof.parse("python -m pkg.a 'b c'", tmp_path) == (["pkg.a", "b c"], True, False)
    for bad in ("", "python", "python -m", "python -c pass", "torchrun b.py", "torchrun", "python b.py"):
        with pytest.raises(BadUse):
            proof.parse(bad, tmp_path)


@pytest.mark.slow
def test_a_program_and_its_port_do_the_same(tmp_path):
    (tmp_path / "train.py").write_text(PROGRAM)
    result = port(tmp_path, "ascend-910b", prove="python train.py")
    assert result.proof is not None
    assert [check for check in result.proof.checks if not check.ok] == []
    assert len(result.proof.checks) == 5
    assert (len(result.proof.edits), result.proof.unreached) == (2, ())
    assert show.text(result).endswith("  ok   all 2 edits reached")


@pytest.mark.slow
def test_losses_are_those_of_the_program_and_not_as_a_scaler_or_a_compiler_has_them(tmp_path):
    """A loss of 2 was printed as 2,048, and a compiled program was not compared: the compiler saw through the imitation."""
    (tmp_path / "train.py").write_text(SCALED)
    (tmp_path / "asked").write_text('{"lines": {}, "out": ""}')
    done = proof._on_cpu(tmp_path, ["train.py"], False, "cuda", 3, tmp_path / "out", tmp_path / "asked")
    assert done.get("losses") == [2.0, 2.0, 2.0], done


def test_every_run_of_a_proof_is_ended_after_as_many_steps_as_are_asked_for(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("")
    asked = []

    def run(command, folder, out):
        where = command.index(proof._RECORD) + 1 if proof._RECORD in command else None
        asked.append(json.loads(command[where])[2] if where else int(command[4]))
        return OLD

    monkeypatch.setattr(proof, "_run", run)
    proof.prove(tmp_path, tmp_path, "python train.py", make_target(None), steps=7)
    assert asked == [7] * 5
    asked.clear()
    proof.prove(tmp_path, tmp_path, "python train.py", make_target("ascend-910b"))
    assert asked == [3] * 4


@pytest.mark.parametrize("quiet", [False, True])
def test_a_proof_says_where_it_is_where_no_terminal_is(quiet, tmp_path, monkeypatch, capsys):
    """For minutes the log of a CI said nothing."""
    (tmp_path / "train.py").write_text("import torch\nx = torch.ones(2).cuda()\n")
    monkeypatch.setattr(proof, "_run", lambda *_: OLD)
    cli.main(["port", str(tmp_path), "--prove", "python train.py", *["--quiet"] * quiet])
    said = capsys.readouterr().err.splitlines()
    begun = [
        "anychip: proof: the original on a virtual h100",
        "anychip: proof: the original on the CPU",
        "anychip: proof: the port on a virtual ascend-910b",
        "anychip: proof: the port on a virtual h100",
        "anychip: proof: the port on the CPU",
    ]
    assert sorted(said) == ([] if quiet else begun)


@pytest.mark.slow
def test_edits_are_reached_on_chips_that_call_themselves_cuda(tmp_path):
    """There nobody looked: where the CPU's runs ended early, all that came after was told to be out of reach."""
    large = "assert torch.cuda.get_device_properties(0).total_memory > 60 * 2**30, 'too small'\n"
    (tmp_path / "train.py").write_text(PROGRAM.replace("import torch\n", f"import torch\n{large}", 1))
    found = port(tmp_path, None, prove="python train.py", prove_on="mi300x").proof
    assert found is not None
    assert [check.after for check in found.checks if not check.ok] == ["not compared"]
    assert found.edits
    assert not found.unreached


@pytest.mark.slow
def test_autocast_without_a_dtype_computes_in_the_chips(tmp_path):
    """CUDA's is float16 and the CPU's bfloat16: a right port was said to compute something else."""
    (tmp_path / "train.py").write_text(
        PROGRAM.replace("    loss = ", "    with torch.cuda.amp.autocast():\n        loss = ")
    )
    result = port(tmp_path, None, prove="python train.py")
    assert result.proof is not None
    assert [check for check in result.proof.checks if not check.ok] == []


def test_the_error_that_is_told_is_the_programs_own():
    text = "x\nRuntimeError: theirs\n\nTraceback\nanychip.errors.ProgramFailed: ours\n"
    assert proof._last_error(text) == "RuntimeError: theirs"
    assert proof._last_error("only words\n") == "only words"


def test_libraries_say_the_plug_ins_name_as_well(tmp_path):
    (tmp_path / "library.py").write_text("KIND = 'npu'\nPLACE = f'npu:{1}'\nFOLDER = 'npu_files'\n")
    code = (
        "from anychip.port.runners import names\nnames.install('npu', 'cpu', ('torch_npu',))\n"
        "import importlib.util, library, torch\nassert importlib.util.find_spec('torch_npu') is not None\n"
        "assert torch.device(library.KIND).type == torch.device('npu').type\n"
        "print(torch.device('npu:1') == torch.device(library.PLACE), library.FOLDER, torch.ones(2, device='npu').device)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
    )
    assert done.stdout.split() == ["True", "npu_files", "cpu"], done.stderr


def test_classes_that_bear_the_plug_ins_name_are_those_of_the_chip(tmp_path):
    """torch.npu.NPUGraph, as the standard's table has it, ended a proof: torch.cuda has none."""
    said = (
        "from anychip.port.runners import names\nnames.install('npu', 'cpu', ('torch_npu',))\n"
        "import torch\nassert torch.npu.NPUGraph is torch.cuda.CUDAGraph\n"
        "try:\n    torch.npu.Absent\nexcept AttributeError as error:\n    print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert ran.stdout == "module 'torch.npu' has no attribute 'Absent'\n"


RANK = """
import os, torch, torch.distributed as dist
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
dist.init_process_group("nccl")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 8).cuda())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    model(torch.ones(4, 8, device="cuda")).sum().backward()
    optimizer.step()
"""


def test_what_torchrun_starts_is_proven_as_one_rank(tmp_path):
    """There was no way to: without its launcher the original had no rank, and the port was said not to hold."""
    (tmp_path / "train.py").write_text(RANK)
    command = "torchrun --nproc-per-node 1 train.py"
    found = port(tmp_path, "ascend-910b", out=tmp_path.parent / "ranks", prove=command).proof
    assert found.ok, found.checks
    assert proof.parse("python -m torch.distributed.run --standalone -m package.train a", tmp_path) == (
        ["package.train", "a"],
        True,
        True,
    )
    assert "torchrun" in proof._last_error("KeyError: 'LOCAL_RANK'")
