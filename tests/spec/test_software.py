"""API maps and operator lists: what they answer, and that the importers read the forms that makers publish."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from anychip.spec import catalogue
from anychip.spec.checking import check
from anychip.spec.software import STATUSES, coverage, load_apis, load_ops

TOOLS = Path(__file__).resolve().parents[2] / "tools"
Tool = Callable[[str], ModuleType]
PLATFORMS = sorted(file.stem for file in catalogue.files("platforms"))


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Tool:
    monkeypatch.syspath_prepend(str(TOOLS))

    def load(name: str) -> ModuleType:
        sys.modules.pop(name, None)
        return importlib.import_module(name)

    return load


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_torch_cuda_symbol_has_a_status_on_every_platform(platform: str) -> None:
    import torch

    apis = load_apis(platform)
    if torch.__version__.startswith("2.13."):
        assert sorted(apis) == sorted(torch.cuda.__all__)
    assert {api.status for api in apis.values()} <= set(STATUSES)
    # A known status says where it is known from, and a name that is there says how it is called.
    assert all(api.source for api in apis.values() if api.status != "unknown")
    assert all(api.target for api in apis.values() if api.status in ("match", "modified"))


def test_the_map_leads_from_cuda_names_to_the_plug_ins_names() -> None:
    apis = load_apis("intel-xpu")
    assert (apis["synchronize"].status, apis["synchronize"].target) == ("match", "torch.xpu.synchronize")
    assert apis["jiterator"].status == "missing"
    assert load_apis("groq-compiler")["synchronize"].status == "unknown"
    assert load_apis("huawei-cann")["CUDAGraph"].target == "torch.npu.NPUGraph"
    assert load_apis("cambricon-neuware")["synchronize"].target == "torch.mlu.synchronize"


def test_verdicts_of_operators() -> None:
    cpu = load_ops("cpu")
    assert cpu.verdict("aten.mm.default") == cpu.verdict("aten::mm") == cpu.verdict("mm") == "native"
    assert cpu.verdict("aten.chunk.default") == "composite"
    assert load_ops("apple-mps").verdict("aten._fused_adagrad_.default") == "missing"
    assert load_ops("intel-xpu").verdict("gelu") == "unknown"
    assert load_ops("nobody").verdict("mm") == "unknown"


def test_coverage_against_cuda() -> None:
    """The shares that porting studies of torch 2.11 print are 0.81 and 0.67."""
    studies = {"cpu": 0.81, "apple-mps": 0.67}
    found = {platform: coverage(platform) for platform in studies}
    assert all(share is not None and abs(share - studies[name]) < 0.03 for name, share in found.items()), found
    assert coverage("nvidia-cuda") == 1.0
    assert coverage("intel-xpu") is None
    assert coverage("nobody") is None


def test_every_list_has_rows_of_the_known_kinds() -> None:
    assert [str(problem) for problem in check([catalogue.STANDARD / "apis", catalogue.STANDARD / "ops"])] == []


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("apis/x.csv", "symbol,status\nsync,match\n", "the columns are"),
        ("apis/x.csv", "symbol,status,target,since,until,source,note\ns,maybe,,,,,\n", "'maybe' is none of"),
        ("apis/x.csv", "symbol,status,target,since,until,source,note\ns,match,,,,,\n", "without a source"),
        ("ops/x.csv", "op,dtype,verdict,source,licence\nmm,,yes,a,b\n", "'yes' is none of"),
        ("ops/x.csv", "op,dtype,verdict,source,licence\nmm,,native,a,\n", "without a licence"),
        ("ops/x.csv", "op,dtype,verdict,source,licence\nmm,,native\n", "3 columns"),
        ("ops/x.csv", "op,dtype,verdict,source,licence\nmm,,native,a,b\nmm,,missing,a,b\n", "stands twice"),
        ("ops/x.csv", b"op,dtype,verdict,source,licence\n\xff,,native,a,b\n", "not UTF-8"),
    ],
)
def test_a_wrong_table_is_told_with_its_line(tmp_path: Path, name: str, text: str | bytes, told: str) -> None:
    file = tmp_path / name
    file.parent.mkdir()
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    problems = check([tmp_path])
    assert len(problems) == 1
    assert told in problems[0].message
    assert problems[0].line is not None


def test_the_dispatch_table_of_torch_is_read(tool: Tool) -> None:
    text = (
        "- func: a(Tensor x) -> Tensor\n  structured_delegate: a.out\n"
        "- func: a.out(Tensor x, *, Tensor(a!) out) -> Tensor(a!)\n  dispatch:\n    CPU, CUDA: a_out\n    MPS: b\n"
        "- func: c(Tensor x) -> Tensor\n  variants: method\n"
        "- func: d(Tensor x) -> Tensor\n  dispatch:\n    CPU: d_cpu\n"
    )
    verdicts = tool("import_ops_torch").verdicts
    assert dict(verdicts(text, "CUDA")) == {"a": "native", "a.out": "native", "c": "composite"}
    assert dict(verdicts(text, "CPU")) == {"a": "native", "a.out": "native", "c": "composite", "d": "native"}


def test_the_makers_lists_are_read(tool: Tool) -> None:
    yaml = "official:\n  - func: mm(Tensor a) -> Tensor\n    acl_op: x\ncustom:\n  - func: npu_x(Tensor a) -> Tensor\n"
    assert list(tool("import_common").func_names(yaml, "official")) == ["mm"]
    tests = (
        "mul:\n  test_compare_cpu:\n  - float32\n  test_neg_view:\n  - float64\nadd:\n  test_compare_cpu:\n  - int8\n"
    )
    assert list(tool("import_ops_ascend").failing(tests)) == [("mul", "float32"), ("add", "int8")]
    xla = "full_codegen:\n  - acos\nir_gen:\n  - x\nsupported:\n  - all.dim\nautograd:\n  - y\n"
    assert list(tool("import_ops_xla").lowered(xla)) == ["acos", "all.dim"]
    assert list(tool("import_ops_flagos").routed("# c\nabs = gcu\nmul = flaggems\n", "gcu")) == ["abs"]
    assert tool("import_ops_torch").fallbacks('fallback_list = {\n "a.out",\n "b",\n};\n"c"') == ["a.out", "b"]


def test_names_of_a_module_are_found_without_importing_it(tool: Tool) -> None:
    files = {
        "p/__init__.py": "from .a import *\nfrom .b import x as y, z\nimport os\nif 1:\n    def f(): pass\nclass C: pass\nV = 1\n",
        "p/a.py": "__all__ = ['g']\ndef g(): pass\ndef hidden(): pass\n",
    }
    names = tool("import_apis").module_names(files.get, "p/__init__.py")
    assert names == {"g", "y", "z", "os", "f", "C", "V", "a", "b"}


def test_the_makers_page_of_apis_is_read(tool: Tool) -> None:
    yes, no, limits = "\N{HEAVY CHECK MARK}", "\N{HEAVY BALLOT X}", "\u9650\u5236\u4e0e\u8bf4\u660e"
    page = "".join(
        f"### torch.cuda.{name}\n| <term>A2</term> | {a2} |\n| <term>950DT</term> | {dt} |\n{more}\n"
        for name, a2, dt, more in [("a", yes, yes, ""), ("b", yes, no, ""), ("c", no, no, ""), ("d", yes, yes, limits)]
    )
    said = tool("import_apis").ascend_page(page)
    assert said == {
        "a": ("match", ""),
        "b": ("modified", "missing on 950DT"),
        "c": ("missing", ""),
        "d": ("modified", ""),
    }
