"""ops/{composite,nvidia-cuda,amd-rocm,cpu,apple-mps,intel-xpu}.csv from the dispatch tables of an installed torch.

    python tools/import_ops_torch.py [--xpu-ops REPOSITORY]      REPOSITORY: a copy of intel/torch-xpu-ops

native: the overload has a kernel under that key. composite: it is written in terms of other ops, for every device, and
stands in composite.csv only. fallback: the maker's own list sends it to the CPU. Most XPU kernels are registered in C++
and in no list: there an op that is not named is unknown.
"""

import argparse
import re
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from import_common import STANDARD, Tree, op_rows, unlisted, write_ops

YAML = "torchgen/packaged/ATen/native/native_functions.yaml"
PLATFORMS = {"nvidia-cuda": "CUDA", "amd-rocm": "CUDA", "cpu": "CPU", "apple-mps": "MPS", "intel-xpu": "XPU"}
XPU_FALLBACK = "src/ATen/native/xpu/XPUFallback.cpp"
PARTIAL = ("intel-xpu",)
LICENCE = "BSD-3-Clause"
Entry = tuple[str, str, frozenset[str]]


def entries(text: str) -> Iterator[Entry]:
    """name.overload, the overload to whose kernel it delegates ("" where none), dispatch keys."""
    name, delegate, keys, in_dispatch = "", "", set[str](), False
    for line in text.splitlines():
        if found := re.match(r"- func: ([\w.]+)", line):
            if name:
                yield name, delegate, frozenset(keys)
            name, delegate, keys, in_dispatch = found[1], "", set(), False
        elif found := re.match(r"  (\w+):\s*(.*)", line):
            in_dispatch = found[1] == "dispatch"
            delegate = found[2].strip() if found[1] == "structured_delegate" else delegate
        elif in_dispatch and (found := re.match(r"    ([\w, ]+):", line)):
            keys |= {key.strip() for key in found[1].split(",")}
    if name:
        yield name, delegate, frozenset(keys)


def verdicts(text: str, key: str) -> Iterator[tuple[str, str]]:
    """Overload and verdict for one dispatch key; an overload without any dispatch is composite."""
    table = {name: (delegate, keys) for name, delegate, keys in entries(text)}
    for name, (delegate, own) in table.items():
        keys = table.get(delegate, ("", frozenset[str]()))[1] if delegate else own
        if key in keys:
            yield name, "native"
        elif not keys or any(k.startswith("Composite") for k in keys):
            yield name, "composite"


def fallbacks(text: str) -> list[str]:
    """The quoted names of the C++ list of ops that XPU runs on the CPU."""
    start = text.index("fallback_list")
    return re.findall(r'"([\w.]+)"', text[start : text.index("};", start)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xpu-ops", type=Path, help="a copy of intel/torch-xpu-ops")
    parser.add_argument("--out", type=Path, default=STANDARD)
    args = parser.parse_args()
    spec = find_spec("torchgen")
    assert spec is not None
    assert spec.origin is not None
    text = (Path(spec.origin).parent.parent / YAML).read_text(encoding="utf-8")
    source = f"pytorch/pytorch@{version('torch').split('+')[0]}:{YAML}"
    composite = [name for name, verdict in verdicts(text, "CUDA") if verdict == "composite"]
    write_ops("composite", op_rows(composite, "composite", source, LICENCE), args.out)
    for platform, key in PLATFORMS.items():
        rows = op_rows((n for n, verdict in verdicts(text, key) if verdict == "native"), "native", source, LICENCE)
        rows += unlisted("unknown" if platform in PARTIAL else "missing", source, LICENCE)
        if platform == "intel-xpu" and args.xpu_ops:
            tree = Tree("intel/torch-xpu-ops", args.xpu_ops)
            slow = fallbacks(tree.need(XPU_FALLBACK))
            rows = [row for row in rows if row[0] not in slow]
            rows += op_rows(slow, "fallback", tree.source(XPU_FALLBACK), "Apache-2.0")
        write_ops(platform, rows, args.out)


if __name__ == "__main__":
    main()
