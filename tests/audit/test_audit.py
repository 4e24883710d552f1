"""A whole audit: a project on disk, its findings, score, targets, outputs, gates, cache, and bad input."""

import json
import os
import re
import subprocess
import sys

import pytest

import anychip
from anychip import cli
from anychip.audit import cache as store
from anychip.audit.engine import audit, audit_all
from anychip.audit.score import points, score
from anychip.errors import BadUse, UnknownChip

TRAIN = """\
import torch
from conf import DEVICE

model = torch.nn.Linear(2, 2).to(DEVICE)
torch.cuda.synchronize()
torch.cuda.synchronize()
x = torch.zeros(2).cuda()
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "project"
    (root / "csrc").mkdir(parents=True)
    (root / "train.py").write_text(TRAIN)
    (root / "conf.py").write_text('DEVICE = "cuda"\n')
    (root / "csrc" / "k.cu").write_text("__global__ void k() {}\n")
    (root / "requirements.txt").write_text("torch\nflash-attn\n")
    return root


def told(answer):
    return [(f.path, f.line, f.rule, f.severity) for f in answer.findings]


EXPECTED = [
    ("conf.py", 1, "device-string", "automatic"),
    ("csrc/k.cu", 1, "cuda-kernel", "rewrite"),
    ("requirements.txt", 2, "dependency", "thought"),
    ("train.py", 4, "device-string", "flow"),
    ("train.py", 5, "cuda-api", "automatic"),
    ("train.py", 6, "cuda-api", "automatic"),
    ("train.py", 7, "cuda-method", "automatic"),
]


def test_a_project(project):
    answer = anychip.audit(project)
    assert told(answer) == EXPECTED
    assert (answer.num_files, answer.num_lines, answer.skipped) == (4, 11, ())
    flow = answer.findings[3]
    assert (flow.source.path, flow.source.line) == ("conf.py", 1)
    assert "conf.py:1" in flow.message


def test_the_score_by_hand(project):
    answer = audit(project)
    # conf 1, kernel 20, flash-attn 5, synchronize twice 1 + 0.1, .cuda() 1; flow nothing.
    assert points(answer.findings) == pytest.approx(28.1)
    # 28.1 points in 11 lines are 2554.5 in 1000; 100 x 2554.5 / 2604.5.
    assert answer.score == pytest.approx(98.08, abs=0.01)
    assert score((), 100) == 0
    assert score((), 0) == 0


def test_processes_find_the_same(project, monkeypatch):
    monkeypatch.setattr("anychip.audit.engine.ALONE_BYTES", 0)
    monkeypatch.setattr("anychip.audit.engine._CHUNK_BYTES", 1)
    seen = []
    answer = audit(project, jobs=2, cache=False, progress=lambda done, total: seen.append((done, total)))
    assert told(answer) == EXPECTED
    assert sorted(seen) == [(n, 4) for n in (1, 2, 3, 4)]


def test_the_cache_knows_what_has_not_changed(project):
    first = audit(project)
    assert first.from_cache == 0
    (project / "conf.py").write_text('DEVICE = "cuda:1"  # another\n')
    second = audit(project)
    assert second.from_cache == 3
    assert told(second) == EXPECTED
    assert second.findings[0].symbol == '"cuda:1"'
    assert second.findings[3].message.startswith('given to .to: may hold "cuda:1"')
    assert audit(project, cache=False).from_cache == 0


@pytest.mark.parametrize("text", ["", "{", '{"version": 1}', "[]", '{"version": "x", "files": {}}'])
def test_a_broken_cache_is_read_past(project, text):
    audit(project)
    store.cache_file(str(project)).write_text(text)
    assert told(audit(project)) == EXPECTED


def test_what_targets_say(project):
    answer = audit(project, on=["mi300x", "ascend-910b"])
    amd, ascend = answer.targets
    # amd answers to cuda: strings, synchronize and .cuda() run; hipify translates the kernel, which is then looked at.
    assert amd.verdicts["as is"] == 4
    assert ascend.verdicts["edit"] == 4
    assert ascend.verdicts["kernel"] == 1
    assert ascend.verdicts["decide"] == 1


def test_what_torch_accelerator_does_not_answer_for_is_no_edit(tmp_path):
    """`anychip port` left what was to be edited by these words: nothing like torch.cuda is there."""
    (tmp_path / "a.py").write_text("import torch\ntorch.cuda.synchronize()\n")
    tpu, ascend = audit(tmp_path, on=["tpu-v5p", "ascend-910b"]).targets
    assert dict(tpu.verdicts) == {"decide": 1}
    assert dict(ascend.verdicts) == {"edit": 1}


def test_comments_silence_rules(project):
    (project / "conf.py").write_text('DEVICE = "cuda"  # anychip: ignore[device-string]\n')
    (project / "train.py").write_text("# anychip: ignore-file\n" + TRAIN)
    (project / "csrc" / "k.cu").write_text("// anychip: ignore\n__global__ void k() {}\n")
    answer = audit(project)
    assert [f.path for f in answer.findings] == ["requirements.txt"]
    assert answer.silenced == 5
    (project / "conf.py").write_text('DEVICE = "cuda"  # anychip: ignore[amp]\n')
    assert "conf.py" in [f.path for f in audit(project).findings]


def test_imports_of_the_projects_own_packages_cost_nothing(project):
    (project / "flash_attn" / "ops").mkdir(parents=True)
    (project / "flash_attn" / "__init__.py").write_text("from flash_attn.ops import f\n")
    (project / "flash_attn" / "ops" / "__init__.py").write_text("import xformers\n")
    (project / "megatron" / "core").mkdir(parents=True)
    (project / "megatron" / "core" / "__init__.py").write_text("import megatron.core.x\nimport megatron.energon\n")
    found = {(f.path, f.symbol): f.severity for f in audit(project, rules=["attention", "library"]).findings}
    assert found == {
        ("flash_attn/__init__.py", "flash_attn.ops"): "flow",
        ("flash_attn/ops/__init__.py", "xformers"): "thought",
        ("megatron/core/__init__.py", "megatron.core.x"): "flow",
        ("megatron/core/__init__.py", "megatron.energon"): "thought",
    }


def test_rules_are_chosen(project):
    assert {f.rule for f in audit(project, rules=["cuda-api"]).findings} == {"cuda-api"}
    assert "cuda-api" not in {f.rule for f in audit(project, ignore=["cuda-api"]).findings}
    with pytest.raises(BadUse, match="no such rule: nonsense"):
        audit(project, rules=["nonsense"])


def test_wrong_use(project):
    with pytest.raises(BadUse, match="no such file"):
        audit(project / "absent")
    with pytest.raises(UnknownChip):
        audit(project, on=["no-such-chip"])


def test_one_file_and_several(project):
    assert [f.line for f in audit(project / "train.py").findings] == [5, 6, 7]
    answer = audit_all([project / "conf.py", project / "train.py"])
    assert {os.path.basename(f.path) for f in answer.findings} == {"conf.py", "train.py"}


def run(*argv):
    return cli.main(["audit", *map(str, argv)])


def test_json(project, capsys):
    assert run(project, "--json", "-", "--on", "ascend-910b") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema"] == 1
    assert (answer["files"], answer["lines"]) == (4, 11)
    assert answer["score"] == 98.08
    keys = {"rule", "severity", "file", "line", "column", "symbol", "message", "fix", "automatic"}
    assert all(keys <= set(finding) for finding in answer["findings"])
    assert answer["summary"]["by_severity"] == {
        "flow": 1, "cosmetic": 0, "automatic": 4, "thought": 1, "rewrite": 1, "blocks": 0,
    }  # fmt: skip
    assert answer["targets"][0]["chip"] == "huawei-ascend-910b2"
    offers = {f["symbol"]: f["offers"]["huawei-ascend-910b2"] for f in answer["findings"]}
    assert offers["__global__"] == {"verdict": "kernel", "what": "Ascend C"}
    assert offers["flash-attn"] == {"verdict": "decide", "what": "torch_npu.npu_fusion_attention"}
    assert offers['"cuda"'] == {"verdict": "edit", "what": "npu"}


def test_what_port_mends_is_told_beside_the_score(tmp_path, capsys):
    """A short program of plain edits alone scored high, and looked hard."""
    train = tmp_path / "train.py"
    train.write_text("import torch\nmodel = torch.nn.Linear(2, 2).cuda()\ntorch.cuda.synchronize()\n")
    assert run(train) == 0
    head, mended = capsys.readouterr().out.splitlines()[:2]
    # two plain edits in 3 lines: 2 / 3 * 1000 = 667 points per 1000 lines, 667 / 717 = 93%
    assert head.startswith("lock-in score 93 of 100")
    assert mended == "of which anychip port edits all 2 places by itself: what is left scores 0"
    train.write_text(train.read_text() + "import flash_attn\n")
    # one that needs thought, 5 points, is left: 5 / 4 * 1000 = 1,250, 1250 / 1300 = 96.15%
    assert run(train, "--json", "-") == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert (summary["automatic"], summary["score_left"]) == (2, 96.15)
    assert run(train) == 0
    assert "port edits 2 of 3 places by itself: what is left scores 96\n" in capsys.readouterr().out
    train.write_text("import flash_attn\n")
    assert run(train) == 0
    assert "none of these places is a plain edit that anychip port makes\n" in capsys.readouterr().out
    train.write_text("import torch\n")
    assert run(train) == 0
    assert "port" not in capsys.readouterr().out


def test_sarif(project, tmp_path):
    assert run(project, "--sarif", tmp_path / "a.sarif", "--quiet") == 0
    log = json.loads((tmp_path / "a.sarif").read_text())
    (sarif,) = log["runs"]
    assert log["version"] == "2.1.0"
    rules = sarif["tool"]["driver"]["rules"]
    for result in sarif["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("none", "note", "warning", "error")
        (location,) = result["locations"]
        region = location["physicalLocation"]["region"]
        assert region["startLine"] >= 1
        assert (region["endLine"], region["endColumn"]) > (region["startLine"], region["startColumn"])
    flow = next(r for r in sarif["results"] if r["level"] == "none")
    assert flow["relatedLocations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "conf.py"


def test_html_is_one_escaped_page(project, tmp_path):
    (project / "<b>.py").write_text('x.to("cuda")\n')
    assert run(project, "--html", tmp_path / "a.html", "--quiet", "--on", "mi300x") == 0
    page = (tmp_path / "a.html").read_text()
    assert "&lt;b&gt;.py:1" in page
    assert "<b>.py" not in page
    assert "http" not in page.partition("<body>")[0]


def test_the_screen_is_one_screen(project, capsys):
    for number in range(60):
        (project / f"f{number}.py").write_text('import apex, torch._six\nx.to("cuda")\n' * 3)
        (project / f"bad{number}.py").write_text("print 'x'\n")
    assert run(project, "--on", "mi300x", "--on", "ascend-910b") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert any("too old" in line and "180 places" in line for line in lines)
    assert any("skipped 57 more" in line for line in lines)


def test_names_stand_whole_where_the_line_has_room_and_one_is_singular(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    (tmp_path / "a.py").write_text("import torch\nfrom torch.utils.cpp_extension import load_inline\n")
    assert run(tmp_path, "--no-cache") == 0
    printed = capsys.readouterr().out
    assert "files with most to do  " in printed
    assert re.search(r"torch\.utils\.cpp_extension\.load_inline +1", printed)
    assert " lines of 1 file\n" in printed
    assert "; 1 place in kernels" in printed


def test_the_column_unknown_is_explained_where_it_counts_something(project, capsys):
    (project / "train.py").write_text(f"{TRAIN}torch.cuda.nvtx.range_push('a')\n")
    assert run(project, "--on", "h100") == 0
    assert "no public list says" not in capsys.readouterr().out
    assert run(project, "--on", "ascend-910b") == 0
    assert "unknown: no public list says" in capsys.readouterr().out


def test_gates(project, tmp_path, capsys):
    assert run(project, "--quiet", "--fail-on", "blocks") == 0
    assert run(project, "--quiet", "--fail-on", "rewrite") == 1
    assert run(project, "--quiet", "--fail-over", "99") == 0
    assert run(project, "--quiet", "--fail-over", "50") == 1
    base = tmp_path / "base.json"
    assert run(project, "--quiet", "--write-baseline", base) == 0
    assert run(project, "--quiet", "--baseline", base, "--fail-on", "automatic") == 0
    (project / "train.py").write_text("# moved by a line\n" + TRAIN)
    assert run(project, "--quiet", "--baseline", base, "--fail-on", "automatic") == 0
    (project / "train.py").write_text(TRAIN + "torch.cuda.synchronize()\n")
    capsys.readouterr()
    assert run(project, "--list", "--baseline", base, "--fail-on", "automatic") == 1
    assert capsys.readouterr().out.startswith("train.py:8:1: automatic [cuda-api] torch.cuda.synchronize")


def test_a_wrong_baseline_is_told(project, tmp_path, capsys):
    (tmp_path / "b.json").write_text("{}")
    assert run(project, "--baseline", tmp_path / "b.json") == 2
    assert run(project, "--baseline", tmp_path / "absent.json") == 2
    assert run(project, "--json", tmp_path / "absent" / "x.json") == 2
    assert "no folder" in capsys.readouterr().err


def test_no_torch_is_imported(project):
    code = (
        f"import sys, anychip\na = anychip.audit({str(project)!r}, on=['mi300x'])\n"
        "from anychip.audit import html, as_json, terminal\nhtml.to_html(a); as_json.to_sarif(a)\n"
        "assert a.findings and 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# ---------------------------------------------------------------- bad input


def skipped(root):
    return {skip.path: skip.reason for skip in audit(root, cache=False).skipped}


def test_files_that_cannot_be_read_are_named(project):
    (project / "py2.py").write_text("print 'hello'\n")
    (project / "template.py").write_text("from {{ package }} import x\n")
    (project / "binary.py").write_bytes(b"\x00\x01\x02")
    (project / "latin.py").write_bytes("x = 'é'\n".encode("latin-1"))
    (project / "coding.py").write_bytes(b"# coding: klingon\nx = 1\n")
    (project / "book.ipynb").write_text("{")
    (project / "deep.py").write_text("x = " + "(" * 5000 + ")" * 5000 + "\n")
    (project / "minus.py").write_text("x = " + "-" * 100_000 + "1\n")
    os.mkfifo(project / "pipe.py")
    (project / "gone.py").symlink_to("nowhere.py")
    found = skipped(project)
    assert found["py2.py"].startswith("Python 2: does not parse: line 1")
    assert found["template.py"].startswith("does not parse: line 1")
    assert found["binary.py"].startswith("binary")
    assert "byte 5 is not utf-8" in found["latin.py"]
    assert "klingon" in found["coding.py"]
    assert found["book.ipynb"].startswith("no notebook")
    assert found["deep.py"].startswith("does not parse")
    assert found["minus.py"].startswith("does not parse")
    assert found["pipe.py"] == "no regular file"
    assert "No such file" in found["gone.py"]
    assert told(audit(project)) == EXPECTED


def test_links_in_circles_end(project):
    (project / "csrc" / "up").symlink_to(project, target_is_directory=True)
    assert skipped(project) == {"csrc/up": "a link to a folder that was read already"}
    assert told(audit(project)) == EXPECTED


def test_submodules_that_were_not_fetched_are_told(project):
    (project / ".gitmodules").write_text('[submodule "cutlass"]\n\tpath = third_party/cutlass\n')
    (project / "third_party" / "cutlass").mkdir(parents=True)
    assert skipped(project) == {"third_party/cutlass": "a submodule that was not fetched"}


def test_encodings_that_are_declared_are_read(project):
    (project / "latin.py").write_bytes("# coding: latin-1\nx = 'é'; y.to('cuda')\n".encode("latin-1"))
    (project / "mark.py").write_bytes(b"\xef\xbb\xbfx.to('cuda')\n")
    assert [f.line for f in audit(project).findings if f.path == "latin.py"] == [2]
    assert [f.place.column for f in audit(project).findings if f.path == "mark.py"] == [6]


def test_notebooks(project):
    cells = [
        {"cell_type": "markdown", "source": ["x.to('cuda')\n"]},
        {
            "cell_type": "code",
            "source": ["%matplotlib inline\n", "!nvidia-smi\n", "import torch\n", "torch.cuda.synchronize()"],
        },
        {"cell_type": "code", "source": "%%bash\nCUDA_VISIBLE_DEVICES=0 python a.py"},
    ]
    text = json.dumps({"cells": cells, "nbformat": 4}, indent=1)
    (project / "book.ipynb").write_text(text)
    found = [(f.rule, f.line) for f in audit(project).findings if f.path == "book.ipynb"]
    lines = text.split("\n")
    (smi,) = (n for n, line in enumerate(lines, 1) if "nvidia-smi" in line)
    (sync,) = (n for n, line in enumerate(lines, 1) if "synchronize" in line)
    (env,) = (n for n, line in enumerate(lines, 1) if "VISIBLE" in line)
    assert sorted(found) == [("cuda-api", sync), ("environment", env), ("nvidia-tool", smi)]


def test_a_file_of_100000_lines(project):
    (project / "long.py").write_text('x.to("cuda")\n' + "y = [1, 2, 3]\n" * 100_000)
    answer = audit(project, cache=False)
    assert answer.num_lines == 100_012
    assert [f.line for f in answer.findings if f.path == "long.py"] == [1]


def test_what_a_project_says_of_itself_is_no_requirement(tmp_path):
    """A server was told that it requires the one that its description compares it with."""
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "flash-attn"\ndescription = "a lightweight vLLM implementation"\nkeywords = ["vllm", "xformers"]\n'
        'dependencies = [\n    "flash-attn",\n]\n'
    )
    assert [(one.symbol, one.place.line) for one in audit(tmp_path).findings] == [("flash-attn", 6)]
