"""python -m anychip.port.runners.as_named CHIP ASKED script.py args... : run on the virtual chip of this process under the device name of CHIP's plug-in.

`anychip port --prove` records this program; it runs the user's inside. ASKED: which lines to look for (`reached`).
"""

import sys

from anychip.port.runners import names, reached
from anychip.spec import load_chip


def main() -> None:
    platform = load_chip(sys.argv[1]).platform
    if platform.device_type != "cuda":
        names.install(platform.device_type, "cuda", tuple(platform.raw.get("import", ())))
    reached.watch(sys.argv[2])
    names.run(sys.argv[3:])


if __name__ == "__main__":
    main()
