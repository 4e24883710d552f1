"""Writing result files: whole or not at all, gzipped where the name ends in .gz."""

import gzip
import os
from pathlib import Path

from anychip.whole import put


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    if Path(path).suffix == ".gz":
        data = gzip.compress(data, compresslevel=3, mtime=0)
    put(path, data)


def with_name(path: str | os.PathLike[str], name: str) -> Path:
    """out.json.gz, h100 -> out.h100.json.gz: one file for each of several targets."""
    path = Path(path)
    suffixes = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    return path.with_name(f"{path.name.removesuffix(suffixes)}.{name}{suffixes}")
