"""From a file to what rules are given: a Module for Python and notebooks, a Plain text with its kind for everything else."""

from anychip.source.module import Module, parse
from anychip.source.notebook import read_notebook
from anychip.source.text import Text


class Plain(Text):
    """A text that is no Python. lines: line of the text -> line of the file, where they differ (shell in notebooks)."""

    def __init__(self, text: str, kind: str, path: str, lines: tuple[int, ...] = ()) -> None:
        super().__init__(text)
        self.kind, self.path, self.lines = kind, path, lines


def read_text(text: str, kind: str, path: str, name: str = "__main__") -> Module | Plain:
    """Raises Unreadable for Python that does not parse."""
    if kind == "python":
        return parse(text, path, name)
    if kind != "notebook":
        return Plain(text, kind, path)
    notebook = read_notebook(text)
    module = parse(notebook.code, path, name)
    module.lines = notebook.lines
    return module


def shell_of(text: str, path: str) -> Plain | None:
    """The shell commands of a notebook's cells."""
    shell = read_notebook(text).shell
    return (
        Plain("\n".join(command for _, command in shell), "shell", path, tuple(line for line, _ in shell))
        if shell
        else None
    )
