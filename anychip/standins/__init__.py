"""Stand-ins for GPU libraries that a program imports (`libraries`), and kernels of the user's own.

`install(runtime)` puts them into this process: import hooks (`finder`), `torch.utils.cpp_extension`
(`extensions`), and what installed libraries lack beside a CPU torch (`torchvision`, `triton`, `strangers`).
docs/kernels.md is the user's page.
"""

import sys
from typing import Any


def install(runtime: Any) -> None:
    """Serve stand-ins on the virtual chip of this process. Call once, after torch is imported."""
    from anychip.standins import extensions, nvrtc, recording, strangers
    from anychip.standins.finder import Finder, NativeFinder
    from anychip.standins.patches import AfterImport

    recording.set_runtime(runtime)
    nvrtc.install()
    strangers.install(runtime)
    sys.meta_path.insert(0, AfterImport())
    sys.meta_path.insert(0, NativeFinder())
    sys.meta_path.append(Finder())
    sys.meta_path.append(extensions.Finder())
