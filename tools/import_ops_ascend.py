"""ops/huawei-cann.csv from a copy of Ascend/op-plugin and, where given, Ascend/pytorch.

    python tools/import_ops_ascend.py OP_PLUGIN [--torch-npu REPOSITORY]

native: the overload is registered for the device. differs: the maker's own list of failing tests has it under
`test_compare_cpu` for that dtype: results that are not the CPU's.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from import_common import STANDARD, Tree, func_names, op_rows, unlisted, write_ops

FUNCTIONS = "op_plugin/config/op_plugin_functions.yaml"
NATIVE = "torch_npu/csrc/aten/npu_native_functions.yaml"
FAILING = "test/unsupported_ops_info_base.yaml"
LICENCE = "BSD-3-Clause"


def failing(text: str, test: str = "test_compare_cpu") -> Iterator[tuple[str, str]]:
    """op and dtype of every entry of one test."""
    op = inside = ""
    for line in text.splitlines():
        if found := re.match(r"([\w.]+):", line):
            op, inside = found[1], ""
        elif found := re.match(r"  (\w+):", line):
            inside = found[1]
        elif (found := re.match(r"\s*- (\w+)", line)) and inside == test:
            yield op, found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("op_plugin", type=Path, help="a copy of Ascend/op-plugin")
    parser.add_argument("--torch-npu", type=Path, help="a copy of Ascend/pytorch")
    parser.add_argument("--out", type=Path, default=STANDARD)
    args = parser.parse_args()
    plugin = Tree("Ascend/op-plugin", args.op_plugin)
    functions = plugin.need(FUNCTIONS)
    rows = [
        row
        for section in ("official", "symint", "quant")
        for row in op_rows(func_names(functions, section), "native", plugin.source(FUNCTIONS), LICENCE)
    ]
    if args.torch_npu:
        tree = Tree("Ascend/pytorch", args.torch_npu)
        names = func_names(tree.need(NATIVE), "supported")
        rows += op_rows(names, "native", tree.source(NATIVE), LICENCE)
    for op, dtype in failing(plugin.need(FAILING)):
        rows += op_rows([op], "differs", plugin.source(FAILING), LICENCE, dtype)
    rows += unlisted("missing", plugin.source(FUNCTIONS), LICENCE)
    write_ops("huawei-cann", rows, args.out)


if __name__ == "__main__":
    main()
