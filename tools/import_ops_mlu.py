"""ops/cambricon-neuware.csv from a copy of Cambricon/torch_mlu.

    python tools/import_ops_mlu.py TORCH_MLU

native: the overload is registered for the device.
"""

import argparse
from pathlib import Path

from import_common import STANDARD, Tree, func_names, op_rows, unlisted, write_ops

FUNCTIONS = "codegen/mlu_functions.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("torch_mlu", type=Path, help="a copy of Cambricon/torch_mlu")
    parser.add_argument("--out", type=Path, default=STANDARD)
    args = parser.parse_args()
    tree = Tree("Cambricon/torch_mlu", args.torch_mlu)
    names = func_names(tree.need(FUNCTIONS), "aten")
    rows = op_rows(names, "native", tree.source(FUNCTIONS), "BSD-3-Clause")
    write_ops("cambricon-neuware", rows + unlisted("missing", tree.source(FUNCTIONS), "BSD-3-Clause"), args.out)


if __name__ == "__main__":
    main()
