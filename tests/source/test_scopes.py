"""What a name means: scopes, imports, aliases; by what Python itself would do."""

import ast

import pytest

from anychip.source.module import module_name, parse
from anychip.source.text import Unreadable


def meanings(code, name="pkg.mod", path="pkg/mod.py"):
    module = parse(code, path, name)
    return {ast.unparse(node): meant for node, meant in module.uses}


@pytest.mark.parametrize(
    ("code", "use", "meaning"),
    [
        ("import torch\ntorch.cuda.f", "torch.cuda.f", "torch.cuda.f"),
        ("import torch as t\nt.cuda.f", "t.cuda.f", "torch.cuda.f"),
        ("import torch.cuda\ntorch.cuda.f", "torch.cuda.f", "torch.cuda.f"),
        ("import torch.cuda.amp as amp\namp.autocast", "amp.autocast", "torch.cuda.amp.autocast"),
        ("from torch import cuda as c\nc.f", "c.f", "torch.cuda.f"),
        ("from torch import cuda\ngpu = cuda\ngpu.f", "gpu.f", "torch.cuda.f"),
        ("import torch\nc = torch.cuda\ndef g():\n    c.f", "c.f", "torch.cuda.f"),
        ("from . import util\nutil.f", "util.f", "pkg.util.f"),
        ("from ..a import b\nb.f", "b.f", "a.b.f"),
        ("from .x import *\ntorch.cuda.f", "torch.cuda.f", "torch.cuda.f"),
        ("try:\n    from torch.amp import autocast\nexcept ImportError:\n    from torch.cuda.amp import autocast\nautocast", "autocast", "torch.amp.autocast"),
        ("torch = pytest.importorskip('torch')\ntorch.cuda.f", "torch.cuda.f", "torch.cuda.f"),
        ("def g():\n    torch, F = imports()\n    torch.cuda.f", "torch.cuda.f", "torch.cuda.f"),
        ("def helper(): ...\nhelper", "helper", "pkg.mod.helper"),
        ("def f():\n    import torch\n    return [torch.cuda.g for x in y]", "torch.cuda.g", "torch.cuda.g"),
        ("import torch\nclass A:\n    torch = 1\n    def f(self):\n        torch.cuda.g", "torch.cuda.g", "torch.cuda.g"),
        ("import torch\ndef f(x=torch.cuda.g):\n    torch = 1", "torch.cuda.g", "torch.cuda.g"),
        ("def f():\n    global torch\n    import torch\ntorch.cuda.g", "torch.cuda.g", "torch.cuda.g"),
    ],
)  # fmt: skip
def test_a_name_means_what_python_binds_it_to(code, use, meaning):
    assert meanings(code)[use] == meaning


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ndef f(torch):\n    torch.cuda.g",
        "import torch\ndef f():\n    torch = 1\n    torch.cuda.g",
        "import torch\n[torch.cuda.g for torch in y]",
        "import torch\nlambda torch: torch.cuda.g",
        "import torch\ndef f():\n    with x as torch:\n        torch.cuda.g",
        "import torch\ndef f():\n    for torch in y:\n        torch.cuda.g",
        "import torch\ndef f():\n    try: ...\n    except E as torch:\n        torch.cuda.g",
        "a = b = a\na.cuda.g",
        "x = f()\nx.cuda.g",
        "match y:\n    case {'a': torch}:\n        torch.cuda.g",
    ],
)
def test_a_shadowed_name_is_nobodys(code):
    assert not any((meant or "").startswith("torch.cuda.g") for meant in meanings(code).values())


def test_a_walrus_in_a_comprehension_binds_outside():
    assert "z" not in meanings("import torch as z\ndef f():\n    [z := 1 for x in y]\n    z.cuda")


def test_names_of_modules():
    assert module_name("src/pkg/a.py") == "src.pkg.a"
    assert module_name("pkg/__init__.py") == "pkg"


def test_python_2_is_unreadable_with_its_line():
    with pytest.raises(Unreadable, match="line 2"):
        parse("import os\nprint 'a'\n")


def test_spans_are_bytes_and_columns_characters():
    # "ä" is two bytes: the name begins at byte 7, character 6.
    module = parse("é = 'ä'; torch.cuda.f\n")
    node = module.found.chains[-1]
    assert module.data[slice(*module.span(node))] == b"torch.cuda.f"
    assert module.place(node).column == 10
