"""Writing result files: whole or not at all, gzipped where the name ends in .gz."""

import gzip
import os
from pathlib import Path


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write beside the file, then rename: a reader never sees half of it, and a failure leaves the old one."""
    path = Path(path)
    if path.suffix == ".gz":
        data = gzip.compress(data, compresslevel=3, mtime=0)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def with_name(path: str | os.PathLike[str], name: str) -> Path:
    """out.json.gz, h100 -> out.h100.json.gz: one file for each of several targets."""
    path = Path(path)
    suffixes = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    return path.with_name(f"{path.name.removesuffix(suffixes)}.{name}{suffixes}")
