"""What a port did, for people and for programs: one screen of text, and JSON (schema 1, fields are only ever added)."""

import json
from collections import Counter
from typing import Any

from anychip.port.edits import KINDS
from anychip.port.project import LeftLine, Result
from anychip.source.text import shown
from anychip.units import several

_MOST = 6


def to_json(result: Result) -> dict[str, Any]:
    """The answer of `anychip port --json`: edits, what was left and why, skipped files, kernels, proof."""
    proof = result.proof
    return {
        "schema": 1,
        "target": result.target.name,
        "files": result.num_files,
        "lines": result.num_lines,
        "changed": result.changed,
        "converted": result.converted,
        "edits": [vars(edit) for edit in result.edits],
        "left": [vars(left) for left in result.left],
        "skipped": [{"file": file, "reason": reason} for file, reason in result.skipped.items()],
        "kernels": [vars(kernel) | {"unmapped": list(kernel.unmapped)} for kernel in result.kernels],
        "proof": None
        if proof is None
        else {
            "ok": proof.ok,
            "checks": [vars(check) for check in proof.checks],
            "edits": len(proof.edits),
            "unreached": [vars(place) for place in proof.unreached],
        },
    }


def text(result: Result) -> str:
    """One screen: what was edited by rule, what was left by reason, what was skipped, kernels, proof."""
    lines = [_head(result), ""]
    lines += _edited(result)
    for kind, words in KINDS.items():
        lines += _left(words, [left for left in result.left if left.kind == kind])
    lines += _kernels(result)
    if result.skipped:
        lines.append(f"skipped, {several(len(result.skipped), 'file')}:")
        lines += [f"    {shown(file)}: {reason}" for file, reason in list(result.skipped.items())[:_MOST]]
        lines += [*_more(len(result.skipped)), ""]
    if result.target.portable and result.changed:
        lines += ["needs torch >= 2.7 (torch.accelerator); on CUDA it does what it did", ""]
    return "\n".join(lines + _proof(result)).rstrip()


def _head(result: Result) -> str:
    target = "portable PyTorch" if result.target.portable else f"{result.target.name} ({result.target.platform})"
    share = "" if result.converted is None else f", {result.converted:.1%} of what can be edited"
    edits = several(sum(e.rule != "header" for e in result.edits), "edit")
    of = f"{len(result.changed):,} of {several(result.num_files, 'file')}"
    return f"to {target}: {edits} in {of}, {several(result.num_lines, 'line')}{share}"


def _edited(result: Result) -> list[str]:
    if result.target.masked:
        return [f"its PyTorch calls itself CUDA: Python stays as it is ({result.target.platform})", ""]
    found: dict[str, list[Any]] = {}
    for edit in result.edits:
        found.setdefault(edit.rule, []).append(edit)
    lines = []
    for rule, edits in sorted(found.items(), key=lambda item: -len(item[1])):
        if rule == "header":
            continue
        lines.append(f"{len(edits):6,}  {rule:24} {edits[0].reason}")
        lines += [
            f"        {shown(edits[0].file)}:{edits[0].line}",
            f"        - {_preview(edits[0].before)}",
            f"        + {_preview(edits[0].after)}",
        ]
    return [*lines, ""]


def _preview(code: str, columns: int = 100) -> str:
    """The first line, as far as there is room; with " ..." where there is more."""
    first, *more = code.strip().split("\n")
    return f"{first[:columns].rstrip()} ..." if more or len(first) > columns else first


def _left(words: str, left: list[LeftLine]) -> list[str]:
    if not left:
        return []
    counts = Counter((one.rule, one.symbol, one.reason) for one in left)
    first = {(one.rule, one.symbol, one.reason): one for one in reversed(left)}
    lines = [f"left, {several(len(left), 'place')}: {words}"]
    for key, number in counts.most_common(_MOST):
        one = first[key]
        lines.append(f"{number:6,}  {_preview(one.symbol, 60)}  {shown(one.file)}:{one.line}")
        lines.append(f"        {one.reason}")
    return [*lines, *_more(len(counts)), ""]


def _more(number: int) -> list[str]:
    return [f"    and {number - _MOST} more kinds; all of them in --json"] if number > _MOST else []


def _kernels(result: Result) -> list[str]:
    if not result.kernels:
        return []
    symbols = sum(kernel.symbols for kernel in result.kernels)
    known = [kernel.mapped for kernel in result.kernels if kernel.mapped is not None]
    share = f", {sum(known) / symbols:.0%} of them in PyTorch's table to HIP" if known and symbols else ""
    lines = [
        f"CUDA C++, {several(len(result.kernels), 'file')}, {several(symbols, 'use')} of CUDA's functions and libraries{share}:"
    ]
    for kernel in sorted(result.kernels, key=lambda k: -k.symbols)[:_MOST]:
        lines.append(f"{kernel.symbols:6,}  {shown(kernel.path)}: {kernel.outcome}")
        if kernel.unmapped:
            lines.append(f"        not in the table: {', '.join(kernel.unmapped[:6])}")
    return [*lines, *_more(len(result.kernels)), ""]


def _proof(result: Result) -> list[str]:
    if result.proof is None:
        return []
    proof = result.proof
    lacking = any(check.ok is None for check in proof.checks)
    holds = "holds, as far as it could be compared" if lacking else "holds"
    missed, edits = len(proof.unreached), several(len(proof.edits), "edit")
    of = f", of {len(proof.edits) - missed:,} of {edits}: these runs did not reach the others" if missed else ""
    none = all(check.ok is None for check in proof.checks)
    fails = "none, as the original could not be run here" if none else "does NOT hold"
    lines = [f"proof: {holds + of if proof.ok else fails}"]
    for check in proof.checks:
        lines.append(
            f"  {'ok  ' if check.ok else 'FAIL' if check.ok is False else '-   '} {check.what}: {check.before} -> {check.after}"
        )
    if missed:
        places = list(dict.fromkeys(f"{shown(one.file)}:{one.line}" for one in proof.unreached))
        more = f" and {len(places) - _MOST:,} more, all of them in --json" if len(places) > _MOST else ""
        lines.append(f"  -    {several(missed, 'edit')} not reached: {', '.join(places[:_MOST])}{more}")
    elif proof.edits:
        lines.append(f"  ok   {'all ' * (len(proof.edits) > 1)}{edits} reached")
    return lines


def dumps(result: Result) -> str:
    return json.dumps(to_json(result), indent=2)
