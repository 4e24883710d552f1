"""A variant that changes the arithmetic of its parent in one dtype and inherits it in another."""

from collections.abc import Iterator

from anychip.spec.context import Context, Subject
from anychip.spec.problem import Problem

RULE = "half-a-variant"
ABOUT = "A variant with its own 16-bit peak has its own matrix peaks in every dtype, dense and sparse."

_HALF = ("peaks.matrix.bf16", "peaks.matrix.fp16")


def check(subject: Subject, context: Context) -> Iterator[Problem]:
    if subject.parent is None or not any(subject.writes(path) for path in _HALF):
        return
    for path, figure in subject.figures.items():
        if path.startswith(("peaks.matrix.", "peaks.matrix_sparse.")) and figure.value and not subject.writes(path):
            message = f"{figure.printed} is inherited from a chip with another 16-bit peak"
            yield subject.problem(RULE, path, message, 'its own figure, or "unknown"')
