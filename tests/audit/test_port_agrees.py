"""One rule set for the user: what a codemod edits, the audit finds, under the same name; what it leaves is what else the audit
finds, and both say the same numbers."""

import json
from collections import Counter

import pytest

from anychip.audit.engine import audit
from anychip.audit.one import audit_text
from anychip.audit.rule import all_rules
from anychip.audit.terminal import mended_text
from anychip.port.project import port
from anychip.port.rules import name_of, rules

CASES = [(name_of(rule), case[0]) for rule in rules() for case in rule.INVALID]


@pytest.mark.parametrize(("name", "code"), CASES, ids=lambda value: value.split("\n")[0][:40])
def test_what_port_edits_audit_finds(name, code):
    assert name in {finding.rule for finding in audit_text(code, "python", "case.py").findings}


NAMES = {"shell": "a.sh", "config": "a.yaml", "dockerfile": "Dockerfile", "requirements": "requirements.txt"}
FOUND = [
    (rule.name, case[0]) for rule in all_rules() for case in rule.invalid if not case[0].startswith(("<cuda>", "<cxx>"))
]


def both(folder):
    """What the audit says that port leaves, and what port leaves, by place."""
    found, ported = audit(folder, cache=False), port(folder)
    left = [f for f in found.findings if f.severity not in ("flow", "age") and not f.automatic]
    assert found.edits == sum(edit.rule != "header" for edit in ported.edits)
    return Counter((f.path, f.line, f.symbol) for f in left), Counter(
        (one.file, one.line, one.symbol) for one in ported.left
    )


@pytest.mark.parametrize(("name", "code"), FOUND, ids=lambda value: value.split("\n")[0][:40])
def test_what_the_audit_finds_port_edits_or_leaves(name, code, tmp_path):
    kind, _, text = code.partition(">\n") if code.startswith("<") else ("", "", code)
    (tmp_path / NAMES.get(kind.removeprefix("<"), "a.py")).write_text(text)
    by_audit, by_port = both(tmp_path)
    # A use of a package that has no equal is told beside its import, by port alone.
    assert not by_audit - by_port


PROGRAM = """\
import os
import subprocess
import torch

os.environ["CUDA_VISIBLE_DEVICES"] = "0"
print(subprocess.run(["nvidia-smi", "-L"]), os.getenv("NCCL_DEBUG"))
x = torch.cuda.LongTensor(3)
y = torch.cuda.FloatTensor(x)
torch.set_default_tensor_type("torch.cuda.FloatTensor")
torch.cuda.synchronize()
"""


def test_a_program_that_was_told_two_ways(tmp_path):
    """nvidia-smi was no place of port's, CUDA_VISIBLE_DEVICES a plain edit of the audit's that port left, each legacy tensor type two
    places."""
    (tmp_path / "a.py").write_text(PROGRAM)
    (tmp_path / "run.sh").write_text("nvidia-smi\nCUDA_VISIBLE_DEVICES=0 python a.py\n")
    by_audit, by_port = both(tmp_path)
    assert by_audit == by_port
    assert sorted(by_port) == [
        ("a.py", 5, "CUDA_VISIBLE_DEVICES"), ("a.py", 6, "NCCL_DEBUG"), ("a.py", 6, "nvidia-smi"),
        ("a.py", 8, "torch.cuda.FloatTensor"), ("run.sh", 1, "nvidia-smi"), ("run.sh", 2, "CUDA_VISIBLE_DEVICES"),
    ]  # fmt: skip
    kinds = {one.symbol: one.kind for one in port(tmp_path).left}
    assert (kinds["CUDA_VISIBLE_DEVICES"], kinds["NCCL_DEBUG"], kinds["nvidia-smi"]) == (
        "thought",
        "harmless",
        "thought",
    )
    # Edited: LongTensor, the default type (its name and its string, in one edit), synchronize.
    assert "edits 4 of 10 places by itself, in 3 edits: " in mended_text(audit(tmp_path, cache=False))


def test_what_another_file_defines_is_known_to_both(tmp_path):
    """The audit asked port of each file by itself: a batch with a cuda() of its own was an edit for one and left by the other. And
    so it is where the files that did not change are remembered."""
    (tmp_path / "train.py").write_text("import torch\nfrom batch import Batch\n\nx = Batch()\nx.cuda()\n")
    folder = str(tmp_path)
    alone = audit(folder, cache=True)
    assert [f.automatic for f in alone.findings] == [True]
    (tmp_path / "batch.py").write_text("class Batch:\n    def cuda(self):\n        return self\n")
    assert both(tmp_path)[0] == both(tmp_path)[1] != Counter()
    together = audit(folder, cache=True)
    assert [(f.path, f.automatic) for f in together.findings if f.severity != "flow"][-1] == ("train.py", False)


@pytest.mark.parametrize("cell", ["!nvidia-smi", "%%bash\nnvidia-smi -L", "gpus = !nvidia-smi -L"])
def test_shell_commands_of_notebooks_are_left(cell, tmp_path):
    """What the audit tells of them port did not name."""
    cells = ["# \u00fc\nimport torch", cell, "x = torch.zeros(3).cuda()"]
    book = {"cells": [{"cell_type": "code", "metadata": {}, "outputs": [], "source": one.splitlines(keepends=True)} for one in cells],
            "metadata": {}, "nbformat": 4, "nbformat_minor": 5}  # fmt: skip
    (tmp_path / "a.ipynb").write_text(json.dumps(book, indent=1))
    by_audit, by_port = (Counter(symbol for _, _, symbol in left.elements()) for left in both(tmp_path))
    assert by_audit == by_port
    (one,) = [left for left in port(tmp_path).left if "nvidia-smi" in left.symbol]
    assert one.line == 3 + cell.count("\n")


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"worksheets": [], "nbformat": 3}', '{"cells": [3]}', "version https://git-lfs.github.com/spec/v1"],
)
def test_what_is_no_notebook_of_today_is_skipped(text, tmp_path):
    """One in a tree ended the port of all of it: its shell commands were looked for in cells that it does not have."""
    (tmp_path / "old.ipynb").write_text(text)
    (tmp_path / "a.py").write_text("import torch\nx = torch.zeros(3).cuda()\n")
    done = port(tmp_path)
    assert done.skipped == {"old.ipynb": "no notebook of version 4"}
    assert [edit.rule for edit in done.edits if edit.rule != "header"] == ["cuda-method"]


def test_names_of_an_edited_import_and_their_calls_are_not_left(tmp_path):
    """`from torch.cuda.amp import autocast` was edited, as was `autocast()`, and both were listed as not certain enough to edit."""
    (tmp_path / "a.py").write_text(
        "from torch.cuda.amp import autocast, GradScaler\nscaler = GradScaler()\nwith autocast(enabled=True):\n    pass\nlater = autocast\n"
    )
    by_audit, by_port = both(tmp_path)
    assert by_audit == by_port == Counter({("a.py", 5, "torch.cuda.amp.autocast"): 1})
