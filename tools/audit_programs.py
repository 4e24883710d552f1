"""`anychip audit` and `anychip port` on public programs that nobody here wrote: one row each. Part of `make real-programs`.

    python tools/audit_programs.py [NAME...] [--programs FOLDER] [--out FOLDER] [--again]

The programs are in audit_programs.csv, with the commits that they were read at; one that is not in $ANYCHIP_PROGRAMS (or
../programs), as NAME or OWNER+NAME, is named and skipped. Columns:

  bound        lines that audit reports, without places that a device name only reaches
  recall       of the lines that plainly name CUDA by their words (count_cuda.py), the share that audit reports
  labelled     of lines that people labelled without having seen the rules (audit_labels.csv), those where audit says the same
  converted    edited share of what port could have edited; unsure: what it left because it was not certain
  left         places that need a person: a decision or another kernel; harmless: those that work as they stand
  broken       files that no longer parse, or that a second port would change again

The table is written to OUT/audit_programs.md, each result to OUT/results.
"""

import argparse
import csv
import gc
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from count_cuda import lines_of

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TABLE, LABELS = Path(__file__).with_suffix(".csv"), Path(__file__).with_name("audit_labels.csv")
QUIET = ("flow", "age")
ALL = "**all**"


def mark(line: str) -> str:
    """What tells whether a labelled line is still the same."""
    return hashlib.blake2b(line.strip().encode("utf-8", "replace"), digest_size=6).hexdigest()


def measure(folder: Path, labels: list[dict[str, str]]) -> dict[str, Any]:
    began = time.process_time()
    audited, reported = audit_row(folder)
    took = time.process_time() - began
    return {
        **audited, "audit_s": took, **labelled(folder, labels, reported), **port_row(folder),
    }  # fmt: skip


def audit_row(folder: Path) -> tuple[dict[str, Any], set[tuple[str, int]]]:
    """The audit's own figures, and (path, line) of all that it reports."""
    from anychip.audit.engine import audit

    answer = audit(folder, jobs=1, cache=False)
    starts, lines = set(), set()
    for found in answer.findings:
        place = found.place
        lines.update((found.path, line) for line in range(place.line, max(place.line, place.end_line) + 1))
        if found.severity not in QUIET:
            starts.add((found.path, place.line))
    plain, missed = second_opinion(folder, lines, {skip.path for skip in answer.skipped})
    return {
        "lines": answer.num_lines, "score": round(answer.score, 1), "bound": len(starts), "skipped": len(answer.skipped),
        "plain": plain, "missed": len(missed), "missed_at": missed[:200],
    }, starts  # fmt: skip


def second_opinion(folder: Path, reported: set[tuple[str, int]], skipped: set[str]) -> tuple[int, list[str]]:
    """Lines that name CUDA by their words, and which of them are not reported."""
    plain, missed = 0, []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and ".git" not in p.parts):
        name = path.relative_to(folder).as_posix()
        if name in skipped or path.stat().st_size > 5_000_000:
            continue
        numbers = (
            lines_of(name, path.read_text("utf-8", "replace")) if path.suffix or path.name == "Dockerfile" else set()
        )
        plain += len(numbers)
        missed += [f"{name}:{line}" for line in sorted(numbers) if (name, line) not in reported]
    return plain, missed


def labelled(folder: Path, labels: list[dict[str, str]], reported: set[tuple[str, int]]) -> dict[str, Any]:
    """Where audit and the label say the same, by label. Lines that are others by now are left out."""
    same: Counter[str] = Counter()
    apart = []
    for label in labels:
        path, line = folder / label["file"], int(label["line"])
        lines = path.read_text("utf-8", "replace").split("\n") if path.is_file() else []
        if line > len(lines) or mark(lines[line - 1]) != label["mark"] or label["bound"] == "unsure":
            continue
        says = "yes" if (label["file"], line) in reported else "no"
        same[f"{label['bound']}-{says}"] += 1
        if says != label["bound"]:
            apart.append(f"{label['file']}:{line} {label['bound']}")
    return {"labels": dict(same), "apart": apart}


def port_row(folder: Path) -> dict[str, Any]:
    """Every Python file ported to portable PyTorch, and what came out ported again."""
    from anychip.port.engine import port_source
    from anychip.port.reading import find, read
    from anychip.port.survey import survey
    from anychip.port.target import make_target

    target, paths = make_target(None), list(find(folder))
    project = survey((name, folder / name) for name in paths)
    counts: Counter[str] = Counter()
    broken, unsure = [], []
    began = time.process_time()
    for name in paths:
        file = read(folder, name) if name.endswith(".py") else None
        if file is None or file.problem:
            continue
        counts["python_lines"] += file.text.count("\n")
        new = port_source(file.text, target, project)
        if new.problem:
            counts["unread"] += 1
            broken += [name] if "what was made of it" in new.problem else []
            continue
        counts["edits"] += sum(change.rule != "imports" for change in new.changes)
        counts.update(left.kind for left in new.left)
        unsure += [
            f"{name}:{new.source.line_of(left.offset)} {left.symbol[:40]}" for left in new.left if left.kind == "unsure"
        ]
        if new.text != file.text and port_source(new.text, target, project).text != new.text:
            broken.append(f"{name} (twice)")
    took = time.process_time() - began
    return {"port": dict(counts), "unsure_at": unsure[:100], "broken": broken, "port_s": took}


# ---------------------------------------------------------------- the table

_HEAD = (
    "| program | lines | score | bound | recall | labelled | edits | converted | unsure | left | harmless | broken |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""


def row(name: str, result: dict[str, Any]) -> str:
    port, labels = Counter(result["port"]), Counter(result["labels"])
    same, told = labels["yes-yes"] + labels["no-no"], sum(labels.values())
    return (
        f"| {name} | {result['lines']:,} | {'' if name == ALL else round(result['score'])} | {result['bound']:,} "
        f"| {share(result['plain'] - result['missed'], result['plain'])} of {result['plain']:,} | {f'{same} of {told}' if told else ''} "
        f"| {port['edits']:,} | {share(port['edits'], port['edits'] + port['unsure'])} | {port['unsure']} "
        f"| {port['thought'] + port['kernel']:,} | {port['harmless']:,} | {len(result['broken'])} |"
    )


def total(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The sum of all rows; the score is none."""
    every = list(results.values())
    summed = {key: sum(one[key] for one in every) for key in ("lines", "bound", "plain", "missed", "audit_s", "port_s")}
    port, labels = (sum((Counter(one[key]) for one in every), Counter()) for key in ("port", "labels"))
    return {**summed, "score": 0, "port": port, "labels": labels, "broken": [b for one in every for b in one["broken"]]}


def table(results: dict[str, dict[str, Any]]) -> str:
    whole = total(results)
    labels = whole["labels"]
    lines = [
        "# Audit and port on public programs",
        "",
        "Written by tools/audit_programs.py, which says what the columns are.",
        "",
        _HEAD,
    ]
    lines += [row(name, result) for name, result in results.items()]
    lines += [row(ALL, whole), ""]
    if labels:
        lines.append(
            f"Labels: {sum(labels.values())} lines; audit agrees on {share(labels['yes-yes'] + labels['no-no'], sum(labels.values()))}, "
            f"precision {share(labels['yes-yes'], labels['yes-yes'] + labels['no-yes'])}, "
            f"recall {share(labels['yes-yes'], labels['yes-yes'] + labels['yes-no'])}."
        )
    lines.append(
        f"Audit {whole['lines'] / max(whole['audit_s'], 1e-9):,.0f} lines/s, port "
        f"{whole['port']['python_lines'] / max(whole['port_s'], 1e-9):,.0f} lines/s of Python (twice where edited), on one core."
    )
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="only these, as OWNER/NAME, and again")
    parser.add_argument(
        "--programs", type=Path, default=Path(os.environ.get("ANYCHIP_PROGRAMS", ROOT.parent / "programs"))
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "audit-programs")
    parser.add_argument("--again", action="store_true", help="also those that have a result")
    args = parser.parse_args(argv)
    gc.disable()  # trees are freed by counting references
    labels = list(csv.DictReader(LABELS.open(encoding="utf-8"))) if LABELS.exists() else []
    results = {}
    for entry in csv.DictReader(TABLE.open(encoding="utf-8")):
        repo = entry["repo"]
        if args.names and repo not in args.names:
            continue
        kept = args.out / "results" / f"{repo.replace('/', '+')}.json"
        folder = next(
            (f for f in (args.programs / repo.replace("/", "+"), args.programs / repo.split("/")[1]) if f.is_dir()),
            None,
        )
        if not kept.exists() or args.again or args.names:
            if folder is None:
                print(f"{repo}: not in {args.programs}; https://github.com/{repo} at {entry['commit'][:10]} goes there")
                continue
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(
                json.dumps(measure(folder, [one for one in labels if one["repo"] == repo])), encoding="utf-8"
            )
            gc.collect()
        results[repo] = json.loads(kept.read_text(encoding="utf-8"))
        print(row(repo, results[repo]), flush=True)
    if results:
        (args.out / "audit_programs.md").write_text(table(results), encoding="utf-8")
        print(table(results).split("|\n")[-1].strip())
    return int(any(result["broken"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
