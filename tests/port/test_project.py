"""Trees: what is written, where, and that it is at any moment whole."""

import gc
import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from anychip import cli
from anychip.errors import BadUse
from anychip.port import show, writing
from anychip.port.engine import port_source
from anychip.port.project import port
from anychip.port.target import make_target

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROGRAM = "import torch\n\nx = y.cuda()\n"
PORTED = 'import torch\n\nDEVICE = torch.accelerator.current_accelerator() or torch.device("cpu")\n\nx = y.to(DEVICE)\n'


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "src"
    (root / "pkg").mkdir(parents=True)
    (root / "train.py").write_text(PROGRAM)
    (root / "pkg" / "old.py").write_text("print 'cuda'\n")
    (root / "data.bin").write_bytes(b"\0cuda\0")
    (root / "run.sh").write_text(
        "# CUDA_VISIBLE_DEVICES=1\nexport CUDA_VISIBLE_DEVICES=0\npython train.py --device cuda\nnvidia-smi\n"
    )
    (root / "config.yaml").write_text("device: cuda  # where\nname: cuda\n")
    (root / "requirements.txt").write_text("torch==2.1.0+cu118\nflash-attn\nnumpy\n")
    (root / "README.md").write_text("Run `CUDA_VISIBLE_DEVICES=0 python train.py --device cuda`.\n")
    return root


def git(folder, *words):
    settings = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *settings, *words], check=True, capture_output=True)


def test_out_has_the_whole_tree_and_the_source_stays(tree, tmp_path):
    result = port(tree, out=tmp_path / "out")
    assert (tmp_path / "out" / "train.py").read_text() == PORTED
    assert (tree / "train.py").read_text() == PROGRAM
    assert (tmp_path / "out" / "data.bin").read_bytes() == b"\0cuda\0"
    assert (tmp_path / "out" / "run.sh").read_text() == (tree / "run.sh").read_text()  # still right on CUDA
    assert result.changed == ["train.py"]
    assert list(result.skipped) == ["pkg/old.py"]
    assert result.converted == 1.0


def test_a_chips_form_edits_scripts_and_settings_but_no_prose(tree, tmp_path):
    port(tree, "ascend-910b", out=tmp_path / "out")
    script = (tmp_path / "out" / "run.sh").read_text()
    assert (
        script
        == "# CUDA_VISIBLE_DEVICES=1\nexport ASCEND_RT_VISIBLE_DEVICES=0\npython train.py --device npu\nnvidia-smi\n"
    )
    assert (tmp_path / "out" / "config.yaml").read_text() == "device: npu  # where\nname: cuda\n"
    assert (tmp_path / "out" / "README.md").read_text() == (tree / "README.md").read_text()


def test_what_was_left_is_told_with_its_place_and_reason(tree):
    left = {(one.file, one.line, one.rule) for one in port(tree).left}
    assert {("run.sh", 2, "environment"), ("run.sh", 3, "device-config"), ("run.sh", 4, "nvidia-tool")} <= left
    assert {("requirements.txt", 1, "dependency"), ("requirements.txt", 2, "dependency")} <= left


def test_nothing_is_written_without_being_asked(tree):
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    result = port(tree, diff=True)
    assert {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()} == before
    assert "+x = y.to(DEVICE)\n" in result.diffs["train.py"]


def test_a_diff_is_a_patch(tree):
    git(tree, "init", "-q")
    patch = port(tree, diff=True).diffs["train.py"]
    subprocess.run(["git", "apply"], input=patch, text=True, cwd=tree, check=True)
    assert (tree / "train.py").read_text() == PORTED


def test_in_place_needs_a_clean_git_tree(tree):
    with pytest.raises(BadUse, match="no git repository"):
        port(tree, in_place=True)
    git(tree, "init", "-q")
    with pytest.raises(BadUse, match="uncommitted"):
        port(tree, in_place=True)
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "x")
    port(tree, in_place=True)
    assert (tree / "train.py").read_text() == PORTED
    assert port(tree.parent / "src" / "pkg", diff=True).changed == []


@pytest.mark.parametrize("bad", ["", "full", "file"])
def test_an_output_that_would_overwrite_is_refused(tree, tmp_path, bad):
    out = tree / "inside" if not bad else tmp_path / bad
    if bad == "full":
        out.mkdir()
        (out / "x").write_text("x")
    elif bad:
        out.write_text("x")
    with pytest.raises(BadUse):
        port(tree, out=out)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.py"
    path.write_text("old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadUse, match=r"No space left on device\. What stood there is whole"):
        writing.write_whole(path, b"new and longer")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.py"]


def test_ctrl_c_leaves_each_file_old_or_new(tree, monkeypatch):
    (tree / "b.py").write_text(PROGRAM)
    git(tree, "init", "-q")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "x")
    known, seen = os.replace, []

    def interrupted(source, target):
        seen.append(target)
        if len(seen) == 2:
            raise KeyboardInterrupt
        known(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        port(tree, in_place=True)
    assert sorted((tree / name).read_text() for name in ("b.py", "train.py")) == sorted([PROGRAM, PORTED])
    assert not list(tree.rglob("*.tmp"))


def test_modes_encodings_and_links_are_kept(tree, tmp_path):
    (tree / "latin.py").write_bytes("# -*- coding: latin-1 -*-\nimport torch\ns = 'é'\nx.cuda()\n".encode("latin-1"))
    (tree / "bom.py").write_bytes(b"\xef\xbb\xbfimport torch\nx.cuda()\n")
    (tree / "train.py").chmod(0o755)
    (tree / "link.py").symlink_to("train.py")
    (tree / "loop").symlink_to(".")
    port(tree, out=tmp_path / "out")
    assert "s = 'é'".encode("latin-1") in (tmp_path / "out" / "latin.py").read_bytes()
    assert (tmp_path / "out" / "bom.py").read_bytes().startswith(b"\xef\xbb\xbfimport torch")
    assert (tmp_path / "out" / "train.py").stat().st_mode & 0o777 == 0o755


def test_notebooks_keep_their_layout(tree, tmp_path):
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["model.cuda()"]},
        {
            "cell_type": "code",
            "execution_count": 1,
            "metadata": {},
            "outputs": [],
            "source": ["%pip list\n", "import torch\n", "x = y.cuda()"],
        },
    ]
    text = (
        json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1, ensure_ascii=False)
        + "\n"
    )
    (tree / "a.ipynb").write_text(text)
    port(tree, out=tmp_path / "out")
    made = (tmp_path / "out" / "a.ipynb").read_text()
    source = json.loads(made)["cells"][1]["source"]
    assert source[0] == "%pip list\n"
    assert source[-1] == "x = y.to(DEVICE)"
    assert json.loads(made)["cells"][0] == cells[0]
    assert len(made.splitlines()) == len(text.splitlines()) + 3  # an empty line, the name, an empty line


def test_a_notebook_of_another_layout_is_left(tree):
    (tree / "a.ipynb").write_text('{"cells":   [{"cell_type": "code", "source": ["import torch\\n", "x.cuda()"]}]}')
    assert "laid out" in port(tree).skipped["a.ipynb"]


def test_cuda_sources_are_listed_with_their_symbols(tree):
    (tree / "k.cu").write_text(
        "// cudaMalloc\n__global__ void f() {}\nvoid g() { cudaMalloc(0, 1); cudaMalloc(0, 2); cudaFree(0); }\n"
    )
    (kernel,) = port(tree, "ascend-910b").kernels
    assert (kernel.path, kernel.symbols, kernel.mapped) == ("k.cu", 3, None)
    assert "Ascend C" in kernel.outcome


@pytest.mark.slow
def test_cuda_sources_become_hip_by_pytorchs_hipify(tree, tmp_path):
    (tree / "k.cu").write_text(
        "#include <cuda_runtime.h>\nvoid g(float* x) { cudaMalloc(&x, 1); cudaNoSuchThing(); }\n"
    )
    (kernel,) = port(tree, "mi300x", out=tmp_path / "out").kernels
    assert (kernel.symbols, kernel.mapped, kernel.unmapped) == (2, 1, ("cudaNoSuchThing",))
    assert "hipMalloc" in (tmp_path / "out" / "k.hip").read_text()
    assert (tmp_path / "out" / "k.cu").read_text() == (tree / "k.cu").read_text()


def test_one_of_a_thing_is_singular(tmp_path):
    (tmp_path / "a.py").write_text("import torch\nimport apex\nx.cuda()")
    printed = show.text(port(tmp_path / "a.py"))
    assert ": 1 edit in 1 of 1 file, 3 lines" in printed
    assert "left, 1 place: " in printed


def test_a_preview_says_where_it_leaves_something_off(tmp_path):
    """A line was cut off in the middle, as if that were the edit."""
    line = f"torch.cuda.set_device(r); print('{'x' * 100}')"
    (tmp_path / "a.py").write_text(f"import torch\n{line}\n")
    printed = show.text(port(tmp_path / "a.py"))
    assert f"- {line[:100]} ...\n" in printed
    assert re.search(r"^ +\+ .{100} \.\.\.$", printed, re.MULTILINE)
    (tmp_path / "a.py").write_text("import torch\ntorch.cuda.set_device(r)\n")
    assert "- torch.cuda.set_device(r)\n" in show.text(port(tmp_path / "a.py"))


def test_the_command_prints_one_screen_and_json(tree, capsys, tmp_path):
    assert cli.main(["port", str(tree), "--json", str(tmp_path / "r.json")]) == 0
    said = capsys.readouterr().out
    assert "to portable PyTorch: 1 edit in 1 of" in said
    assert "+ x = y.to(DEVICE)" in said
    answer = json.loads((tmp_path / "r.json").read_text())
    assert answer["schema"] == 1
    assert {"target", "edits", "left", "skipped", "kernels", "proof"} <= set(answer)
    assert answer["edits"][0] == {
        "rule": "cuda-method", "file": "train.py", "line": 3, "ported_line": 5, "symbol": ".cuda()", "before": "x = y.cuda()",
        "after": "x = y.to(DEVICE)", "reason": ".to() moves to any device; .cuda() only to CUDA",
    }  # fmt: skip


@pytest.mark.parametrize(
    "argv", [["nowhere"], [".", "--on", "no-such-chip"], [".", "--on", "h100:8"], [".", "--prove", "ls"]]
)
def test_wrong_use_is_exit_code_2(argv, capsys, tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert cli.main(["port", *argv]) == 2
    assert "anychip: " in capsys.readouterr().err


def test_the_report_names_what_a_masked_platform_is():
    assert "calls itself CUDA" in show.text(port(EXAMPLES / "train_gpt_cuda.py", "mi300x"))


def test_links_are_links_and_what_is_no_file_is_named(tmp_path):
    tree = tmp_path / "tree"
    (tree / "pkg").mkdir(parents=True)
    (tree / "a.py").write_text("import torch\nx = y.cuda()\n")
    (tmp_path / "data").mkdir()
    (tree / "pkg" / "same.py").symlink_to("../a.py")
    (tree / "pkg" / "loop").symlink_to("..")
    (tree / "data").symlink_to("../data")
    (tree / "gone").symlink_to("nowhere")
    os.mkfifo(tree / "pipe.py")
    result = port(tree, out=tmp_path / "elsewhere" / "out")
    out = tmp_path / "elsewhere" / "out"
    assert result.skipped == {"pipe.py": "no regular file"}
    assert os.readlink(out / "pkg" / "same.py") == "../a.py"
    assert "to(DEVICE)" in (out / "pkg" / "same.py").read_text()
    assert os.readlink(out / "pkg" / "loop") == ".."
    assert (out / "data").resolve() == tmp_path / "data"
    assert os.readlink(out / "gone") == "nowhere"


def test_many_edits_in_one_file_take_time_that_grows_with_their_number(tmp_path):
    lines = [f"x{i} = y.cuda()\nz{i} = x.to('cuda:0')\n" for i in range(4000)]

    def seconds(part):
        began = time.process_time()
        made = port_source("import torch\n" + "".join(lines[:part]), make_target(None))
        assert len(made.changes) == 2 * part
        return time.process_time() - began

    gc.disable()  # what other tests left behind is walked at the larger size only
    try:
        times = [min(seconds(part) for _ in range(3)) for part in (1000, 4000)]
    finally:
        gc.enable()
    assert times[1] < 8 * times[0]  # 4 times the edits; 16 times where each is compared with every other


def test_names_that_are_no_text_are_told_and_kept(tmp_path, capsysbinary):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in (b"a\nb.py", b"\xff.py"):
        Path(os.fsdecode(os.fsencode(tree) + b"/" + name)).write_text("import torch\nx = y.cuda()\n")
    assert cli.main(["port", str(tree), "--diff"]) == 0
    out = capsysbinary.readouterr().out
    assert b"\xff.py" in out
    assert cli.main(["port", str(tree), "--out", str(tmp_path / "out")]) == 0
    assert cli.main(["audit", str(tree), "--no-cache"]) == 0
    assert cli.main(["audit", str(tree), "--no-cache", "--list"]) == 0
    told = capsysbinary.readouterr().out
    assert b"a\\nb.py:2" in told
    assert b"\\udcff.py:2" in told
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == [b"a\nb.py", b"\xff.py"]


def test_lines_of_ipython_stay_and_the_rest_of_a_notebook_is_ported(tmp_path):
    sources = [
        [
            "%matplotlib inline\n",
            "import torch\n",
            "x = y.cuda()\n",
            "files = !ls\n",
            "if x:\n",
            "    !ls\n",
            "torch.cuda.f?",
        ],
        ["%%bash\n", "python train.py --device cuda $HOME\n"],
        ["%%time\n", "z = x.to('cuda')"],
    ]
    cells = [
        {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": source}
        for source in sources
    ]
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n")
    result = port(path, out=tmp_path / "out")
    assert result.skipped == {}
    made = json.loads((tmp_path / "out" / "n.ipynb").read_text())["cells"]
    assert [line for line in made[0]["source"] if "DEVICE =" not in line and line.strip()] == [
        "%matplotlib inline\n", "import torch\n", "x = y.to(DEVICE)\n", "files = !ls\n", "if x:\n", "    !ls\n", "torch.cuda.f?",
    ]  # fmt: skip
    assert made[1]["source"] == sources[1]
    assert made[2]["source"] == ["%%time\n", "z = x.to(DEVICE)"]


def test_a_tree_that_lacks_a_file_is_no_success(tree, tmp_path, monkeypatch, capsys):
    """Exit code 0 had the next command run on a tree without the file."""

    def refuse(source, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(writing, "copy_whole", refuse)
    assert cli.main(["port", str(tree), "--out", str(tmp_path / "out")]) == 1
    assert "cannot be copied: Permission denied" in capsys.readouterr().out
