"""What a platform's software can do: its map of torch.cuda (apis/<platform>.csv) and its list of operators
(ops/<platform>[-<generation>].csv).

In: a platform's id. Out: values that answer for one symbol or one operator; "unknown" where no public list says.
A kernel that is registered need not be right, and an op without one may still work through others: an indicator.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from anychip.spec import catalogue

STATUSES = ("match", "modified", "mismatch", "missing", "unknown")
VERDICTS = ("native", "composite", "fallback", "differs", "error", "missing", "unknown")
APIS_HEADER = ("symbol", "status", "target", "since", "until", "source", "note")
OPS_HEADER = ("op", "dtype", "verdict", "source", "licence")
COMPOSITE = "composite"
REFERENCE = "nvidia-cuda"


@dataclass(frozen=True)
class Api:
    """What became of one torch.cuda symbol: the status, what to write instead, and who says so."""

    symbol: str
    status: str
    target: str = ""
    since: str = ""
    until: str = ""
    source: str = ""
    note: str = ""


@dataclass(frozen=True)
class Ops:
    """A platform's operators. rows: (op, dtype or "") -> verdict. unlisted: what holds for every other op."""

    rows: Mapping[tuple[str, str], str]
    unlisted: str = "unknown"

    def verdict(self, op: str, dtype: str = "") -> str:
        """One of VERDICTS for "mm", "mm.out", "aten::mm.out" or "aten.mm.default", of this dtype where it has its own."""
        name = _plain(op)
        base = name.split(".", 1)[0]
        for key in ((name, dtype), (base, dtype), (name, "")):
            if key in self.rows:
                return self.rows[key]
        return COMPOSITE if name in composite() else self.unlisted

    @property
    def native(self) -> frozenset[str]:
        return frozenset(op for (op, _), verdict in self.rows.items() if verdict == "native")


def _plain(op: str) -> str:
    """aten.mm.default, aten::mm -> mm; aten.add.Tensor -> add.Tensor."""
    return op.removeprefix("aten::").removeprefix("aten.").removesuffix(".default")


def load_apis(platform: str) -> Mapping[str, Api]:
    """By torch.cuda symbol; empty where there is no map of the platform."""
    file = _find("apis", (platform,))
    return {row["symbol"]: Api(**{key: row.get(key) or "" for key in APIS_HEADER}) for row in _rows(file)}


def load_ops(platform: str, generation: str | None = None) -> Ops:
    """The generation's own list where there is one, else the platform's; all unknown where there is neither."""
    names = (f"{platform}-{generation}", platform) if generation else (platform,)
    rows = {(row["op"], row["dtype"]): row["verdict"] for row in _rows(_find("ops", names))}
    unlisted = rows.pop(("*", ""), "unknown")
    return Ops(rows, unlisted)


@cache
def composite() -> frozenset[str]:
    """Overloads that torch writes in terms of other ops, for every device."""
    return frozenset(row["op"] for row in _rows(_find("ops", (COMPOSITE,))))


def coverage(platform: str, generation: str | None = None) -> float | None:
    """Share of the overloads with a CUDA kernel that have a kernel here; None where the list is not whole."""
    ops, wanted = load_ops(platform, generation), load_ops(REFERENCE).native
    if ops.unlisted == "unknown" or not wanted:
        return None
    return len(wanted & ops.native) / len(wanted)


def _find(kind: str, names: tuple[str, ...]) -> Path | None:
    for name in names:
        for folder in catalogue.folders(kind):
            if (folder / f"{name}.csv").is_file():
                return folder / f"{name}.csv"
    return None


def _rows(file: Path | None) -> Iterator[dict[str, str]]:
    if file is not None:
        with file.open(encoding="utf-8", errors="replace", newline="") as stream:
            yield from csv.DictReader(stream)
