"""A torchaudio whose compiled part does not load: it imports, and is as one that was built without."""

import textwrap

import pytest

from tests.standins.recorded import Recorded

# What matters of the real package, in small.
PACKAGE = {
    "__init__.py": "from . import _extension",
    "_extension/__init__.py": "from .utils import _load_lib\navailable = [_load_lib(one) for one in ('broken', 'absent', 'whole')]",
    "_extension/utils.py": """
        def _load_lib(lib):
            if lib == "broken":
                raise OSError("Could not load this library: libcudart.so")
            return lib == "whole"
    """,
}

PROGRAM = """
    import json, sys
    import torch, torchaudio
    torch.ones(3, device="cuda")
    json.dump(torchaudio._extension.available, open(sys.argv[1], "w"))
"""


def test_a_torchaudio_whose_library_does_not_load_imports(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("torchaudio")
    for name, text in PACKAGE.items():
        path = folder / "torchaudio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    (folder / "program.py").write_text(textwrap.dedent(PROGRAM), encoding="utf-8")
    assert Recorded(folder / "program.py", folder / "out.json").said == [False, False, True]
