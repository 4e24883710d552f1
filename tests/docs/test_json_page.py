"""docs/json.md lists what the JSON has: every key of real answers, each of a type that it says, and no other."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from anychip import api, cli
from anychip.errors import Deadlock, ProgramFailed, Stuck
from anychip.report import no_answer, to_json

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
TYPES = {
    "string": [str], "integer": [int], "number": [int, float], "boolean": [bool], "list": [list], "object": [dict], "null": [type(None)],
}  # fmt: skip
# Objects whose keys are names.
NAMED = (
    "targets[].memory_by_module", "targets[].axes", "targets[].rests_on", "targets[].ranks[].place", "chips[].figures", "findings[].offers",
    "summary.by_severity", "summary.by_rule", "summary.lines_by_kind", "targets[].verdicts",
)  # fmt: skip


def documented(verb):
    """Key -> its types, of the table behind a verb's mark."""
    table = PAGE.partition(f"<!-- keys of {verb} -->")[2].partition("\n## ")[0]
    found = {}
    for keys, types in re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", table, re.MULTILINE):
        before, _, rest = keys.partition("{")
        names, _, after = rest.partition("}")
        for name in names.split(",") if rest else [""]:
            assert before + name + after not in found, keys
            found[before + name + after] = types.strip().split(" or ")
    return found


def paths(value, at=""):
    """(path, value) of everything inside, as the page writes paths."""
    if at:
        yield at, value
    if isinstance(value, dict):
        for key, inside in value.items():
            name = "*" if at in NAMED else key
            yield from paths(inside, f"{at}.{name}" if at else name)
    for inside in value if isinstance(value, list) else ():
        if isinstance(inside, dict):
            yield from paths(inside, f"{at}[]")


def check(verb, answers, unseen=()):
    """unseen: beginnings of keys that these answers happen not to have."""
    known, seen = documented(verb), set()
    for at, value in (found for answer in answers for found in paths(json.loads(json.dumps(answer)))):
        at = re.sub(r"^failure\.", "targets[].failure.", at)
        if at in known:
            wanted = {one for name in known[at] for one in TYPES[name]}
            assert type(value) in wanted, f"{at} is {value!r}, said to be {known[at]}"
            seen.add(at)
        else:
            is_told = isinstance(value, dict) and any(key.startswith(f"{at}.") for key in known)
            assert is_told or at.endswith("[]"), f"{at} is not in docs/json.md"
    assert [key for key in known if key not in seen and not key.startswith(tuple(unseen))] == []


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    train = [str(ROOT / "tests" / "programs" / "train_small.py"), "--raise-at", "2"]
    programs = ROOT / "tests" / "distributed" / "programs"
    one = api.forecast(train, on=["h100", "tpu-v5p", "nvidia-h20"], show_output=False)
    meshed = api.forecast([str(programs / "sharded.py"), "2"], on="h100:16", show_output=False)
    clustered = api.forecast(str(programs / "ddp.py"), on="h100:16@llama3", show_output=False)
    with pytest.raises(ProgramFailed) as failed:
        api.forecast([*train[:2], "0"], on="h100", show_output=False)
    hang = Deadlock("the job would hang", [Stuck(0, 4, "recv from rank 1", "train.py", 3, (1,))])
    return [
        *map(to_json, (one, meshed, clustered)),
        no_answer("train_small.py", ["h100"], failed.value),
        no_answer("train_small.py", ["h100:8"], hang),
    ]


def test_every_key_of_a_forecast_is_on_the_page_and_none_that_is_not_there(answers):
    check("forecast", answers)


def test_an_answer_and_none_have_the_same_keys(answers):
    assert {frozenset(answer) for answer in answers} == {frozenset(answers[0])}


def printed(capsys, *argv):
    assert cli.main([*map(str, argv), "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def test_keys_of_chips(capsys):
    check("chips", [printed(capsys, "chips")])


@pytest.fixture
def project(tmp_path):
    (tmp_path / "train.py").write_text(
        "import torch\nimport flash_attn\nDEVICE = 'cuda'\nx = torch.ones(2).to(DEVICE).cuda()\ny = torch.cuda.graph_pool_handle()\n"
    )
    (tmp_path / "old.py").write_text("print 'torch.cuda'\n")
    (tmp_path / "kernel.cu").write_text("__global__ void f() {}\nint main() { cudaDeviceSynchronize(); }\n")
    return tmp_path


def test_keys_of_an_audit(project, capsys):
    check("audit", [printed(capsys, "audit", project, "--on", "ascend-910b", "--no-cache")])


def test_keys_of_a_port(project, capsys):
    check("port", [printed(capsys, "port", project)], unseen=["proof."])


def test_the_readme_leads_there():
    assert "(docs/json.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(answers, tmp_path):
    (tmp_path / "answer.json").write_text(json.dumps(answers[0]))
    code = re.search(r"python -c '(.+)'", PAGE)[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [target["step_time_s"] for target in answers[0]["targets"]]
