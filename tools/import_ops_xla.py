"""ops/{google-tpu,aws-neuron}.csv from a copy of pytorch/xla: what torch_xla lowers; the rest goes to the CPU.

    python tools/import_ops_xla.py PYTORCH_XLA

native: lowered to XLA, by the overload's own name. Neuron's older plug-in runs on torch_xla, its newer one is closed.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from import_common import STANDARD, Tree, op_rows, unlisted, write_ops

FUNCTIONS = "codegen/xla_native_functions.yaml"
SECTIONS = ("full_codegen", "supported")


def lowered(text: str) -> Iterator[str]:
    section = ""
    for line in text.splitlines():
        if found := re.match(r"(\w+):", line):
            section = found[1]
        elif (found := re.match(r"\s+- (?:func: )?([\w.]+)", line)) and section in SECTIONS:
            yield found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pytorch_xla", type=Path, help="a copy of pytorch/xla")
    parser.add_argument("--out", type=Path, default=STANDARD)
    args = parser.parse_args()
    tree = Tree("pytorch/xla", args.pytorch_xla)
    rows = op_rows(lowered(tree.need(FUNCTIONS)), "native", tree.source(FUNCTIONS), "BSD-3-Clause")
    rows += unlisted("fallback", tree.source(FUNCTIONS), "BSD-3-Clause")
    for platform in ("google-tpu", "aws-neuron"):
        write_ops(platform, rows, args.out)


if __name__ == "__main__":
    main()
