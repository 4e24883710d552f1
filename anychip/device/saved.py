"""What a program saves of a chip on which nothing is computed: it is there while the program runs, and gone afterwards.

A forecast must not replace a checkpoint by one without values, delete those that it stands for, or leave one that the next
real run would resume from. So what is at a checkpoint's path is put aside before the program writes, replaces, moves or removes
it, once a model on the chip was called or where what is saved lies there; `put_back`, in the process that started it, makes it all as it was, however the
program ended. Files of other kinds (logs, tables, caches of data) are the program's own business.

What is put aside lies in a hidden folder beside its place, on the same file system: programs list their checkpoints by their
names. The folder's name is of one recording, so that two in one place take nothing from each other; what one left that was killed is told.

The ranks of a job run one after another here. So what a rank saved is hidden when it ends, and what was there before is there
again: the next one would find the checkpoint of a run that has begun with it, and resume from it. `torch.load` finds it yet:
others load what the first saved.

The journal is a folder that all ranks of a job share, with a file for each path.
"""

import fcntl
import glob
import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from anychip import units

ASIDE = ".anychip-kept"  # folder of what was there before, beside its place
HIDDEN = ".anychip-hidden"  # folder of what an earlier rank saved
JOURNAL = "saved"
RUNNING = "running"  # locked while a recording is
NAMED = 3  # paths that are told
CHECKPOINTS = frozenset({".pt", ".pth", ".ckpt", ".tar", ".safetensors", ".distcp", ".pkl", ".bin"})
INDEX = ".metadata"  # of a folder of `.distcp` files: says what lies where in them


class Saved:
    """The checkpoints that this process touches. folder: of the recording. begun: whether a model on the chip was called."""

    def __init__(self, folder: Path, begun: Callable[[], bool]) -> None:
        self.folder, self.journal, self.begun = folder, folder / JOURNAL, begun
        self.journal.mkdir(exist_ok=True)
        self._own = threading.local()  # what this code does raises audit events, too
        self._touched: dict[str, None] = {}  # paths, by this process
        self._made: set[str] = set()  # files of other kinds, which may become checkpoints

    def install(self) -> None:
        """Watch files by Python's audit events; torch's own writer opens them in C++."""
        import torch

        save, load = torch.save, torch.load

        @wraps(save)
        def keep_and_save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
            if isinstance(f, str | os.PathLike) and (self.begun() or _lies_on_chip(obj)):
                self.keep(f)
            save(obj, f, *args, **kwargs)

        @wraps(load)
        def load_hidden(f: Any, *args: Any, **kwargs: Any) -> Any:
            missing = isinstance(f, str | os.PathLike) and not os.path.exists(f)
            hidden = _beside(_full(f), HIDDEN, self.folder) if missing else ""
            return load(hidden if os.path.isfile(hidden) else f, *args, **kwargs)

        torch.save = torch.serialization.save = keep_and_save
        torch.load = torch.serialization.load = load_hidden
        watched: dict[str, Callable[..., None]] = {
            "open": self._opens, "os.rename": self._renames, "os.remove": self._removes, "os.rmdir": self._removes_empty,
            "os.link": self._links_hard, "os.symlink": self._links, "shutil.copyfile": self._copies,
            "shutil.rmtree": self._removes_all,
        }  # fmt: skip

        def audit(event: str, args: tuple[Any, ...]) -> None:
            if event in watched and not hasattr(self._own, "busy") and self.begun():
                watched[event](*args)

        sys.addaudithook(audit)

    def keep(self, path: Any) -> None:
        """Remember a path before the program writes to it; what is there is put aside. Of a symbolic link: what it leads to."""
        self._note(_full(path))

    def _note(self, place: str, *, stays: bool = False, folder: str | None = None) -> None:
        """Remember a place. stays: what is there is moved or removed by the program, and gets a second name. folder: that it is moved
        or removed with."""
        with self._at_work():
            entry = _entry(self.journal, place)
            self._touched[place] = None
            if entry.exists():
                if not stays and os.path.isfile(place) and os.stat(place).st_nlink > 1:
                    os.remove(place)  # what is aside may be the same file under another name
                return
            if place in self._made or not os.path.lexists(place):
                _write(entry, place, None)
            elif _is_file(place):  # no folder, device, socket
                self._put_aside(entry, place, _beside(place, ASIDE, self.folder, folder), stays)

    def _put_aside(self, entry: Path, place: str, kept: str, stays: bool) -> None:
        others = [one for one, runs in _asides(place, self.folder) if runs]
        try:
            os.makedirs(os.path.dirname(kept), exist_ok=True)
            _write(entry, place, kept)
            if others:  # what is there has no values either: another forecast put it there
                _second_name(others[0], kept)
                if not stays:
                    os.remove(place)
            else:
                (_second_name if stays else os.rename)(place, kept)
        except OSError:  # the folder cannot be written
            entry.unlink(missing_ok=True)
            _remove_empty(os.path.dirname(kept))
            kept = str(self.journal / f"{entry.name}{ASIDE}")
            shutil.copy2(place, kept, follow_symlinks=False)
            _write(entry, place, kept)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self._own.busy = True
        try:
            with _locked(self.journal):
                yield
        finally:
            del self._own.busy

    def hide(self) -> None:
        """This rank ends: those after it begin without what it saved, and with what it replaced."""
        with self._at_work():
            for path, kept in _entries(self.journal):
                if path not in self._touched:
                    continue
                if _is_file(path) and not (kept and _is_file(kept) and _same(path, kept)):
                    hidden = _beside(path, HIDDEN, self.folder)
                    os.makedirs(os.path.dirname(hidden), exist_ok=True)
                    os.replace(path, hidden)
                if kept and os.path.lexists(kept) and not os.path.lexists(path):
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    _second_name(kept, path)

    def _opens(self, path: Any, _: Any, flags: int) -> None:
        """By its flags, which also `os.open` has: temporary files that take a checkpoint's place are made by it."""
        if not isinstance(path, str | bytes | os.PathLike):
            return
        new = flags & os.O_CREAT and not os.path.lexists(path)
        if _is_checkpoint(path) and (new or (flags & os.O_TRUNC and not flags & os.O_EXCL)):
            self.keep(path)
        elif new:
            self._made.add(_place(path))

    def _copies(self, source: Any, target: Any, *_: int) -> None:
        if self._keeps(source) or _is_checkpoint(target):
            self.keep(target)

    def _links_hard(self, source: Any, target: Any, *_: int) -> None:
        if not os.path.lexists(target):  # else it fails
            self._copies(source, target)

    def _links(self, to: Any, path: Any, _: int) -> None:
        place = _place(path)
        if not os.path.lexists(place) and self._leads_to_checkpoint(
            os.path.join(os.path.dirname(place), os.fsdecode(to))
        ):
            self._note(place)

    def _renames(self, source: Any, target: Any, *_: int) -> None:
        source, target = _place(source), _place(target)
        if os.path.isdir(source) and not os.path.islink(source):
            self._clear(source)
            for path in _files(source):
                if self._keeps(path):
                    self._note(os.path.join(target, os.path.relpath(path, source)))
        elif self._keeps(source) or _is_checkpoint(source) or _is_checkpoint(target) or self._is_link(source):
            self._note(source, stays=True)
            self._note(target)

    def _removes(self, path: Any, folder: int) -> None:
        if folder == -1 and (_is_checkpoint(path) or self._is_link(path)):
            self._note(_place(path), stays=True)

    def _removes_all(self, path: Any, *_: Any) -> None:
        self._clear(_place(path))

    def _removes_empty(self, path: Any, folder: int) -> None:
        if folder == -1:
            self._clear(_place(path))

    def _clear(self, folder: str) -> None:
        """A folder is moved or removed: what was put aside in it goes beside it, and so does all that is in it where checkpoints of
        before are, since they are read together."""
        inside = folder + os.sep
        with self._at_work():
            for path, kept in _entries(self.journal):
                if kept and kept.startswith(inside) and os.path.lexists(kept):
                    moved = _beside(path, ASIDE, self.folder, folder)
                    os.makedirs(os.path.dirname(moved), exist_ok=True)
                    os.rename(kept, moved)
                    _write(_entry(self.journal, path), path, moved)
                    _remove_empty(os.path.dirname(kept))
        files = [one for one in _files(folder) if not self._keeps(one)]
        if any(_is_checkpoint(one) for one in files):
            for one in files:
                self._note(one, stays=True, folder=folder)

    def _is_link(self, path: Any) -> bool:
        return os.path.islink(path) and self._leads_to_checkpoint(os.path.realpath(os.fsdecode(path)))

    def _leads_to_checkpoint(self, path: str) -> bool:
        return _is_checkpoint(path) or self._keeps(path) or any(_is_checkpoint(one) for one in _files(path))

    def _keeps(self, path: Any) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and _entry(self.journal, _full(path)).exists()


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


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """Until its end others know that what lies at a checkpoint's path is of this recording."""
    with open(folder / RUNNING, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_running(folder: Path) -> bool:
    try:
        with open(folder / RUNNING) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it is over, or of another machine
        pass
    return False


def _asides(place: str, recording: Path) -> list[tuple[str, bool]]:
    """What other recordings put aside of a place, and whether they still run."""
    folder, name = os.path.split(place)
    own = _beside(place, ASIDE, recording)
    found = glob.glob(os.path.join(glob.escape(folder), f"{ASIDE}-*", glob.escape(name)))
    names = {one: os.path.basename(os.path.dirname(one)).removeprefix(f"{ASIDE}-") for one in found if one != own}
    return [(one, _is_running(recording.parent / name)) for one, name in names.items()]


def put_back(folder: Path) -> str:
    """Make all checkpoints as they were before a recording, whose folder this is; returns what was done, for the user."""
    restored: list[str] = []
    removed: list[str] = []
    failed: list[str] = []
    left: list[str] = []
    for path, kept in _entries(folder / JOURNAL):
        hidden = _beside(path, HIDDEN, folder)
        saved = [one for one in ((path, hidden) if kept is None else (hidden,)) if _is_file(one)]
        try:
            for one in saved:
                os.remove(one)
            _remove_empty(os.path.dirname(hidden))
            if kept is None:
                removed += [path] * bool(saved)
            elif os.path.lexists(kept):
                left += [one for one, runs in _asides(path, folder) if not runs]
                _restore(kept, path)
                restored.append(path)
            _entry(folder / JOURNAL, path).unlink()
        except OSError as error:
            failed.append(f"{path} is not as it was ({error.strerror})" + (f", which is {kept}" if kept else ""))
    done = (_told(done, paths) for done, paths in (("removed", removed), ("put back", restored)) if paths)
    told = f"what a forecast that was killed put aside lies there still: {', '.join(left)}" if left else ""
    return "; ".join(filter(None, (" and ".join(done), *failed, told)))


def _restore(kept: str, path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        os.replace(kept, path)
    except OSError:  # another file system, a folder that cannot be written
        shutil.copyfile(kept, path, follow_symlinks=False)
    if os.path.lexists(kept):  # also where both are names of one file
        os.remove(kept)
    _remove_empty(os.path.dirname(kept))


def _told(done: str, paths: list[str]) -> str:
    """The program saved no values, as a virtual chip computes none."""
    named = ", ".join(os.path.relpath(one) for one in paths[:NAMED]) + ", ..." * (len(paths) > NAMED)
    why = "what the program saves here has no values: " if done == "removed" else ""
    return f"{done} {units.several(len(paths), 'checkpoint')} ({why}{named})"


def _remove_empty(folder: str) -> None:
    """The folders that were made to put something aside."""
    with suppress(OSError):  # the last of them is not empty yet
        while ASIDE in folder or HIDDEN in folder:
            os.rmdir(folder)
            folder = os.path.dirname(folder)


def _lies_on_chip(saved: Any) -> bool:
    """Whether tensors of the chip are in it: parameters that no model was called with yet. (Data that was prepared are not.)"""
    import torch
    from torch.utils._pytree import tree_leaves

    if isinstance(saved, torch.nn.Module):  # (`state_dict` of a sharded one is a collective)
        saved = [*saved.parameters(), *saved.buffers()]
    return any(isinstance(one, torch.Tensor) and one.device.type not in ("cpu", "meta") for one in tree_leaves(saved))


def _full(path: Any) -> str:
    return os.path.realpath(os.fsdecode(path))


def _place(path: Any) -> str:
    """The full path of a name itself, whether or not it is a symbolic link."""
    folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))
    return os.path.join(os.path.realpath(folder), name)


def _beside(path: str, kind: str, recording: Path, folder: str | None = None) -> str:
    """Where to put a file: in a hidden folder of this recording that lies beside it, or beside a folder that it is in."""
    above = os.path.dirname(folder or path)
    return os.path.join(above, f"{kind}-{recording.name}", os.path.relpath(path, above))


def _second_name(path: str, name: str) -> None:
    try:
        os.link(path, name, follow_symlinks=False)
    except OSError:  # the file system has no links
        shutil.copy2(path, name, follow_symlinks=False)


def _is_file(path: str) -> bool:
    return os.path.isfile(path) or os.path.islink(path)


def _same(one: str, other: str) -> bool:
    return os.path.samestat(os.lstat(one), os.lstat(other))


def _files(folder: str) -> Iterator[str]:
    """All files in a folder, and symbolic links; none of what is no folder."""
    for inside, folders, names in os.walk(folder):
        for name in (*names, *(one for one in folders if os.path.islink(os.path.join(inside, one)))):
            yield os.path.join(inside, name)


def _is_checkpoint(path: Any) -> bool:
    if not isinstance(path, str | bytes | os.PathLike):
        return False
    name = os.path.basename(os.fsdecode(path))
    return name == INDEX or os.path.splitext(name)[1].lower() in CHECKPOINTS


def _entry(journal: Path, path: str) -> Path:
    return journal / hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()


def _write(entry: Path, path: str, kept: str | None) -> None:
    entry.write_text(json.dumps([path, kept]), encoding="utf-8")


def _entries(journal: Path) -> list[tuple[str, str | None]]:
    """Each path that the program touches, and where what was there lies now: None where nothing was."""
    if not journal.is_dir():
        return []
    return [
        tuple(json.loads(one.read_text(encoding="utf-8"))) for one in sorted(journal.iterdir()) if len(one.name) == 64
    ]


@contextmanager
def _locked(journal: Path) -> Iterator[None]:
    """Ranks that run at the same time may save to one path."""
    with open(journal / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a process that was forked meanwhile has the file open, too
