"""What a program saves of a chip on which nothing is computed: it is there while the program runs, and gone afterwards.

A forecast must not replace a checkpoint by one without values, delete those that it stands for, or leave one that the next
real run would resume from. So what is at a checkpoint's path is put aside before the program writes, replaces, moves or
removes it, once a model on the chip was called or where what is saved lies there; `kept.put_back`, in the process that started
it, makes it all as it was, however the program ended. Files of other kinds (logs, tables, caches of data) are the program's
own business, but for those in a folder that it made for a checkpoint: the next run would take it for one. Those that were
there before are told (`written`).

The ranks of a job run one after another here. So what a rank saved is hidden when it ends, and what was there before is there
again: the next one would find the checkpoint of a run that has begun with it, and resume from it. `torch.load` finds it yet:
others load what the first saved.
"""

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from anychip.device.files.kept import (
    ASIDE,
    HIDDEN,
    JOURNAL,
    asides,
    beside,
    entries,
    entry_of,
    files_in,
    full,
    is_file,
    is_ours,
    locked,
    place_of,
    remove_empty,
    same,
    second_name,
    wait_for_turn,
    write,
)  # fmt: skip
from anychip.device.files.written import Written, how

CHECKPOINTS = frozenset({".pt", ".pth", ".ckpt", ".tar", ".safetensors", ".distcp", ".pkl", ".bin"})
INDEX = ".metadata"  # of a folder of `.distcp` files: says what lies where in them


class Saved:
    """The checkpoints that this process touches. folder: of the recording. begun: whether a model on the chip was called."""

    def __init__(self, folder: Path, begun: Callable[[], bool]) -> None:
        self.folder, self.journal, self.begun = folder, folder / JOURNAL, begun
        self.journal.mkdir(exist_ok=True)
        self.written = Written(folder)
        self._own = threading.local()  # what this code does raises audit events, too
        self._touched: dict[str, None] = {}  # paths, by this process
        self._turns: set[str] = set()  # folders in which it is this recording's turn to save
        self._made: set[str] = set()  # files of other kinds, which may become checkpoints
        self._folders: set[str] = set()  # that the program made
        self._moved: set[str] = set()  # those of them that it has renamed since, or what they are in

    def install(self) -> None:
        """Watch files by Python's audit events; torch's own writer opens them in C++."""
        import torch

        save, load = torch.save, torch.load

        @wraps(save)
        def keep_and_save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
            if isinstance(f, str | os.PathLike):
                self._note_written(f, how(os.O_TRUNC))
                if self.begun() or _lies_on_chip(obj):
                    self.keep(f)
            save(obj, f, *args, **kwargs)

        @wraps(load)
        def load_hidden(f: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(f, str | os.PathLike):
                self._wait_for_turn(os.path.dirname(full(f)), saves=False)
            missing = isinstance(f, str | os.PathLike) and not os.path.exists(f)
            hidden = beside(full(f), HIDDEN, self.folder) if missing else ""
            return load(hidden if os.path.isfile(hidden) else f, *args, **kwargs)

        hide_names()
        torch.save = torch.serialization.save = keep_and_save
        torch.load = torch.serialization.load = load_hidden
        watched: dict[str, Callable[..., None]] = {
            "open": self._opens, "os.rename": self._renames, "os.remove": self._removes, "os.rmdir": self._removes_empty, "os.mkdir": self._makes,
            "os.link": self._links_hard, "os.symlink": self._links, "shutil.copyfile": self._copies,
            "shutil.rmtree": self._removes_all,
        }  # fmt: skip

        def audit(event: str, args: tuple[Any, ...]) -> None:
            if event in watched and not hasattr(self._own, "busy"):
                self._sees(event, args)
                if self.begun() or self._touched:
                    watched[event](*args)

        sys.addaudithook(audit)

    def _sees(self, event: str, args: tuple[Any, ...]) -> None:
        """Note files before they change, and folders, also before a model is called: tables are opened first."""
        path = args[0]
        if event == "os.mkdir" and args[2] == -1 and not os.path.lexists(path):
            self._folders.add(place_of(path))
        elif event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR) and isinstance(path, str | bytes | os.PathLike):
            self._note_written(path, how(args[2]))
        elif event == "os.rename":
            source = place_of(path)
            self._moved.update(one for one in self._folders if f"{one}/".startswith(f"{source}/"))
            self._note_written(path, how(0))
            self._note_written(args[1], how(os.O_TRUNC))
        elif event == "os.remove" and args[1] == -1:
            self._note_written(path, how(0))

    def _note_written(self, path: Any, kind: str) -> None:
        self._own.busy = True
        try:
            self.written.note(path, kind)
        finally:
            del self._own.busy

    def keep(self, path: Any) -> None:
        """Remember a path before the program writes to it; what is there is put aside. Of a symbolic link: what it leads to."""
        self._note(full(path))

    def _note(self, place: str, *, stays: bool = False, folder: str | None = None) -> None:
        """Remember a place. stays: what is there is moved or removed by the program, and gets a second name. folder: that it is moved
        or removed with."""
        self._wait_for_turn(os.path.dirname(place), saves=True)
        with self._at_work():
            entry = entry_of(self.journal, place)
            self._touched[place] = None
            if entry.exists():
                if not stays and os.path.isfile(place) and os.stat(place).st_nlink > 1:
                    os.remove(place)  # what is aside may be the same file under another name
                return
            if place in self._made or not os.path.lexists(place):
                write(entry, place, None)
            elif is_file(place):  # no folder, device, socket
                self._put_aside(entry, place, beside(place, ASIDE, self.folder, folder), stays)

    def _wait_for_turn(self, folder: str, *, saves: bool) -> None:
        """Forecasts of one program, of this command or of another, save in one folder one after the other."""
        if folder not in self._turns:
            self._own.busy = True
            try:
                wait_for_turn(folder, self.folder, saves=saves)
            finally:
                del self._own.busy
            if saves:
                self._turns.add(folder)

    def _put_aside(self, entry: Path, place: str, kept: str, stays: bool) -> None:
        others = [one for one, runs in asides(place, self.folder) if runs]
        try:
            os.makedirs(os.path.dirname(kept), exist_ok=True)
            write(entry, place, kept)
            if others:  # what is there has no values either: another forecast put it there
                second_name(others[0], kept)
                if not stays:
                    os.remove(place)
            else:
                (second_name if stays else os.rename)(place, kept)
        except OSError:  # the folder cannot be written
            entry.unlink(missing_ok=True)
            remove_empty(os.path.dirname(kept))
            kept = str(self.journal / f"{entry.name}{ASIDE}")
            shutil.copy2(place, kept, follow_symlinks=False)
            write(entry, place, kept)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self._own.busy = True
        try:
            with locked(self.journal):
                yield
        finally:
            del self._own.busy

    def hide(self) -> None:
        """This rank ends: those after it begin without what it saved, and with what it replaced."""
        with self._at_work():
            for path, kept in entries(self.journal):
                if path not in self._touched or _is_of_all_ranks(path):
                    continue
                if is_file(path) and not (kept and is_file(kept) and same(path, kept)):
                    hidden = beside(path, HIDDEN, self.folder)
                    os.makedirs(os.path.dirname(hidden), exist_ok=True)
                    os.replace(path, hidden)
                if kept and os.path.lexists(kept) and not os.path.lexists(path):
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    second_name(kept, path)
            for path in self._moved:  # the others wait for it, and have yet to save into it
                os.makedirs(path, exist_ok=True)
                if not (entry := entry_of(self.journal, path)).exists():
                    write(entry, path, None)

    def _opens(self, path: Any, _: Any, flags: int) -> None:
        """By its flags, which also `os.open` has: temporary files that take a checkpoint's place are made by it."""
        if not isinstance(path, str | bytes | os.PathLike):
            return
        new = flags & os.O_CREAT and not os.path.lexists(path)
        if _is_checkpoint(path) and (new or (flags & os.O_TRUNC and not flags & os.O_EXCL)):
            self.keep(path)
        elif new:
            self._made.add(place_of(path))

    def _copies(self, source: Any, target: Any, *_: int) -> None:
        if self._keeps(source) or _is_checkpoint(target):
            self.keep(target)

    def _links_hard(self, source: Any, target: Any, *_: int) -> None:
        if not os.path.lexists(target):  # else it fails
            self._copies(source, target)

    def _links(self, to: Any, path: Any, _: int) -> None:
        place = place_of(path)
        if not os.path.lexists(place) and self._leads_to_checkpoint(
            os.path.join(os.path.dirname(place), os.fsdecode(to))
        ):
            self._note(place)

    def _renames(self, source: Any, target: Any, *_: int) -> None:
        source, target = place_of(source), place_of(target)
        if os.path.isdir(source) and not os.path.islink(source):
            self._clear(source)
            if self._keeps(source):
                self._note(target)
            for path in [one for one in self._folders if f"{one}/".startswith(f"{source}/")]:
                self._note(target + path[len(source) :])
            for path in files_in(source):
                if self._keeps(path):
                    self._note(os.path.join(target, os.path.relpath(path, source)))
        elif self._keeps(source) or _is_checkpoint(source) or _is_checkpoint(target) or self._is_link(source):
            self._note(source, stays=True)
            self._note(target)

    def _makes(self, path: Any, _: int, folder: int) -> None:
        if folder == -1 and not os.path.lexists(path):
            self._note(place_of(path))

    def _removes(self, path: Any, folder: int) -> None:
        if folder == -1 and (_is_checkpoint(path) or self._is_link(path)):
            self._note(place_of(path), stays=True)

    def _removes_all(self, path: Any, *_: Any) -> None:
        self._clear(place_of(path))

    def _removes_empty(self, path: Any, folder: int) -> None:
        if folder == -1:
            self._clear(place_of(path))

    def _clear(self, folder: str) -> None:
        """A folder is moved or removed: what was put aside in it goes beside it, and so does all that is in it where checkpoints of
        before are, since they are read together."""
        inside = folder + os.sep
        with self._at_work():
            for path, kept in entries(self.journal):
                if kept and kept.startswith(inside) and os.path.lexists(kept):
                    moved = beside(path, ASIDE, self.folder, folder)
                    os.makedirs(os.path.dirname(moved), exist_ok=True)
                    os.rename(kept, moved)
                    write(entry_of(self.journal, path), path, moved)
                    remove_empty(os.path.dirname(kept))
        files = [one for one in files_in(folder) if not self._keeps(one)]
        if any(_is_checkpoint(one) for one in files):
            for one in files:
                self._note(one, stays=True, folder=folder)

    def _is_link(self, path: Any) -> bool:
        return os.path.islink(path) and self._leads_to_checkpoint(os.path.realpath(os.fsdecode(path)))

    def _leads_to_checkpoint(self, path: str) -> bool:
        return _is_checkpoint(path) or self._keeps(path) or any(_is_checkpoint(one) for one in files_in(path))

    def _keeps(self, path: Any) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and entry_of(self.journal, full(path)).exists()


class _Scan:
    """What `os.scandir` returns, without our folders."""

    def __init__(self, entries: Any) -> None:
        self._entries = entries

    def __iter__(self) -> "_Scan":
        return self

    def __next__(self) -> Any:
        return next(one for one in self._entries if not is_ours(one.name))

    def __enter__(self) -> "_Scan":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._entries.close()


def hide_names() -> None:
    """Programs list their checkpoints, to rotate or to move them: what was put aside is none of theirs."""
    listdir, scandir = os.listdir, os.scandir

    @wraps(listdir)
    def list_theirs(*args: Any, **kwargs: Any) -> list[Any]:
        return [name for name in listdir(*args, **kwargs) if not is_ours(name)]

    @wraps(scandir)
    def scan_theirs(*args: Any, **kwargs: Any) -> Any:
        return _Scan(scandir(*args, **kwargs))

    os.listdir, os.scandir = list_theirs, scan_theirs  # type: ignore[assignment]


def keep_safetensors(module: ModuleType) -> None:
    """`safetensors.torch`'s writer opens its files in Rust. Patched right after its import (`standins.patches`)."""
    from anychip.standins.recording import runtime

    original = module.serialize_file

    def serialize_file(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> Any:
        saved = runtime().saved if runtime() is not None else None
        if saved is not None and saved.begun():
            saved.keep(filename)
        return original(tensors, filename, *args, **kwargs)

    module.serialize_file = serialize_file  # type: ignore[attr-defined]


def _lies_on_chip(saved: Any) -> bool:
    """Whether tensors of the chip are in it: parameters that no model was called with yet. (Data that was prepared are not.)"""
    import torch
    from torch.utils._pytree import tree_leaves

    if isinstance(saved, torch.nn.Module):  # (`state_dict` of a sharded one is a collective)
        saved = [*saved.parameters(), *saved.buffers()]
    return any(isinstance(one, torch.Tensor) and one.device.type not in ("cpu", "meta") for one in tree_leaves(saved))


def _is_of_all_ranks(path: str) -> bool:
    """Whether it is a part of a checkpoint that ranks write together, and read what the others wrote of it."""
    return os.path.basename(path) == INDEX or path.endswith(".distcp")


def _is_checkpoint(path: Any) -> bool:
    if not isinstance(path, str | bytes | os.PathLike):
        return False
    name = os.path.basename(os.fsdecode(path))
    return name == INDEX or os.path.splitext(name)[1].lower() in CHECKPOINTS
