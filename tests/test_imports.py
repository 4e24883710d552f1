"""Imports point one way, and importing anychip is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "anychip"

# part -> the parts it may import, besides itself; a part is a module or subpackage directly under anychip.
MAY_IMPORT = {
    "errors": set(),
    "whole": {"errors"},
    "temporary": set(),
    "garbage": set(),
    "screen": set(),
    "arguments": set(),
    "units": set(),
    "targets": {"errors"},
    "argv": {"errors"},
    "spec": {"errors", "units"},
    "source": {"errors"},
    # audit finds, port edits: each tells what the other makes of a place
    "audit": {"arguments", "errors", "units", "spec", "source", "whole", "screen", "port"},
    "record": {"errors", "garbage", "units", "whole"},
    "cost": {"errors", "units", "spec", "record"},
    "network": {"errors", "units", "spec", "record", "cost"},
    "timeline": {"errors", "units", "spec", "record", "cost"},
    "cluster": {"errors", "garbage", "units", "spec", "record", "cost", "timeline", "network"},
    "figures": {"errors", "units", "spec", "record", "cost", "timeline"},
    "caveats": {"units", "spec", "record", "cost", "timeline", "figures"},
    "forecast": {"errors", "units", "spec", "record", "cost", "timeline", "memory", "figures", "caveats"},
    "job": {"errors", "units", "spec", "record", "cost", "timeline", "figures", "caveats", "forecast", "network", "cluster"},
    "memory": {"errors", "units", "record"},
    "drivers": {"errors", "units", "spec", "record"},
    # stand-ins are written on the device's kernels; the device hangs them in when it is installed
    "device": {"errors", "units", "spec", "record", "cost", "timeline", "network", "memory", "drivers", "standins", "temporary", "whole"},
    "standins": {"errors", "record", "drivers", "device"},
    "report": {"errors", "units", "spec", "record", "cost", "timeline", "figures", "forecast", "cluster", "api", "memory", "whole", "screen"},
    "places": {"errors", "targets", "spec", "cost", "network", "job"},
    "recordings": {"argv", "errors", "places", "spec", "record", "device"},
    "api": {"errors", "garbage", "caveats", "places", "recordings", "spec", "record", "forecast", "job", "network", "cluster", "memory"},
    "port": {"arguments", "errors", "units", "spec", "source", "temporary", "whole", "audit"},
    "measure": {"arguments", "errors", "units", "spec", "record", "cost", "temporary", "whole"},
    "chips": {"spec", "report", "whole"},
    "cli": {"arguments", "errors", "spec", "audit", "measure", "port", "chips", "api", "places", "report", "whole"},
    "__main__": {"cli"},
}  # fmt: skip
# The same of the folders of `device`: what stands beside them (runtime, launch, install, __main__) joins them.
WITHIN_DEVICE = {
    "insides": set(),
    "files": set(),
    "cuda": {"graphs", "insides", "runtime"},
    "ops": {"insides", "runtime"},
    "steps": {"insides", "runtime", "launch", "parent"},
    "distributed": {"insides", "ops", "runtime", "launch", "install"},
}  # fmt: skip
# What only the device may import: everything else works where torch is not installed.
TORCH_ONLY_IN = {"device", "drivers", "standins", "measure"}
# Folders of files that are started as processes and imported by nothing.
PROGRAMS_OF_THEIR_OWN = {"runners"}


def modules():
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def part(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Names imported anywhere in a file, except under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            if node.module == "anychip":
                yield from (f"anychip.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    allowed = MAY_IMPORT[part(path)] | {part(path), "__version__"}
    used = {name.split(".")[1] for name in imports(path) if name.startswith("anychip.")}
    assert used <= allowed, f"{path.name} imports {sorted(used - allowed)}"


@pytest.mark.parametrize("folder", sorted(WITHIN_DEVICE))
def test_folders_of_the_device_do_not_know_one_another(folder):
    for path in (PACKAGE / "device" / folder).glob("*.py"):
        used = {name.split(".")[2] for name in imports(path) if name.startswith("anychip.device.")}
        assert used <= WITHIN_DEVICE[folder] | {folder}, f"{path.name} imports {sorted(used)}"


def test_every_folder_of_the_device_has_its_place():
    assert {path.parent.name for path in (PACKAGE / "device").glob("*/*.py")} == set(WITHIN_DEVICE)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_device_imports_torch(path):
    roots = {name.split(".")[0] for name in imports(path)}
    assert "torch" not in roots or part(path) in TORCH_ONLY_IN or path.parent.name in PROGRAMS_OF_THEIR_OWN


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import anychip", {"torch", "numpy", "rich", "anychip.spec"}),
        ("import anychip.cli; anychip.cli.parser().format_help()", {"torch", "numpy", "rich"}),
        ("import anychip.cli; anychip.cli.main(['chips'])", {"torch", "numpy", "rich"}),
        ("import anychip; anychip.Chip.load('h100')", {"torch", "numpy", "rich"}),
        ("import anychip; anychip.Program; anychip.Forecast", {"torch", "rich"}),
    ],
)
def test_what_an_import_does_not_bring(statement, absent):
    code = f"{statement}\nimport sys\nprint(sorted({absent!r} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.strip().splitlines()[-1] == "[]"
