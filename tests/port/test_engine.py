"""What holds for every text: nothing outside code changes, twice is once, and every result parses."""

import ast
import io
import subprocess
import sys
import tokenize

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from anychip.port.edits import Edit, apply
from anychip.port.engine import port_source
from anychip.port.rules import kernel, library, rules
from anychip.port.rules import settings as rule_settings
from anychip.port.survey import Project
from anychip.port.target import make_target
from anychip.source.text import Text

TARGETS = [make_target(None), make_target("ascend-910b"), make_target("intel-max-1550")]
LINES = sorted({line for rule in rules() for case in rule.INVALID for line in case[0].splitlines() if line and not line.startswith((" ", "import", "from"))
                and not line.endswith(":") and not line.startswith("@")})  # fmt: skip
# Words of comments and strings that a textual replacement would spoil.
NOISE = [
    "# model.cuda() on cuda:0 with nccl\n", '"""Runs on cuda, see torch.cuda.synchronize()."""\n', 'print("x.cuda()")\n',
    "cuda_home = 1\n", 'path = "/opt/cuda/nccl"\n', "\n", "def to_cuda(x):\n    return x\n", "if True:\n    pass  # cuda\n",
    'name = "cuda_kernels"\n', "is_cuda_graph = False\n", "x = {'cuda_version': 11}\n", "# ÄÖ cuda ≠ npu\n", 'y = "é" * 2\n',
]  # fmt: skip
programs = st.lists(
    st.one_of(st.sampled_from(LINES).map(lambda line: line + "\n"), st.sampled_from(NOISE)), max_size=12
).map(lambda lines: "import torch\n\n" + "".join(lines))
common = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def words(text, kinds):
    """(kind, text) of all tokens of some kinds, without those that edits may change."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [token.string for token in tokens if token.type in kinds]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@common
@given(text=programs)
@example(text="import torch\n\nx.cuda(); y = 'cuda'  # cuda\n")
def test_twice_is_once_and_parses(target, text):
    once = port_source(text, target)
    assert not once.problem
    ast.parse(once.text)
    again = port_source(once.text, target)
    assert again.text == once.text
    assert not [change for change in again.changes if change.rule != "imports"]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@common
@given(text=programs)
def test_comments_and_other_strings_stay(target, text):
    made = port_source(text, target).text
    assert words(made, {tokenize.COMMENT}) == words(text, {tokenize.COMMENT})
    for noise in filter(str.strip, NOISE):
        assert made.count(noise) == text.count(noise)


@common
@given(text=programs)
def test_bytes_outside_edits_are_untouched(text):
    made = port_source(text, TARGETS[0])
    kept, at, data = [], 0, made.source.data
    for edit in sorted(made.edits, key=lambda e: (e.start, e.end)):
        kept.append(data[at : edit.start])
        at = edit.end
    rest = made.text.encode()
    for piece in [*kept, data[at:]]:
        assert piece in rest
        rest = rest[rest.index(piece) + len(piece) :]


@common
@example("locals")
@given(st.text(max_size=200))
def test_any_text_is_ported_or_named(text):
    made = port_source(text + "\nx.cuda()\n", TARGETS[0])
    assert made.problem or made.text.endswith(("x.to(DEVICE)\n", "x.to(_DEVICE)\n"))


def test_line_ends_are_kept():
    made = port_source("import torch\r\n\r\nx = y.cuda()\r\n", TARGETS[0])
    assert (
        made.text
        == "import torch\r\n\r\n"
        + 'DEVICE = torch.accelerator.current_accelerator() or torch.device("cpu")\r\n\r\nx = y.to(DEVICE)\r\n'
    )


def test_names_that_are_taken_are_not_taken_again():
    made = port_source("import torch\n\nDEVICE = 3\nx.cuda()\n", TARGETS[0])
    assert "_DEVICE = torch.accelerator" in made.text and "x.to(_DEVICE)" in made.text  # noqa: PT018


def test_names_stay_private_where_some_file_imports_all_names():
    assert "_DEVICE = " in port_source("import torch\nx.cuda()\n", TARGETS[0], Project(stars=True)).text


def test_where_torch_may_be_missing_nothing_is_written_at_the_top():
    text = "try:\n    import torch\nexcept ImportError:\n    torch = None\n\n\ndef f(x):\n    return x.cuda()\n"
    assert (
        "x.to((torch.accelerator.current_accelerator() or torch.device('cpu')))" in port_source(text, TARGETS[0]).text
    )


def test_a_class_with_its_own_cuda_is_left():
    made = port_source("import torch\nx.cuda()\n", TARGETS[0], Project({"Batch": "Batch (a.py:3)"}))
    assert made.text == "import torch\nx.cuda()\n"
    assert "Batch (a.py:3)" in made.left[0].reason


def test_a_comment_keeps_a_rule_away():
    text = "import torch\nx.cuda()  # anychip: ignore[cuda-method]\n"
    assert port_source(text, TARGETS[0]).text == text


def test_f_strings_are_edited_only_where_their_place_is_certain():
    made = port_source("import torch\nprint(f'{torch.cuda.device_count()} {x.cuda()}')\n", TARGETS[0])
    assert "{torch.accelerator.device_count()} {x.cuda()}" in made.text
    assert [left.kind for left in made.left] == ["unsure"]


@pytest.mark.parametrize(
    "text", ["print 'cuda'\n", "def f(:\n  cuda\n", "def test_{{cookie}}():\n    x.cuda()\n", "x = 'cuda\n"]
)
def test_what_does_not_parse_is_named_and_left(text):
    made = port_source(text, TARGETS[0])
    assert made.text == text
    assert made.problem.startswith("does not parse: line ")


def test_a_platform_without_a_device_edits_nothing_and_tells_all():
    made = port_source("import torch\nx.cuda()\n", make_target("groq-lpu-v1"))
    assert made.text == "import torch\nx.cuda()\n"
    assert "restructured" in made.left[0].reason


def test_a_chip_whose_torch_calls_itself_cuda_needs_no_edit():
    text = 'import torch\nx.to("cuda")\n'
    assert port_source(text, make_target("mi300x")).text == text


def test_what_a_chips_module_lacks_is_left():
    # xpu has no memory_summary in its list (standard/apis/intel-xpu.csv: missing)
    made = port_source("import torch\ntorch.cuda.memory_summary()\n", make_target("intel-max-1550"))
    assert "torch.cuda.memory_summary" in made.text
    assert "has no memory_summary" in made.left[0].reason


def test_overlapping_edits_are_a_defect():
    source = Text("abcdef")
    with pytest.raises(AssertionError, match="overlapping"):
        apply(source, [Edit(0, 3, "x", "r", ""), Edit(2, 4, "y", "r", "")])


def test_offsets_count_bytes_and_all_line_ends():
    source = Text("é\r\nab\rc\n")
    assert source.starts == [0, 4, 7, 9]  # é is two bytes: 2 + CRLF, then 2 + CR, then 1 + LF
    assert source.line_of(8) == 3
    assert source.line(2) == "ab"


@pytest.mark.parametrize("line", ["x.cuda()", 'x.to("cuda")', "torch.cuda.synchronize()", "x.is_cuda"])
def test_functions_that_torchscript_compiles_are_left(line):
    text = f"import torch\n\n\n@torch.jit.script\ndef f(x):\n    {line}\n    return x\n"
    made = port_source(text, TARGETS[0])
    assert made.text == text
    assert "TorchScript" in made.left[0].reason


@pytest.mark.parametrize(
    "text",
    [
        'import os\nx = os.environ.get("A")\ndevice = "cuda"\nimport torch\n',
        'import torch\nbackend = "nccl"\nimport os\n',
        'import os\nif os.sep == "/":\n    backend = "nccl"\nimport torch as th\n',
        'import torch\nimport os; device = "cuda"\nimport sys\n',
        '@decorate(device="cuda")\ndef f():\n    pass\n\n\nimport torch\n',
    ],
)
def test_names_stand_above_their_first_use(text):
    """What is run in order finds each name bound before it is read."""
    made = port_source(text, TARGETS[0]).text
    bound = set()
    for node in ast.parse(made).body:
        used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        assert used & {"torch", "th", "DEVICE", "ACCELERATOR"} <= bound, made
        bound |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        if isinstance(node, ast.Import):
            bound |= {alias.asname or alias.name for alias in node.names}
    assert '"cuda"' not in made.replace('"type", "cuda"', "")


USE = "o = apex.optimizers.FusedAdam(p, lr=1e-3)\n"
NAMED = "o = FusedAdam(p, lr=1e-3)\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import torch\nimport apex\n" + USE, "import torch\n"),
        ("import torch\nimport apex  # noqa: F401\n" + USE, "import torch\n"),
        ("import torch\nimport apex  # ours is built from source\n" + USE, "import torch\n# ours is built from source\n"),
        ("import torch, apex\n" + USE, "import torch\n"),
        ("import apex, torch\n" + USE, "import torch\n"),
        ("import torch; import apex\n" + USE, "import torch\n"),
        ("import torch\nif FAST:\n    import apex\n" + USE, "import torch\nif FAST:\n    pass\n"),
        (
            "import torch\nfrom apex.optimizers import (\n    FusedAdam,  # a\n    FusedLAMB,  # b\n)\nq = FusedLAMB(p)\n" + NAMED,
            "import torch\nfrom apex.optimizers import (\n    FusedLAMB,  # b\n)\nq = FusedLAMB(p)\n",
        ),
        (
            "import torch\nfrom apex.optimizers import FusedLAMB, \\\n    FusedAdam\nq = FusedLAMB(p)\n" + NAMED,
            "import torch\nfrom apex.optimizers import FusedLAMB\nq = FusedLAMB(p)\n",
        ),
        # What something still uses stays, and what a try looks for.
        ("import torch\nimport apex\napex.amp.state()\n" + USE, "import torch\nimport apex\napex.amp.state()\n"),
        ("import os\nimport torch\nimport apex\n" + USE, "import os\nimport torch\n"),
    ],
)  # fmt: skip
def test_an_import_that_the_edits_made_useless_goes_however_it_stands(before, after):
    """With a comment behind it, beside another on its line or alone in its block it stayed, and a chip without apex failed at it."""
    found = port_source(before, TARGETS[0])
    assert found.text == after + "o = torch.optim.AdamW(p, lr=1e-3, weight_decay=0.0)\n"
    ast.parse(found.text)


IMPORTS = (
    "import torch\nfrom flash_attn import flash_attn_func\n",
    "import torch as th\nfrom flash_attn import flash_attn_func\n",
    "from torch import nn\nfrom flash_attn import flash_attn_func\nimport torch as th\n",
    "import torch as th\nimport torch.nn.attention\nfrom flash_attn import flash_attn_func\n",
)
EACH_BY_ITSELF = """
import os, sys, torch
for text in sys.argv[1:]:
    if not os.fork():
        exec(text, {})
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""


def test_a_causal_mask_runs_in_plain_torch():
    """`import torch` alone does not load the module that the mask is in."""
    made = []
    for imports in IMPORTS:
        torch = "th" if "th\n" in imports else "torch"
        text = f"{imports}\nq = {torch}.ones(1, 4, 2, 8)\nprint(flash_attn_func(q, q, q, causal=True).shape)\n"
        made.append(port_source(text, TARGETS[0]).text)
        assert "\nimport torch.nn.attention.bias\n" in port_source(text, TARGETS[1]).text
    assert not any("flash_attn" in text for text in made)
    done = subprocess.run([sys.executable, "-c", EACH_BY_ITSELF, *made], capture_output=True, text=True)
    assert done.stdout == "torch.Size([1, 4, 2, 8])\n" * len(IMPORTS), done.stderr


def test_a_module_of_torch_that_the_file_loads_is_not_loaded_again():
    text = "import torch\nfrom torch.nn.attention import bias\nfrom flash_attn import flash_attn_func\n\ny = flash_attn_func(q, k, v, causal=True)\n"
    assert port_source(text, TARGETS[0]).text.startswith("import torch\nfrom torch.nn.attention import bias\n\ny = ")


def test_where_no_line_can_load_the_mask_the_call_is_left():
    text = "from flash_attn import flash_attn_func\n\n\ndef f(q):\n    import torch\n\n    return flash_attn_func(q, q, q, causal=True)\n"
    made = port_source(text, TARGETS[0])
    assert made.text == text
    assert "torch.nn.attention.bias" in next(left.reason for left in made.left if left.rule == "attention")


def test_an_import_that_is_taken_out_is_not_left_too():
    used = "import torch\nfrom flash_attn import flash_attn_func{}\n\ny = flash_attn_func(q, k, v)\n"
    assert port_source(used.format(""), TARGETS[0]).left == ()
    kept = port_source(used.format(", flash_attn_varlen_func") + "flash_attn_varlen_func(q)\n", TARGETS[0])
    assert [left.symbol for left in kept.left] == ["import flash_attn", "flash_attn.flash_attn_varlen_func"]


@pytest.mark.parametrize(
    "line", ['if torch.version.cuda >= "12.0": pass', "print(torch.backends.cudnn.version() > 8000)"]
)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_version_of_cuda_is_for_a_person(line, target):
    made = port_source(f"import torch\n{line}\n", target)
    assert [(left.kind, "None on other chips" in left.reason) for left in made.left] == [("thought", True)]


def test_an_unused_import_of_a_kernels_builder_is_listed():
    made = port_source("from torch.utils.cpp_extension import load_inline\nimport torch\n", TARGETS[0])
    assert [(left.kind, left.symbol) for left in made.left] == [
        ("kernel", "import torch.utils.cpp_extension.load_inline")
    ]
    used = port_source("from torch.utils.cpp_extension import load_inline\nload_inline()\n", TARGETS[0])
    assert [left.symbol for left in used.left] == ["torch.utils.cpp_extension.load_inline"]


@pytest.mark.parametrize(
    "name",
    [
        *kernel._SYMBOLS,
        *kernel._LIBRARIES,
        *library.PACKAGES,
        *rule_settings._NONE_ELSEWHERE,
        "torch.backends.cudnn.x",
        "torch.backends.cuda.x",
    ],
)
def test_no_file_that_a_rule_has_something_to_say_of_is_passed_over(name):
    module, _, symbol = name.rpartition(".")
    assert port_source(f"from {module} import {symbol} as x\nx\n" if module else f"import {name}\n", TARGETS[0]).left


@pytest.mark.parametrize(("chip", "imported"), [
    ("tpu-v5p", ["torch_xla", "torch_xla.distributed.xla_backend"]),
    ("gaudi2", ["habana_frameworks.torch", "habana_frameworks.torch.distributed.hccl"]), ("ascend-910b", ["torch_npu"]),
])  # fmt: skip
def test_what_makes_a_backend_known_is_imported_before_its_group_is_made(chip, imported):
    """A group was made of a backend that nobody had registered."""
    text = 'import torch\nimport torch.distributed as dist\n\ndist.init_process_group("nccl")\n'
    made = port_source(text, make_target(chip)).text
    assert [line.removeprefix("import ") for line in made.splitlines() if line.startswith("import ")][2:] == imported
    assert port_source(made, make_target(chip)).text == made
    alone = port_source('import torch\n\nx = torch.zeros(2, device="cuda")\n', make_target(chip)).text
    assert "distributed" not in alone
