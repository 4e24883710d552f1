"""ops/enflame-topsrider.csv from a copy of flagos-ai/Torch-FL: the only public list of ops with a kernel of that maker.

    python tools/import_ops_flagos.py TORCH_FL

native: the list routes the op to the maker's own kernel. Ops that it does not name go elsewhere and are not listed.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from import_common import STANDARD, Tree, op_rows, unlisted, write_ops

# A platform of ours: the list's file, and the route that is the maker's own kernel.
ROUTES = {"enflame-topsrider": ("torch_fl/configs/backends_gcu.conf", "gcu")}


def routed(text: str, route: str) -> Iterator[str]:
    for line in text.splitlines():
        found = re.match(r"([\w.]+)\s*=\s*(\w+)", line)
        if found and found[2] == route:
            yield found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("torch_fl", type=Path, help="a copy of flagos-ai/Torch-FL")
    parser.add_argument("--out", type=Path, default=STANDARD)
    args = parser.parse_args()
    tree = Tree("flagos-ai/Torch-FL", args.torch_fl)
    for platform, (path, route) in ROUTES.items():
        names = routed(tree.need(path), route)
        rows = op_rows(names, "native", tree.source(path), "Apache-2.0")
        write_ops(platform, rows + unlisted("unknown", tree.source(path), "Apache-2.0"), args.out)


if __name__ == "__main__":
    main()
