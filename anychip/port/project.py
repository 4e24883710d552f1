"""A whole tree moved: `port(path, on=..., out=...)` is what `anychip port` calls.

    files of a tree -> what the project defines itself -> each file by engine or by text rules -> Result -> written, or a diff

The tree is read twice and never held: first for what one file must know of the others, then file by file.
"""

import difflib
import shutil
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from anychip.audit.offers import AS_IS
from anychip.audit.one import findings, own_packages
from anychip.errors import BadUse
from anychip.port import files, notebooks, writing
from anychip.port.edits import Edit, Left, apply, ported_lines
from anychip.port.engine import Ported, port_source
from anychip.port.left import left_of
from anychip.port.proof import Proof, Say, parse, silent
from anychip.port.proof import prove as run_proof
from anychip.port.reached import Place
from anychip.port.reading import File, base_of, find, links, read
from anychip.port.survey import Project, survey
from anychip.port.target import Target, make_target
from anychip.port.unit import Change
from anychip.source.files import kind_of
from anychip.source.text import Text, Unreadable
from anychip.temporary import temporary


@dataclass(frozen=True)
class EditLine:
    """One place that was edited: the lines before and after, and why. ported_line: where it is in the port."""

    rule: str
    file: str
    line: int
    ported_line: int
    symbol: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True)
class LeftLine:
    """One place that was left. kind: harmless (works as it is), thought, kernel or unsure."""

    rule: str
    file: str
    line: int
    symbol: str
    reason: str
    kind: str


@dataclass
class Result:
    """What became of a tree. skipped: file -> why. missing: those that the new tree lacks. diffs: unified diff per changed
    file, where it was asked for."""

    target: Target
    edits: list[EditLine] = field(default_factory=list)
    left: list[LeftLine] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    diffs: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    num_files: int = 0
    num_lines: int = 0
    kernels: list["files.KernelFile"] = field(default_factory=list)
    proof: Proof | None = None

    @property
    def converted(self) -> float | None:
        """Edited share of what could have been edited: harmless, kernels and questions for a person are no such thing."""
        unsure = sum(left.kind == "unsure" for left in self.left)
        occurrences = sum(edit.rule not in ("header", "imports") for edit in self.edits)
        return occurrences / (occurrences + unsure) if occurrences + unsure else None


def port(
    path: str | Path,
    on: str | None = None,
    *,
    out: str | Path | None = None,
    diff: bool = False,
    in_place: bool = False,
    prove: str | None = None,
    prove_on: str | None = None,
    steps: int | None = None,
    progress: Say = silent,
) -> Result:
    """Move the code of a file or folder to portable PyTorch, or with `on` to a chip's plug-in. Nothing of it is run.

    out: folder (new or empty) for the whole tree, ported. diff: keep a unified diff of each changed file in the result.
    in_place: change the files themselves; needs a git work tree without uncommitted changes. None of them: only tell.
    prove: a command that is run, in the folder, before and after (`anychip.port.proof`): this alone runs the program. prove_on: the chip
    that portable code is tried on. steps: of training, after which each of its runs is ended; None for 3.
    progress: called with the text of each stage that takes long; its `note`, if it has one, with how far one is.
    Raises BadUse for a path that is not there or an output that would overwrite, UnknownChip, BadChipFile.
    """
    root, target = Path(path), make_target(on)
    if not root.exists():
        raise BadUse(f"{root}: there is no such file or folder.")
    if out is not None and in_place:
        raise BadUse("--out and --in-place: choose one.")
    if out is not None:
        writing.check_out(Path(out), root)
    if in_place:
        writing.check_clean(root)
    if prove is not None:
        parse(prove, base_of(root))
    before = _kept(base_of(root)) if prove is not None and in_place else None
    result = Result(target)
    base = base_of(root)
    paths = list(find(root, result.skipped))
    project, own = survey((name, base / name) for name in paths), own_packages(paths)
    note: Say = getattr(progress, "note", silent)
    for number, name in enumerate(paths):
        if number % 20 == 0:
            note(f"{number}/{len(paths)} files")
        file = _read(base, name)
        new = _port(file, target, project, own, result, diff) if file is not None else None
        _write(base, name, file, new, result, Path(out) if out is not None else base if in_place else None, in_place)
    if out is not None and root.is_dir():
        for name in links(root):
            writing.copy_link(base, name, Path(out))
    if prove is not None:
        result.proof = _prove(root, Path(out) if out is not None else None, before, prove, target, prove_on, steps,
                              [Place(one.file, one.line, one.ported_line) for one in result.edits if one.rule != "header"], progress)  # fmt: skip
    if out is not None:
        result.kernels += files.hipify(base, paths, Path(out), target)
    else:
        result.kernels += files.kernel_files(base, paths, target)
    return result


def _kept(base: Path) -> Path:
    """A copy of the tree as it was, for the proof of --in-place."""
    kept = Path(tempfile.mkdtemp(prefix="anychip-before-"))
    shutil.copytree(base, kept / "tree", symlinks=True, ignore=shutil.ignore_patterns(".git"))
    return kept / "tree"


def _prove(
    root: Path, out: Path | None, before: Path | None, command: str, target: Target, on: str | None, steps: int | None,
    edits: Sequence[Place], progress: Say,
) -> Proof:  # fmt: skip
    base = base_of(root)
    if out is not None:
        return run_proof(base, out, command, target, on, steps, edits, progress)
    if before is not None:
        try:
            return run_proof(before, base, command, target, on, steps, edits, progress)
        finally:
            shutil.rmtree(before.parent, ignore_errors=True)
    with temporary("after-") as folder:
        port(root, None if target.portable else target.name, out=folder / "tree")
        return run_proof(base, folder / "tree", command, target, on, steps, edits, progress)


def _read(base: Path, name: str) -> File | None:
    """A file that some rule looks at; None for every other, which is copied as it is."""
    if kind_of(name) not in ("python", "notebook") and not files.is_of_interest(name):
        return None
    return read(base, name)


def _port(file: File, target: Target, project: Project, own: frozenset[str], result: Result, diff: bool) -> str | None:
    """The new text of a file, None if it stays; fills the result. own: packages of the project itself."""
    result.num_files += 1
    if file.problem:
        result.skipped[file.path] = file.problem
        return None
    result.num_lines += file.text.count("\n") + (not file.text.endswith("\n") and bool(file.text))
    if kind_of(file.path) == "notebook":
        ported = notebooks.port_notebook(file.text, target, project)
    elif kind_of(file.path) == "python":
        ported = port_source(file.text, target, project)
    else:
        ported = files.port_text(file.path, file.text, target)
    if ported.problem:
        result.skipped[file.path] = ported.problem
    if target.has_device:
        ported = replace(ported, left=_left(file, ported, target, own))
    _tell(file.path, ported, result)
    if ported.text == file.text:
        return None
    try:
        file.bytes_of(ported.text)
    except UnicodeEncodeError as error:
        result.skipped[file.path] = f"its encoding has no character for an edit: {error}"
        return None
    result.changed.append(file.path)
    if diff:
        result.diffs[file.path] = unified(file.path, file.text, ported.text)
    return ported.text


def _left(file: File, ported: Ported, target: Target, own: frozenset[str]) -> tuple[Left, ...]:
    """What the audit finds in the file and no edit takes care of; of a chip that calls itself CUDA what runs there is none.
    own: packages of the project itself."""
    kind = kind_of(file.path) or ""
    try:
        if kind == "notebook":
            found = findings(ported.source.text, "python", file.path, own)
            found += findings(notebooks.shell_of(file.text), "shell", file.path, own)
        else:
            found = findings(ported.source.text, kind, file.path, own)
    except Unreadable:
        return ported.left
    if target.masked:
        found = [one for one in found if target.offers.for_finding(one).verdict != AS_IS]
    return left_of(ported.source, found, ported.changes, ported.left, target.libraries)


def _tell(path: str, ported: Ported, result: Result) -> None:
    """Every change and everything left, with its line and its text."""
    source = ported.source
    result.left += [
        LeftLine(left.rule, path, source.line_of(left.offset), left.symbol, left.reason, left.kind)
        for left in ported.left
    ]
    edits = sorted(ported.edits, key=lambda edit: edit.start)
    changes = sorted(ported.changes, key=lambda change: change.offset)
    lines = ported_lines(source, edits, [change.offset for change in changes])
    for change, line in zip(changes, lines, strict=True):
        result.edits.append(_edit_line(path, ported, change, edits, line))
    for edit in ported.header:
        line = source.line_of(edit.start)
        result.edits.append(EditLine("header", path, line, line, "", "", edit.text.strip("\r\n"), edit.reason))


def _edit_line(path: str, ported: Ported, change: Change, edits: list[Edit], ported_line: int) -> EditLine:
    """The lines that a change stands on, before and after all edits of those lines. edits: of the file, by place."""
    source = ported.source
    first, last = (
        source.line_of(change.pieces[0].start),
        source.line_of(max(change.pieces[-1].end - 1, change.pieces[0].start)),
    )
    if change.rule == "imports":
        last = first
    start = source.starts[first - 1]
    end = source.starts[last] if last < len(source.starts) else len(source.data)
    first_edit, last_edit = (
        bisect(edits, place, key=lambda e: e.start) for bisect, place in ((bisect_left, start), (bisect_right, end))
    )
    inside = [
        e
        for e in edits[first_edit:last_edit]
        if start <= e.start and e.end <= end and e.rule != "header" and (e.start < end or e.end > e.start)
    ]
    moved = [Edit(e.start - start, e.end - start, e.text, e.rule, e.reason) for e in inside]
    before = source.slice(start, end)
    after = apply(Text(before), moved)
    return EditLine(
        change.rule, path, first, ported_line, change.symbol, before.rstrip("\r\n"), after.rstrip("\r\n"), change.reason
    )  # fmt: skip


def _write(
    base: Path, name: str, file: File | None, new: str | None, result: Result, into: Path | None, in_place: bool
) -> None:
    if into is None or (in_place and new is None):
        return
    if new is None or file is None:
        if (base / name).is_file():
            try:
                writing.copy_whole(base / name, into / name)
            except PermissionError as error:
                result.skipped[name] = f"cannot be copied: {error.strerror}"
                result.missing.append(name)
        return
    writing.write_whole(into / name, file.bytes_of(new), like=base / name, durable=in_place)


def unified(path: str, old: str, new: str) -> str:
    """A diff that `git apply` and `patch -p1` take."""
    lines = difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{path}", f"b/{path}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


__all__ = ["EditLine", "Left", "LeftLine", "Result", "port"]
