"""Environment variables of CUDA that the program itself sets or reads.

A chip's form writes the chip's own, where its platform file names one. Portable code leaves them: on CUDA they must stay
what they are, and elsewhere nobody reads them; which is told, since choosing devices by them has no effect there.
"""

import ast

from anychip.audit.rules.environment import TWINS
from anychip.port.unit import Unit

NAME = "environment"
_ENVIRON = (
    "os.environ",
    "os.environ.get",
    "os.environ.setdefault",
    "os.environ.pop",
    "os.getenv",
    "os.putenv",
    "os.unsetenv",
)

VALID = ['import os\n\nx = os.environ["LOCAL_RANK"]\n', 'x = "CUDA_VISIBLE_DEVICES"\n']
INVALID = [
    (
        'import os\n\nos.environ["CUDA_VISIBLE_DEVICES"] = "0"\n',
        'os.environ["CUDA_VISIBLE_DEVICES"] = "0"\n',
        'os.environ["ASCEND_RT_VISIBLE_DEVICES"] = "0"\n',
    ),
    (
        'import os\n\nx = os.getenv("CUDA_VISIBLE_DEVICES", "")\n',
        'x = os.getenv("CUDA_VISIBLE_DEVICES", "")\n',
        'x = os.getenv("ASCEND_RT_VISIBLE_DEVICES", "")\n',
    ),
]


def run(unit: Unit) -> None:
    for node in unit.module.strings:
        twin = unit.target.env.get(TWINS.get(str(node.value), ""))
        if twin and twin != node.value and _is_variable(unit, node):
            quote = unit.module.of(node)[-1]
            reason = f"{unit.target.platform}'s variable for the same"
            unit.replace(node, f"{quote}{twin}{quote}", NAME, reason, str(node.value))


def _is_variable(unit: Unit, node: ast.Constant) -> bool:
    parent = unit.module.parent(node)
    if isinstance(parent, ast.Subscript) and parent.slice is node:
        return unit.module.qualified(parent.value) == "os.environ"
    if isinstance(parent, ast.Call):
        return parent.args[:1] == [node] and unit.module.qualified(parent.func) in _ENVIRON
    if isinstance(parent, ast.Compare):
        return any(unit.module.qualified(c) == "os.environ" for c in parent.comparators)
    return False
