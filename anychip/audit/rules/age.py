"""Names that are gone from today's PyTorch, NumPy and Python: the program fails before it reaches any chip.

Told apart and not part of the score: this has to be mended on CUDA as well.
"""

from collections.abc import Iterable

from anychip.audit.finding import Finding
from anychip.audit.rules._symbols import find_listed
from anychip.source.module import Module

NAME = "age"
VALID = (
    "import numpy as np\nnp.float64(1)\n",
    "imp = 1\nprint(imp)\n",
    "import torch\ntorch.nn.init.kaiming_normal_(w)\n",
)
INVALID = (
    ("from torch._six import string_classes\n", ("torch._six.string_classes",)),
    ("import numpy as np\nx = np.zeros(3, dtype=np.float)\n", ("numpy.float",)),
)


def find(module: Module) -> Iterable[Finding]:
    return find_listed(module, NAME)
