"""Files that are written whole or not at all, and what a command says of one that cannot be written."""

import os
import select
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from anychip.errors import BadUse

TO_STDOUT = ("json", "sarif")  # outputs, by their options, that `-` writes there
SOURCES = (".py", ".ipynb", ".toml", ".sh", ".cu")  # of files that no result is written over


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Where to write what is to stand at `path`: beside it, renamed in the end, so that a reader never sees half of it and
    a failure leaves the old one. A device or a pipe is written to as it is: a file must not take its place."""
    path = Path(path)
    if path.exists() and not path.is_file():
        yield path
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def put(path: str | os.PathLike[str], data: bytes | str) -> None:
    """All that a file has; text in UTF-8."""
    with whole(path) as place:
        place.write_bytes(data.encode() if isinstance(data, str) else data)


def check_writable(path: str | None, sources: tuple[str, ...] = SOURCES) -> None:
    """Raise BadUse if a file cannot be written there: told before minutes are spent on what would go into it."""
    if path is None or path == "-":
        return
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise BadUse(f"{path}: is a folder; name a file in it.")
    if os.path.isfile(path) and path.endswith(sources):
        raise BadUse(f"{path}: is there, and is no result: name another file, or give what is read before the option.")
    if not os.path.isdir(folder):
        raise BadUse(f"{path}: there is no folder {folder}.")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise BadUse(f"{path}: no permission to write there.")


def check_apart(outputs: Mapping[str, str | None], read: Iterable[str]) -> None:
    """Raise BadUse where two outputs, by the names of their options, are one file, one is a file that is read, or one would be a file
    called `-`, which others take for stdout."""
    told = {os.path.realpath(path): "" for path in read}
    for name, path in outputs.items():
        option = f"--{name.replace('_', '-')}"
        if path == "-" and name not in TO_STDOUT:
            raise BadUse(f"{option} is not written to stdout: name a file.")
        if path is None or path == "-":
            continue
        other = told.setdefault(os.path.realpath(path), option)
        if not other:
            raise BadUse(f"{option} {path} would write over what is read.")
        if other != option:
            raise BadUse(f"{other} and {option} would both write {path}.")


def write(path: str, text: str, quiet: bool = False) -> None:
    """Write text to a file, which is told unless quiet, or to stdout if the path is -; names that are no text as they were."""
    if path == "-":
        with printed():
            print(text)
        return
    check_writable(path)
    with written(path), whole(path) as place:
        place.write_text(text + "\n", encoding="utf-8", errors="surrogateescape")
    tell_written(path, quiet)


@contextmanager
def printed() -> Iterator[None]:
    """What is printed inside goes nowhere once its reader (head, less) has left: files that were asked for, and the exit code, are
    as ever."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        mute()


def mute() -> None:
    """Send nowhere what stdout and stderr still get, each where its reader has left: python would complain again at exit."""
    for stream in (sys.stdout, sys.stderr):
        watched = select.poll()
        watched.register(stream.fileno(), 0)
        if watched.poll(0):  # of no events asked for there are those of an error
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def tell_written(path: str | os.PathLike[str], quiet: bool = False) -> None:
    """On stderr, as every command does of every file that it was asked to write."""
    if not quiet:
        with printed():
            print(f"anychip: wrote {os.fspath(path)}", file=sys.stderr)


@contextmanager
def written(path: str | None) -> Iterator[None]:
    """What is written inside is written there: where it cannot be, BadUse says so."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise BadUse(f"{path}: cannot be written: {error.strerror or error}.") from None
