"""One file moved: `port_source(text, target)` finds with ast, edits by exact bytes, and checks what it made.

The result still parses, or it is not used. Rules are run to a fixed point of one: what they wrote is nothing they would
edit again, so porting twice is porting once (tests/port keeps that for every rule).
"""

import re
from dataclasses import dataclass

from anychip.port.edits import Edit, Left, apply
from anychip.port.header import Header, is_torch_import
from anychip.port.imports import tidy
from anychip.port.module import Module
from anychip.port.rules import rules
from anychip.port.survey import NO_PROJECT, Project
from anychip.port.target import PORTABLE_TARGET, Target
from anychip.port.unit import Change, Unit
from anychip.source.ignores import ignores
from anychip.source.module import tree_of
from anychip.source.text import Text, Unreadable

# Without one of these words there is nothing to port or to tell, and the file is not even parsed.
WORDS = re.compile(
    rb"cuda|nccl|flash_attn|xformers|apex|NCCL|CUDA|cupy|triton|amp\.GradScaler|torch\.GradScaler|autocast|bitsandbytes|transformer_engine|pynvml|deepspeed|tensorrt|nvtx|accelerator|megablocks|deep_gemm|grouped_gemm|mamba_ssm|causal_conv1d|flashinfer"
    rb"|cudnn|\bhip\b|cpp_extension|numba|nvidia|amp_C|deep_ep|rotary_emb|fused_dense_lib|dropout_layer_norm"
)


@dataclass(frozen=True)
class Ported:
    """A file's new text, with every change and everything that was left. problem: why the file was skipped."""

    source: Text
    text: str
    changes: tuple[Change, ...] = ()
    left: tuple[Left, ...] = ()
    header: tuple[Edit, ...] = ()
    problem: str = ""

    @property
    def edits(self) -> list[Edit]:
        return [*self.header, *(piece for change in self.changes for piece in change.pieces)]


def port_source(text: str, target: Target, project: Project = NO_PROJECT) -> Ported:
    """Port the text of one Python file. Never raises for what the text is: `problem` says why it was skipped."""
    data = text.encode("utf-8", "surrogateescape")
    if (target.masked and b"CUDA_" not in data and b"cuda" not in data) or not WORDS.search(data):
        return Ported(Text(text), text)
    try:
        module = Module(text)
    except Unreadable as error:
        return Ported(Text(text), text, problem=str(error))
    unit = Unit(module, target, Header(module, target, private=project.stars), project.own_cuda, ignores(text))
    if target.masked:
        return Ported(module, text)
    if not target.has_device:
        return _told(unit, text)
    for rule in rules():
        rule.run(unit)
    tidy(unit)
    unit.header.keep([piece for change in unit.changes for piece in change.pieces])
    unit.header.needs_plugin = bool(target.imports) and _names_chip(unit)
    if not unit.header.needs_torch and not any(is_torch_import(node) for node in module.found.imports):
        unit.header.needs_plugin = False  # a file without torch: whoever imports both has the plug-in
    return _finish(unit, text)


def _names_chip(unit: Unit) -> bool:
    """Whether an edit wrote a name that exists only once the plug-in is imported."""
    target = unit.target
    words = [word for word in (target.device_type, target.backend, target.module) if word]
    return any(word in piece.text for change in unit.changes for piece in change.pieces for word in words)


def _told(unit: Unit, text: str) -> Ported:
    """A platform without tensors on a device: everything is left, since the program must be restructured."""
    portable = Unit(unit.module, PORTABLE_TARGET, Header(unit.module, PORTABLE_TARGET), unit.own_cuda)
    for rule in rules():
        rule.run(portable)
    reason = (
        f"{unit.target.platform} has no device that tensors are put on: the program is restructured around its compiler"
    )
    found = [Left(c.offset, c.symbol, c.rule, reason, "thought") for c in portable.changes if c.rule != "imports"]
    return Ported(unit.module, text, left=tuple(sorted([*found, *portable.left], key=lambda left: left.offset)))


def _finish(unit: Unit, text: str) -> Ported:
    header = unit.header.edits(unit.done)
    edits = [*header, *(piece for change in unit.changes for piece in change.pieces)]
    new = apply(unit.module, edits) if edits else text
    left = tuple(sorted(set(unit.left), key=lambda left: left.offset))
    if new != text:
        try:
            tree_of(new)
        except Unreadable as error:
            problem = f"what was made of it {error}; it was left whole"
            return Ported(unit.module, text, left=left, problem=problem)
    changes = tuple(sorted(unit.changes, key=lambda change: change.offset))
    return Ported(unit.module, new, changes, left, tuple(header))
