"""Results written so that at any moment each file is the old one or the new one, whole.

Every file is written beside its place and renamed into it. Ctrl-C, a full disk or a lost machine leaves a stray temporary
file at the worst, never half of a program.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from anychip.errors import BadUse


def write_whole(path: Path, data: bytes, like: Path | None = None, durable: bool = True) -> None:
    """Write a file so that `path` is at no time half of it. like: the file whose permissions it takes.

    durable: on the disk before it replaces what was there, so that not even a lost machine leaves half of it.
    Raises BadUse where it cannot be written.
    """
    try:
        _write_whole(path, data, like, durable)
    except OSError as error:
        raise BadUse(
            f"{path}: cannot be written: {error.strerror or error}. What stood there is whole; files that came before it are done."
        ) from None


def _write_whole(path: Path, data: bytes, like: Path | None, durable: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if like is not None:
            shutil.copymode(like, beside)
        else:
            os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def copy_whole(source: Path, path: Path) -> None:
    """A file that was not changed, in the same way."""
    write_whole(path, source.read_bytes(), like=source, durable=False)


def copy_link(root: Path, name: str, out: Path) -> None:
    """A symbolic link as it is, to the ported file where it leads into the tree; to the same place where it leads out of it."""
    source, path = root / name, out / name
    goal = os.readlink(source)
    place = Path(os.path.normpath(source.parent / goal))
    inside = not os.path.isabs(goal) and Path(os.path.normpath(root)) in (place, *place.parents)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(goal if inside or os.path.isabs(goal) else place.absolute(), path)


def check_out(out: Path, root: Path) -> None:
    """Raise BadUse unless `out` is new or empty and neither inside the tree that is read nor around it."""
    if out.exists() and not out.is_dir():
        raise BadUse(f"--out {out}: is a file; name a folder.")
    if out.is_dir() and any(out.iterdir()):
        raise BadUse(f"--out {out}: is not empty. Name a new folder; nothing there is overwritten.")
    inside, around = out.resolve(), (root if root.is_dir() else root.parent).resolve()
    if root.is_dir() and (inside == around or around in inside.parents):
        raise BadUse(f"--out {out}: lies inside {root}, which is read. Name a folder outside it.")


def check_clean(root: Path) -> None:
    """Raise BadUse unless `root` is in a git work tree without uncommitted changes below it: only then can --in-place be undone."""
    folder = root if root.is_dir() else root.parent
    try:
        inside = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--is-inside-work-tree"], capture_output=True, text=True
        )
    except FileNotFoundError:
        raise BadUse("--in-place asks git whether it can be undone, and git is not there. Use --out DIR.") from None
    if inside.returncode or inside.stdout.strip() != "true":
        raise BadUse(
            f"--in-place: {folder} is in no git repository, so the old files would be lost. Use --out DIR, or commit it first."
        )
    status = subprocess.run(
        ["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=all", "--", str(root.resolve())],
        capture_output=True, text=True,
    )  # fmt: skip
    changed = status.stdout.splitlines()
    if status.returncode or changed:
        first = changed[0][3:] if changed else status.stderr.strip()
        raise BadUse(
            f"--in-place: {len(changed)} files of {folder} have uncommitted changes ({first}, ...). Commit or stash them "
            "first, so that the port can be undone; or use --out DIR or --diff."
        )
