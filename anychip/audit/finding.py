"""A finding: one place that is bound to CUDA, what it costs to move it, and what to write instead.

Severities, from nothing to everything: `flow` is a place that a device name of elsewhere reaches, and moves with it;
`cosmetic` works everywhere and only reads as CUDA; `automatic` is a plain edit; `thought` needs a decision; `rewrite`
needs a kernel for the other chip; `blocks` has nothing to take its place. `age` is a program too old for today's
PyTorch, whatever the chip: told apart, and not part of the score.
"""

import ast
from dataclasses import dataclass, field

from anychip.source.module import Module, Place

SEVERITIES = ("flow", "cosmetic", "automatic", "thought", "rewrite", "blocks")
AGE = "age"


@dataclass(frozen=True)
class Finding:
    """symbol: the name that is bound (torch.cuda.synchronize, "cuda:0"). source: where a device name comes from.

    need: what a chip is asked for here, for the answers of the standard: ("api", "synchronize"), ("library",
    "flash_attn"), ("triton", ""), ("kernel", ""), ("collective", "nccl"), ("device", ""), ("env", ...). fingerprint: the same in other
    versions of the file that have the line still. automatic: `anychip port` edits it. node: for codemods.
    """

    rule: str
    severity: str
    place: Place
    symbol: str
    message: str
    fix: str = ""
    automatic: bool = False
    need: tuple[str, str] = ("", "")
    source: Place | None = None
    fingerprint: str = ""
    node: ast.AST | None = field(default=None, compare=False, repr=False)

    @property
    def path(self) -> str:
        return self.place.path

    @property
    def line(self) -> int:
        return self.place.line


def finding(
    module: Module, node: ast.AST, rule: str, severity: str, symbol: str, message: str, fix: str = "",
    need: tuple[str, str] = ("", ""),
) -> Finding:  # fmt: skip
    """The finding at a node of a Python file."""
    return Finding(rule, severity, module.place(node), symbol, message, fix, need=need, node=node)
