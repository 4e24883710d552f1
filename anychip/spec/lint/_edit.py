"""Small edits of TOML text that keep everything else as it stands."""

from anychip.spec.problem import Problem


def without_line(text: str, problem: Problem) -> str:
    """The text without the problem's line."""
    lines = text.splitlines(keepends=True)
    if problem.line is None or problem.line > len(lines):
        return text
    return "".join(lines[: problem.line - 1] + lines[problem.line :])


def replaced_in_line(text: str, problem: Problem, old: str, new: str) -> str:
    """The text with `old` written as `new` on the problem's line, once."""
    lines = text.splitlines(keepends=True)
    if problem.line is None or problem.line > len(lines):
        return text
    at = problem.line - 1
    lines[at] = lines[at].replace(old, new, 1)
    return "".join(lines)
