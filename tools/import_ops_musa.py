"""ops/moorethreads-musa.csv from a copy of MooreThreads/torch_musa.

    python tools/import_ops_musa.py TORCH_MUSA

native: the overload is registered for the device.
"""

import argparse
from pathlib import Path

from import_common import STANDARD, Tree, func_names, op_rows, unlisted, write_ops

FUNCTIONS = "torch_musa/csrc/aten/ops/musa_functions.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("torch_musa", type=Path, help="a copy of MooreThreads/torch_musa")
    parser.add_argument("--out", type=Path, default=STANDARD)
    args = parser.parse_args()
    tree = Tree("MooreThreads/torch_musa", args.torch_musa)
    names = func_names(tree.need(FUNCTIONS))
    rows = op_rows(names, "native", tree.source(FUNCTIONS), "BSD-3-Clause")
    write_ops("moorethreads-musa", rows + unlisted("missing", tree.source(FUNCTIONS), "BSD-3-Clause"), args.out)


if __name__ == "__main__":
    main()
