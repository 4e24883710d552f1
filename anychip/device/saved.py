"""What a program saves of a chip on which nothing is computed: it is there while the program runs, and gone afterwards.

A forecast must not replace a checkpoint by one without values, delete those that it stands for, or leave one that the next
real run would resume from. So what is at a checkpoint's path is put aside before the program writes, replaces or removes
it, once a model on the chip was called or where what is saved lies there; `put_back`, in the process that started it, makes it all as it was, however the
program ended. Files of other kinds (logs, tables, caches of data) are the program's own business.

The ranks of a job run one after another here. So what a rank saved is hidden when it ends: the next one would find the
checkpoint of a run that has begun with it, and resume from it. `torch.load` finds it yet: others load what the first saved.

The journal is a folder that all ranks of a job share, with a file for each path.
"""

import fcntl
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from anychip import units

ASIDE = ".anychip-kept"  # added to the name of what was there before, beside its place
HIDDEN = ".anychip-hidden"  # added to the name of what an earlier rank saved
JOURNAL = "saved"
NAMED = 3  # paths that are told
CHECKPOINTS = frozenset({".pt", ".pth", ".ckpt", ".tar", ".safetensors", ".distcp", ".pkl", ".bin"})


class Saved:
    """The checkpoints that this process touches. folder: of the recording. begun: whether a model on the chip was called."""

    def __init__(self, folder: Path, begun: Callable[[], bool]) -> None:
        self.journal, self.begun = folder / JOURNAL, begun
        self.journal.mkdir(exist_ok=True)
        self._own = threading.local()  # what this code does raises audit events, too
        self._new: list[str] = []  # paths where nothing was before this process saved something

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
            hidden = _full(f) + HIDDEN if isinstance(f, str | os.PathLike) and not os.path.exists(f) else ""
            return load(hidden if os.path.isfile(hidden) else f, *args, **kwargs)

        torch.save = torch.serialization.save = keep_and_save
        torch.load = torch.serialization.load = load_hidden
        watched: dict[str, Callable[..., None]] = {
            "open": self._opens, "os.rename": self._renames, "os.remove": self._removes,
            "shutil.copyfile": self._copies, "shutil.rmtree": self._removes_all,
        }  # fmt: skip

        def audit(event: str, args: tuple[Any, ...]) -> None:
            if event in watched and not hasattr(self._own, "busy") and self.begun():
                watched[event](*args)

        sys.addaudithook(audit)

    def keep(self, path: Any, aside: str | None = None, *, linked: bool = False) -> None:
        """Remember a path before the program changes it. What is there is put aside, or gets a second name."""
        full = _full(path)
        self._own.busy = True
        try:
            with _locked(self.journal):
                entry = _entry(self.journal, full)
                there = os.path.isfile(full)
                if entry.exists() or (os.path.lexists(full) and not there):  # a device, a socket
                    return
                kept = (aside or full + ASIDE) if there else None
                entry.write_text(json.dumps([full, kept]), encoding="utf-8")
                if kept is None:
                    self._new.append(full)
                else:
                    os.makedirs(os.path.dirname(kept), exist_ok=True)
                    (os.link if linked else os.rename)(full, kept)
        finally:
            del self._own.busy

    def hide(self) -> None:
        """This rank ends: those after it begin without what it saved."""
        self._own.busy = True
        for path in self._new:
            if os.path.isfile(path):
                os.replace(path, path + HIDDEN)

    def _opens(self, path: Any, mode: Any, _: int) -> None:
        if isinstance(mode, str) and mode[:1] in ("w", "x") and _is_checkpoint(path):
            self.keep(path)

    def _copies(self, source: Any, target: Any) -> None:
        if self._keeps(source) or _is_checkpoint(target):
            self.keep(target)

    def _renames(self, source: Any, target: Any, *_: int) -> None:
        if os.path.isdir(source):
            inside = _full(source) + os.sep
            for path in [
                path for path, _ in _entries(self.journal) if path.startswith(inside) and os.path.exists(path)
            ]:
                self.keep(os.path.join(_full(target), path.removeprefix(inside)))
        elif self._keeps(source) or _is_checkpoint(source) or _is_checkpoint(target):
            self.keep(source, linked=True)
            self.keep(target)

    def _removes(self, path: Any, folder: int) -> None:
        if folder == -1 and _is_checkpoint(path):
            self.keep(path, linked=True)

    def _removes_all(self, path: Any, *_: Any) -> None:
        """A folder with checkpoints of before: all that is in it, since they are read together."""
        files = [one for one in Path(_full(path)).rglob("*") if one.is_file()]
        if any(_is_checkpoint(one) for one in files) and not any(self._keeps(one) for one in files):
            for one in files:
                self.keep(one, f"{_full(path)}{ASIDE}{os.sep}{one.relative_to(_full(path))}", linked=True)

    def _keeps(self, path: Any) -> bool:
        return _entry(self.journal, _full(path)).exists()


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


def put_back(folder: Path) -> str:
    """Make all checkpoints as they were before a recording, whose folder this is; returns what was done, for the user."""
    restored, removed = [], []
    for path, kept in _entries(folder / JOURNAL):
        if kept is None:
            saved = [one for one in (path, path + HIDDEN) if os.path.isfile(one)]
            for one in saved:
                os.remove(one)
            removed += [path] * bool(saved)
        elif os.path.exists(kept):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.replace(kept, path)
            restored.append(path)
            _remove_empty(os.path.dirname(kept))
        _entry(folder / JOURNAL, path).unlink()
    return " and ".join(_told(done, paths) for done, paths in (("removed", removed), ("put back", restored)) if paths)


def _told(done: str, paths: list[str]) -> str:
    """The program saved no values, as a virtual chip computes none."""
    named = ", ".join(os.path.relpath(one) for one in paths[:NAMED]) + ", ..." * (len(paths) > NAMED)
    why = "what the program saves here has no values: " if done == "removed" else ""
    return f"{done} {units.several(len(paths), 'checkpoint')} ({why}{named})"


def _remove_empty(folder: str) -> None:
    """The folders that were made to put something aside."""
    with suppress(OSError):  # the last of them is not empty yet
        while ASIDE in folder:
            os.rmdir(folder)
            folder = os.path.dirname(folder)


def _lies_on_chip(saved: Any) -> bool:
    """Whether tensors of the chip are in it: parameters that no model was called with yet. (Data that was prepared are not.)"""
    import torch
    from torch.utils._pytree import tree_leaves

    if isinstance(saved, torch.nn.Module):
        saved = saved.state_dict()
    return any(isinstance(one, torch.Tensor) and one.device.type not in ("cpu", "meta") for one in tree_leaves(saved))


def _full(path: Any) -> str:
    return os.path.realpath(os.fsdecode(path))


def _is_checkpoint(path: Any) -> bool:
    return isinstance(path, str | bytes | os.PathLike) and os.path.splitext(os.fsdecode(path))[1].lower() in CHECKPOINTS


def _entry(journal: Path, path: str) -> Path:
    return journal / hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()


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
        yield
