"""What the code is moved to: portable PyTorch, or the form that one chip's PyTorch plug-in asks for.

In: the standard's files of a platform and its map of torch.cuda; `portable.csv` here for the portable form. Out: for each
name the words to write, or why there are none. No vendor's name stands in the code: it comes from those files.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from anychip.audit.offers import Offers
from anychip.errors import BadUse
from anychip.port.edits import KINDS, THOUGHT
from anychip.spec import load_chip
from anychip.spec.software import load_apis

PORTABLE = "portable"
# Device types of PyTorch that no program puts a tensor on by name: such platforms want the program restructured.
NOT_FOR_USERS = ("none", "lazy")
TABLE = Path(__file__).with_name("portable.csv")
# Submodules of torch.cuda: a symbol of theirs keeps its second name.
SUBMODULES = (
    "amp",
    "memory",
    "nvtx",
    "random",
    "streams",
    "profiler",
    "nccl",
    "comm",
    "graphs",
    "tunable",
    "gds",
    "sparse",
)


@dataclass(frozen=True)
class Spelling:
    """What a torch.cuda symbol becomes. form: a row's word of portable.csv, or "chip". words: what to write, with
    {accelerator} and {device} where the header's names go. since: the first torch with it. note: what to look at."""

    form: str
    words: str = ""
    note: str = ""
    since: str = ""
    kind: str = THOUGHT

    @property
    def written(self) -> bool:
        return bool(self.words)


@dataclass(frozen=True)
class Target:
    """name: "portable" or a chip's id. device_type: what tensors there are on, "" for portable.

    masked: the chip's PyTorch calls itself CUDA, so that Python needs no edits. has_device: tensors can be put there by
    a device name at all. module: the plug-in's twin of torch.cuda, "" where there is none.
    """

    name: str
    platform: str = ""
    device_type: str = ""
    module: str = ""
    imports: tuple[str, ...] = ()
    backend: str = ""
    backend_imports: tuple[str, ...] = ()
    masked: bool = False
    has_device: bool = True
    env: Mapping[str, str] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    kernel_language: str = ""
    graph_class: str = ""

    @cached_property
    def offers(self) -> Offers:
        """What the chip's platform has for what the audit finds."""
        return Offers(load_chip(self.name).platform)

    @property
    def portable(self) -> bool:
        return self.name == PORTABLE

    def spelling(self, symbol: str) -> Spelling:
        """What to write for `torch.cuda.<symbol>` ("synchronize", "memory.empty_cache")."""
        return self._portable(symbol) if self.portable else self._chip(symbol)

    def _portable(self, symbol: str) -> Spelling:
        row = portable_rows().get(symbol) or portable_rows().get(symbol.split(".")[0])
        if row is None:
            return Spelling("module", f"torch.get_device_module({{accelerator}}).{symbol}", since="2.5")
        return row if not row.words.endswith(".*") else _tail(row, symbol)

    def _chip(self, symbol: str) -> Spelling:
        if symbol.startswith("amp.") or symbol == "OutOfMemoryError":
            return self._portable(symbol)
        if not self.module:
            return Spelling("missing", note=f"{self.platform} has no module like torch.cuda")
        if symbol == "CUDAGraph" and self.graph_class:
            return Spelling("chip", self.graph_class)
        api = load_apis(self.platform).get(symbol.split(".")[0])
        status = api.status if api else "unknown"
        if status in ("missing", "mismatch"):
            return Spelling(status, note=f"{self.module} has no {symbol}" if status == "missing" else _note(api))
        general = portable_rows().get(symbol.split(".")[0])
        if status in ("unknown", "modified") and general is not None and not general.written:
            return general  # what means nothing elsewhere, and may not even answer (a capability that is None)
        if status == "unknown":
            return Spelling(
                "chip",
                f"{self.module}.{symbol}",
                f"by the plug-in's convention: no public list of {self.platform} says",
            )
        assert api is not None
        tail = symbol.partition(".")[2]
        note = api.note or (
            f"{self.platform}'s twin, documented to differ from CUDA's: check" if status == "modified" else ""
        )
        return Spelling("chip", (api.target or f"{self.module}.{api.symbol}") + (f".{tail}" if tail else ""), note)


def _note(api: Any) -> str:
    return f"{api.symbol} means something else there{': ' + api.note if api.note else ''}"


def _tail(row: Spelling, symbol: str) -> Spelling:
    return Spelling(row.form, row.words.removesuffix("*") + symbol.partition(".")[2], row.note, row.since, row.kind)


@cache
def portable_rows() -> Mapping[str, Spelling]:
    """portable.csv: symbol -> what it becomes. AssertionError for a row that says nothing."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = {
            row["symbol"]: Spelling(row["form"], row["words"], row["note"], row["since"], row["kind"] or THOUGHT)
            for row in csv.DictReader(file)
        }
    for symbol, row in rows.items():
        assert row.written or row.note, f"{TABLE.name}: {symbol} has neither words nor a note"
        assert row.kind in KINDS, f"{TABLE.name}: {symbol}: no such kind: {row.kind}"
    return rows


PORTABLE_TARGET = Target(PORTABLE)


def make_target(on: str | None) -> Target:
    """The target of `--on`: None or "portable", or a chip's id or alias. Raises UnknownChip, BadChipFile, BadUse."""
    if on is None or on == PORTABLE:
        return PORTABLE_TARGET
    if ":" in on or "@" in on or "+" in on:
        raise BadUse(f"--on {on}: code is ported to a kind of chip; leave out the number of chips and the cluster.")
    chip = load_chip(on)
    platform, raw = chip.platform, chip.platform.raw
    env, graph = raw.get("env", {}), _text(raw.get("graphs", {}).get("class", ""))
    return Target(
        name=chip.id,
        platform=platform.id,
        device_type=platform.device_type,
        module=platform.twin,
        imports=tuple(raw.get("import", ())),
        backend=platform.collective_backends[0] if platform.collective_backends else "",
        backend_imports=tuple(raw.get("distributed", {}).get("import", ())),
        masked=platform.device_type == "cuda",
        has_device=platform.device_type not in NOT_FOR_USERS,
        env={key: _first(env[key]) for key in ("visible_devices", "alloc_conf", "launch_blocking") if env.get(key)},
        libraries=platform.libraries,
        kernel_language=_text(raw.get("kernels", {}).get("language", "")),
        graph_class=graph if "." in graph else "",
    )


def _first(value: Any) -> str:
    value = value["value"] if isinstance(value, dict) else value
    return str(value[0]) if isinstance(value, list | tuple) else str(value)


def _text(value: Any) -> str:
    return str(value["value"] if isinstance(value, dict) else value)
