"""All problems of all files at once: the schema's, then those of the lint rules.

In: paths of files or folders, or nothing for every file that can be found. Out: a list of `Problem`, by file and line.
A lint rule is a module in anychip/spec/lint/; a new one is a new file there and nothing else.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from anychip.errors import AnychipError, BadUse
from anychip.spec import catalogue
from anychip.spec.chip import Chip
from anychip.spec.context import Context, Subject, subject
from anychip.spec.fields import SCHEMAS
from anychip.spec.load import joined_problems, load_chip, read_parents
from anychip.spec.problem import Problem
from anychip.spec.sound import sound
from anychip.spec.tables import KINDS as TABLES
from anychip.spec.tables import check_table, kind_of
from anychip.spec.toml import Document, parse, read
from anychip.spec.validate import validate

_LINT = Path(__file__).parent / "lint"
MAX_FIX_ROUNDS = 5


@cache
def rules() -> tuple[ModuleType, ...]:
    """Every lint rule by name: a module with RULE, ABOUT, `check(subject, context)` and, if it can, `fix`. SCHEMAS: of which files
    (default: chips). WRITTEN: it looks at a file as it is written, with what the schema refuses."""
    names = sorted(file.stem for file in _LINT.glob("*.py") if not file.stem.startswith("_"))
    return tuple(import_module(f"anychip.spec.lint.{name}") for name in names)


def check(paths: Sequence[str | Path] | None = None) -> list[Problem]:
    """Every problem of the given files and folders, of all files where none is given. Raises BadUse for one that is not there."""
    files = all_files() if not paths else list(_files(paths))
    context = Context.of_all(files)
    found = [problem for file in files for problem in _check_file(file, context)]
    return sorted(found, key=lambda p: (p.file, p.line or 0, p.path))


def lacking(paths: Sequence[str | Path]) -> list[Chip]:
    """The chips among the given files and folders that lack a figure that every forecast needs (`Chip.lacking`). Files that
    cannot be read as a chip are left out: `check` tells why."""
    found: list[Chip] = []
    for file in _files(paths):
        if file.suffix == ".toml" and schema_of(read(file)) == "chips":
            with contextlib.suppress(AnychipError):
                found.append(load_chip(file))
    return [chip for chip in found if chip.lacking]


def _check_file(file: Path, context: Context) -> list[Problem]:
    return check_table(file) if _is_table(file) else check_document(read(file), context)


def _is_table(file: Path) -> bool:
    return kind_of(file) is not None


def all_files() -> list[Path]:
    documents = [file for kind in SCHEMAS for file in catalogue.files(kind)]
    return documents + [file for kind in TABLES for file in catalogue.files(kind, ".csv")]


def _files(paths: Sequence[str | Path]) -> Iterator[Path]:
    missing = [str(path) for path in paths if not Path(path).exists()]
    if missing:
        raise BadUse(
            f"there is no such file or folder: {', '.join(missing)}. To begin a chip: anychip chips new --like CHIP"
        )
    for place in map(Path, paths):
        if place.is_dir():
            found = sorted(file for file in place.rglob("*") if file.suffix == ".toml" or _is_table(file))
            if not found:
                raise BadUse(f"there is nothing to check in {place}: no .toml and no table of measurements.")
            yield from found
        else:
            yield place.resolve() if place.is_file() else place


def schema_of(doc: Document) -> str:
    """ "chips", "platforms", "links" or "clusters": by the folder, else by the fields that it has."""
    if doc.file.parent.name in SCHEMAS:
        return doc.file.parent.name
    marks = {"platforms": "device_type", "links": "wire", "clusters": "node"}
    return next((kind for kind, mark in marks.items() if mark in doc.table), "chips")


def check_document(doc: Document, context: Context) -> list[Problem]:
    """Schema problems, what is wrong with what it extends, and what the lint rules find in all that is sound."""
    schema = schema_of(doc)
    problems = validate(doc, schema)
    rest = sound(doc, problems)
    if doc.problems or validate(rest, schema, partial=True):
        return problems
    parents: list[Document] = []
    if schema == "chips" and "extends" in doc.table:
        rest, parents, found = _inherited(rest) if "extends" in rest.table else (_alone(rest), [], [])
        known = {problem.path for problem in problems}
        problems += [problem for problem in found if problem.path not in known]
    item, written = subject(rest, schema, parents), Subject(doc, schema, doc.table, None, {})
    for rule in rules():
        problems += _apply(rule, written if hasattr(rule, "WRITTEN") else item, context)
    return problems


def _inherited(doc: Document) -> tuple[Document, list[Document], list[Problem]]:
    """What is sound of a file in view of those that it extends, these, and what is wrong with the whole. One that is missing, or wrong
    itself, is told where it is named, and the file is looked at by itself."""
    try:
        parents = read_parents(doc)
    except AnychipError as error:
        line = doc.line("extends")
        told = _first_line(error).removeprefix(f"{doc.file}:{line}: extends: ")
        return _alone(doc), [], [Problem(str(doc.file), line, "extends", told)]
    found = joined_problems([doc, *parents])
    return sound(doc, found), parents, found


def _alone(doc: Document) -> Document:
    """What is sound of a variant by itself, without the sources of what it extends."""
    alone = Document(doc.file, doc.text, {key: value for key, value in doc.table.items() if key != "extends"})
    return sound(alone, validate(alone))


def _apply(rule: ModuleType, item: Subject, context: Context) -> Iterable[Problem]:
    if item.schema in getattr(rule, "SCHEMAS", ("chips",)):
        yield from rule.check(item, context)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return "; ".join(line.strip() for line in lines)


def fix(paths: Sequence[str | Path] | None = None) -> list[Path]:
    """Mend what the rules with a fixer can mend, in place; returns the files that changed.

    Only files that the schema accepts are touched, and a mended file is written only if it has fewer problems.
    """
    files = [file for file in (list(_files(paths)) if paths else all_files()) if not _is_table(file)]
    context = Context.of_all(files)
    return [file for file in files if _fix_file(file, context)]


def _fix_file(file: Path, context: Context) -> bool:
    before = read(file)
    text = fixed_text(before, context)
    if text == before.text:
        return False
    file.write_text(text, encoding="utf-8")
    return True


def fixed_text(doc: Document, context: Context) -> str:
    """The document's text after every fixer, until nothing more changes."""
    for _ in range(MAX_FIX_ROUNDS):
        problems = check_document(doc, context)
        text = _mended(doc, problems)
        if text == doc.text:
            break
        after = parse(doc.file, text.encode())
        if len(check_document(after, context)) >= len(problems):
            break
        doc = after
    return doc.text


def _mended(doc: Document, problems: Sequence[Problem]) -> str:
    """The text with the first problem mended that a rule can mend."""
    if any(problem.rule in ("toml", "schema") for problem in problems):
        return doc.text
    fixers = {rule.RULE: rule.fix for rule in rules() if hasattr(rule, "fix")}
    for problem in problems:
        if problem.fixable and problem.rule in fixers:
            text: str = fixers[problem.rule](doc.text, problem)
            if text != doc.text:
                return text
    return doc.text
