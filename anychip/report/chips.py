"""What is known of chips, as text and JSON (Markdown: `anychip.spec.pages`). Plain text: nothing is imported that `anychip chips` must wait for.

In: chips, list entries and problems of `anychip.spec`. Out: strings and JSON values. Unknown is written, not left out.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from anychip.spec import Chip, ChipEntry, Figure, Platform, Problem

SCHEMA = 1
RUNS = {"kernel": "one kernel after another", "graph": "whole compiled graphs", "host": "ops in the calling thread"}


def table(rows: Sequence[Sequence[str]], width: int | None = None, *flexible: int) -> str:
    """Rows as aligned columns, the first row a heading; of columns `flexible` the widest is cut so that lines keep to `width`."""
    sizes = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for _ in range(sum(sizes) + 2 * (len(sizes) - 1) - width if width is not None and flexible else 0):
        widest = max(flexible, key=lambda i: sizes[i])
        sizes[widest] = max(8, sizes[widest] - 1)
    lines = ("  ".join(_cut(cell, size).ljust(size) for cell, size in zip(row, sizes, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 2] + ".."


def screen_width() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def list_width() -> int | None:
    """Of what a cell is cut to: nothing that a file or a filter reads, `anychip chips clusters | grep h100`."""
    return screen_width() if sys.stdout.isatty() or "COLUMNS" in os.environ else None


def list_text(entries: Sequence[ChipEntry]) -> str:
    rows = [("id", "aliases", "vendor", "platform", "grade")]
    rows += [(e.id, ", ".join(e.aliases) or "-", e.vendor, e.platform, e.grade) for e in entries]
    return f"{table(rows, list_width(), 1)}\n\n{len(entries)} chips. One of them: anychip chips show ID"


def list_json(chips: Sequence[Chip]) -> dict[str, Any]:
    return {"schema": SCHEMA, "chips": [chip_record(chip) for chip in chips]}


def chip_json(chip: Chip) -> dict[str, Any]:
    return list_json([chip])


def chip_record(chip: Chip) -> dict[str, Any]:
    return {
        "id": chip.id,
        "aliases": list(chip.aliases),
        "name": chip.name,
        "vendor": chip.vendor,
        "platform": chip.platform.id,
        "generation": chip.generation,
        "execution": chip.execution,
        "grade": chip.grade,
        "figures": {path: figure_record(figure) for path, figure in chip.figures.items()},
        "notes": list(chip.notes),
    }


def figure_record(figure: Figure) -> dict[str, Any]:
    """value in SI units, null where unknown or where the chip has no such thing: `state` says which."""
    return {
        "value": list(figure.shape) if figure.shape is not None else figure.value,
        "unit": figure.unit,
        "state": figure.state,
        "kind": figure.kind,
        "source": figure.source,
        "date": figure.date,
        "printed": figure.printed,
        "note": figure.note,
        "disputed": list(figure.disputed),
    }


def chip_text(chip: Chip, asked: str, platform: bool = False) -> str:
    """Every figure with its kind and the number of its source, then the sources, notes and disputes."""
    width = screen_width()
    head = f"{asked} -> {chip.id}" if asked != chip.id else chip.id
    generation = f", generation {chip.generation}" if chip.generation else ""
    lines = [
        head,
        f"{chip.vendor} {chip.name}, platform {chip.platform.id}{generation}, grade {chip.grade}",
        f"runs {RUNS[chip.execution]}; {chip.file}",
        "",
    ]
    lines += figure_lines(chip.figures, width)
    lines += paragraphs([*chip.notes, *map(str, chip.inherits), *to_be_surer(chip)], width)
    if platform:
        lines += ["", *platform_lines(chip.platform, width)]
    return "\n".join(lines)


def to_be_surer(chip: Chip) -> list[str]:
    """What would raise its grade, and so narrow the error of its forecasts."""
    device = chip.platform.device_type
    steps = {
        "D": f"No kernel of it was measured. Ten minutes on one of it make the grade C: anychip measure --device {device} --out {chip.id}.csv",
        "C": "Kernels were measured, whole runs of it were not compared. A published one makes the grade B: CONTRIBUTING.md",
        "B": "Whole runs of one source were compared. Those of a second make the grade A: CONTRIBUTING.md",
    }
    return [steps[chip.grade]] if chip.grade in steps else []


def figure_lines(figures: Mapping[str, Figure], width: int) -> list[str]:
    """Every figure with its kind and the number of its source, then the sources, remarks and disputes."""
    sources: dict[str, int] = {}
    rows = [("figure", "value", "kind", "date", "src")]
    for path, figure in figures.items():
        number = str(sources.setdefault(figure.source, len(sources) + 1)) if figure.source else "-"
        known = figure.state == "known"
        kind = figure.kind if known else "-"
        rows.append(
            (path, str(figure).removesuffix(" count"), kind, figure.date or "-", f"[{number}]" if known else "-")
        )
    lines = [table(rows, width, 0), ""]
    lines += [f"[{number}] {source}" for source, number in sources.items()]
    for path, figure in figures.items():
        lines += paragraphs([f"{path}: {figure.note}"] if figure.note else [], width)
        lines += paragraphs([f"{path} is disputed: {'; '.join(figure.disputed)}"] if figure.disputed else [], width)
    return lines


def paragraphs(texts: Sequence[str], width: int) -> list[str]:
    return [line for text in texts for line in textwrap.wrap(f"- {text}", width, subsequent_indent="  ")]


def platform_lines(platform: Platform, width: int) -> list[str]:
    """The platform: how programs name the device, which dtypes work for what, how attention is run."""
    from anychip.spec.fields import USES

    fused = {True: "fused", False: "not fused", None: "unknown"}[platform.attention_fused]
    kernels = f" ({', '.join(platform.attention_kernels)})" if platform.attention_kernels else ""
    rows = [["dtype", *USES]] + [[name, *(row[use] for use in USES)] for name, row in platform.dtypes.items()]
    return [
        f"platform {platform.id}: {platform.vendor} {platform.name}",
        f"device type {platform.device_type}, module {platform.module}, "
        f"collectives {', '.join(platform.collective_backends) or 'unknown'}, attention {fused}{kernels}",
        f"torch versions: {', '.join(platform.versions) or 'unknown'}",
        "",
        table(rows),
        *paragraphs([platform.note] if platform.note else [], width),
    ]


def problems_text(problems: Sequence[Problem], lacking: Sequence[Chip] = ()) -> str:
    """A line for each problem and one for all, and one for each chip of which there is no forecast yet, with the figures it lacks."""
    told = [f"no forecast yet: {chip.lacks(*chip.lacking)}" for chip in lacking]
    return "\n".join([*_problem_lines(problems), *told])


def _problem_lines(problems: Sequence[Problem]) -> list[str]:
    if not problems:
        return ["no problems"]
    files = len({problem.file for problem in problems})
    fixable = sum(problem.fixable for problem in problems)
    hint = f"; {fixable} can be repaired by anychip chips check --fix" if fixable else ""
    total = f"{_many(len(problems), 'problem')} in {_many(files, 'file')}"
    return [*map(str, problems), total + hint]


def _many(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def problems_json(problems: Sequence[Problem], lacking: Sequence[Chip] = ()) -> dict[str, Any]:
    fields = ("file", "line", "path", "rule", "message", "fix", "fixable")
    return {
        "schema": SCHEMA,
        "problems": [{name: getattr(p, name) for name in fields} for p in problems],
        "no_forecast": [{"file": str(chip.file), "unknown": list(chip.lacking)} for chip in lacking],
    }
