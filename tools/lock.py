"""Write requirements.lock and requirements-dev.lock: the exact versions installed in the environment that runs this.

The closure of the package's own dependencies goes into the first, that of its `dev` extra into the second, which
includes the first. A local version label (torch's "+cpu") is dropped, so that the lock installs wherever the release
is served, whichever build that is. Run by `make lock`.
"""

import argparse
import importlib.metadata as metadata
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
HEAD = """\
# Exact versions, written by `make lock` (tools/lock.py). On Linux x86-64 the common package index serves the CUDA
# build of this torch release, which works too; the CPU build is a tenth of the size (https://pytorch.org/get-started).
"""


def closure(requirements: Iterable[str]) -> dict[str, str]:
    """Name -> version of every installed distribution that the requirements need, themselves included."""
    found: dict[str, str] = {}
    todo = [Requirement(text) for text in requirements]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        distribution = metadata.distribution(name)
        found[name] = distribution.version.partition("+")[0]
        todo += [Requirement(text) for text in distribution.requires or ()]
    return found


def lines(found: dict[str, str]) -> str:
    return "".join(f"{name}=={found[name]}\n" for name in sorted(found))


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    build = project["build-system"]["requires"]
    runtime = closure([*project["project"]["dependencies"], *build])
    everything = closure([*project["project"]["optional-dependencies"]["dev"], *build]) | runtime
    dev = {name: version for name, version in everything.items() if name not in runtime}
    (ROOT / "requirements.lock").write_text(HEAD + lines(runtime))
    (ROOT / "requirements-dev.lock").write_text(HEAD + "-r requirements.lock\n" + lines(dev))


if __name__ == "__main__":
    main()
