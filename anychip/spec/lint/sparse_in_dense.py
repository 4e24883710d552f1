"""A sparse peak in a dense field: makers print the sparse one, twice as large."""

from collections.abc import Iterator

from anychip.spec.context import Context, Subject
from anychip.spec.problem import Problem

RULE = "sparse-in-dense"
ABOUT = "Peaks of the matrix engine are dense; sparse ones have their own table."

# Each pair: a dtype and a wider one, and how much faster the narrow one can be on the same dense engine.
_RATIOS = (("bf16", "tf32", 2.0), ("fp16", "tf32", 2.0), ("fp8", "bf16", 2.0), ("int8", "bf16", 2.0))
_SLACK = 1.9


def check(subject: Subject, context: Context) -> Iterator[Problem]:
    dense = {p.rsplit(".", 1)[1]: f.value for p, f in subject.figures.items() if p.startswith("peaks.matrix.")}
    for dtype, value in dense.items():
        path = f"peaks.matrix.{dtype}"
        sparse = subject.value(f"peaks.matrix_sparse.{dtype}")
        note = subject.figures[path].note.lower()
        if value and sparse and value >= sparse:
            yield subject.problem(RULE, path, "the dense peak is not below the sparse one", "write the dense figure")
        elif value and "sparse" in note and "dense" not in note:
            yield subject.problem(RULE, path, "its note says sparse", "move it to [peaks.matrix_sparse]")
    yield from _odd_one_out(subject, dense)


def _odd_one_out(subject: Subject, dense: dict[str, float | None]) -> Iterator[Problem]:
    for narrow, wide, times in _RATIOS:
        fast, slow = dense.get(narrow), dense.get(wide)
        path = f"peaks.matrix.{narrow}"
        if fast and slow and fast >= slow * times * _SLACK and path not in _explained(subject):
            message = f"{narrow} is {fast / slow:.3g} times {wide}: is it the sparse figure?"
            yield subject.problem(RULE, path, message, "write the dense figure, or say why in a note")


def _explained(subject: Subject) -> set[str]:
    return {path for path, figure in subject.figures.items() if figure.note or figure.disputed}
