"""python -m anychip.port.runners.as_named CHIP script.py args... : run on the virtual chip of this process under the device name of CHIP's plug-in.

`anychip port --prove` records this program; it runs the user's inside.
"""

import sys

from anychip.port.runners import names
from anychip.spec import load_chip


def main() -> None:
    platform = load_chip(sys.argv[1]).platform
    names.install(platform.device_type, "cuda", tuple(platform.raw.get("import", ())))
    names.run(sys.argv[2:])


if __name__ == "__main__":
    main()
