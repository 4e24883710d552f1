"""rich's console, which leaves it to the command what a reader that has gone (head, less) means."""

from rich.console import Console


class Screen(Console):
    """Raises BrokenPipeError as print does. rich's own ends the process with exit code 1, which is an answer of ours, before
    files are written that were asked for."""

    def on_broken_pipe(self) -> None:
        raise
