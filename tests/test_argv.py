"""What is no program is told before anything is run; what may be one is left to Python."""

import sys

import pytest

from anychip.argv import check
from anychip.errors import BadUse


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package that would fail if it were imported, a script and a package that makes its own path."""
    files = {
        "pkg/__init__.py": "raise SystemExit(3)\n",
        "pkg/train.py": "",
        "space/train.py": "",
        "far/__init__.py": "__path__.append('elsewhere')\n",
        "train.py": "",
        "launch.sh": "torchrun --nproc_per_node 8 train.py\n",
        "tool": "#!/bin/sh\n'''exec' python \"$0\" \"$@\"\n' '''\nprint(1)\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "train.pyc").write_bytes(b"\0\1\2")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["pkg", "pkg.train", "space.train", "train", "far.away", "json.tool", "xml.etree.ElementTree", "sys"]
)
def test_a_module_that_can_be_found(folder, name):
    before = set(sys.modules)
    check([name], module=True)
    assert "pkg" not in set(sys.modules) - before


@pytest.mark.parametrize("name", ["nothing", "pkg.nothing", "pkg.train.nothing", "space.nothing", ".train", "", "pkg."])
def test_a_module_that_cannot(folder, name):
    with pytest.raises(BadUse, match="there is no module"):
        check([name], module=True)


@pytest.mark.parametrize("name", ["train.py", "pkg/train.py"])
def test_a_script_given_as_a_module(folder, name):
    with pytest.raises(BadUse, match=f"leave out -m: {name}"):
        check([name], module=True)


@pytest.mark.parametrize(
    ("name", "module"), [("absent.py", "absent"), ("a/b.py", "a.b"), ("./absent.py", "absent"), ("pkg", "pkg")]
)
def test_a_missing_script_may_be_a_module(folder, name, module):
    with pytest.raises(BadUse, match=f"For a module: -m {module}$"):
        check([name], module=False)


def test_a_notebook_is_told(folder):
    """One without `null` is a dictionary to Python: it ran, did nothing, and the report asked whether it had been told to use the CPU."""
    (folder / "a b.ipynb").write_text('{"cells": [{"cell_type": "code", "execution_count": 1, "source": ["x = 1"]}]}')
    with pytest.raises(BadUse, match=r"is a notebook.* nbconvert --to script 'a b.ipynb'"):
        check(["a b.ipynb"], module=False)


def test_a_shell_script_is_told(folder):
    with pytest.raises(BadUse, match=r"launch.sh is not Python \(line 1: .*torchrun's ranks as --on CHIP:COUNT"):
        check(["launch.sh"], module=False)


@pytest.mark.parametrize("name", ["tool", "train.pyc", "train.py"])
def test_other_files_that_python_runs_are_left_to_it(folder, name):
    check([name], module=False)


def test_a_package_of_an_editable_install(folder, monkeypatch):
    """Finders of their own know where such packages are."""
    import importlib.util

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            return (
                importlib.util.spec_from_file_location(name, folder / "pkg" / "__init__.py") if name == "mine" else None
            )

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    check(["mine.train"], module=True)
    with pytest.raises(BadUse):
        check(["mine.nothing"], module=True)
