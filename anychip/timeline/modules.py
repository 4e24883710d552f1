"""Which module of the program each word of its tape belongs to, and memory by module.

In a forward it is the innermost module that is being called; in a backward the one whose autograd node was the last to
begin (NODE words), or a module that is being called again (recomputation).
"""

from collections import Counter

import numpy as np
import numpy.typing as npt

from anychip.record import Kind, Mark, Program
from anychip.record.tape import KIND_BITS, KIND_MASK

Ints = npt.NDArray[np.int64]
NO_MODULE = -1


def module_at(program: Program) -> Ints:
    """For each word an index into program.modules, or NO_MODULE."""
    kinds = program.kinds
    positions = np.flatnonzero(np.isin(kinds, (Kind.ENTER, Kind.EXIT, Kind.NODE, Kind.MARK)))
    stack: list[int] = []
    node, base = NO_MODULE, 0  # of the backward that is running: its module, and how deep it was called
    changes = [NO_MODULE]
    for word in program.tape[positions].tolist():
        kind, payload = word & KIND_MASK, word >> KIND_BITS
        if kind == Kind.ENTER:
            stack.append(payload)
        elif kind == Kind.EXIT and stack:
            stack.pop()
        elif kind == Kind.NODE:
            node = payload
        elif kind == Kind.MARK and payload in (Mark.BACKWARD_BEGIN, Mark.BACKWARD_END):
            node, base = NO_MODULE, len(stack)
        inside = node != NO_MODULE and len(stack) <= base
        changes.append(node if inside else stack[-1] if stack else NO_MODULE)
    edges = np.concatenate([[0], positions, [kinds.size]])
    return np.repeat(np.array(changes, np.int64), np.diff(edges))


def memory_by_module(program: Program, block: Ints, size: Ints, born: Ints, is_held: npt.NDArray[np.bool_],
                     is_optimizer: npt.NDArray[np.bool_]) -> dict[str, int]:  # fmt: skip
    """Bytes of allocations by the module that they were made for, largest first. Modules of one kind are taken together:
    `h.*.mlp` stands for `h.0.mlp`, `h.1.mlp`, ... A parameter or buffer (is_held) belongs to the module that
    holds it, an optimizer's state to the optimizer."""
    owner = dict(program.meta.get("held_by", []))
    made = module_at(program)[born]
    found: Counter[str] = Counter()
    for index, module in enumerate(made.tolist()):
        if is_held[index]:
            module = owner.get(int(block[index]), module)
        name = (
            "(optimizer)"
            if is_optimizer[index]
            else folded(program.modules[module])
            if module >= 0
            else "(outside modules)"
        )
        found[name] += int(size[index])
    return dict(found.most_common())


def folded(path: str) -> str:
    """`model.layers.11.mlp.up` -> `model.layers.*.mlp`: numbers as a star, one name after the first of them; three names
    where there is no number."""
    parts = ["*" if part.isdigit() else part for part in path.split(".")]
    keep = parts.index("*") + 2 if "*" in parts else 3
    return ".".join(parts[:keep])
