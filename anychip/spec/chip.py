"""A chip as one immutable value, with each figure's origin beside it.

In: a validated table and its platform. Out: `Chip`. Unknown stays unknown: an optional figure is None, and a required
one that the file does not know raises `UnknownFigure` with the sentence that says what to add, never another chip's.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anychip.errors import BadChipFile
from anychip.spec import catalogue
from anychip.spec.fields import tree
from anychip.spec.inherited import Inherited
from anychip.spec.platform import Platform
from anychip.spec.units import show, to_si

A_PEAK = "peaks.matrix.bf16"  # what to add where there is none


class UnknownFigure(BadChipFile):
    """The chip's file does not say what was asked for."""


@dataclass(frozen=True)
class Figure:
    """One figure in SI units with its origin.

    value: None where nobody knows ("unknown") or where the chip has no such thing ("none"): see `state`. A shape has
    `shape` instead. kind: see `fields.KINDS`. source: address, or the source's title where there is no page.
    printed: as the file writes it. disputed: the values that sources print, and why the one used is used.
    """

    value: float | None
    unit: str
    kind: str = "estimated"
    source: str = ""
    date: str = ""
    printed: str = ""
    note: str = ""
    state: str = "known"
    shape: tuple[int, ...] | None = None
    disputed: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.state != "known":
            return self.state
        if self.shape is not None:
            return "x".join(map(str, self.shape))
        assert self.value is not None
        return show(self.value, self.unit)


@dataclass(frozen=True)
class MemoryTier:
    """A memory: bytes as built, what a program can have of it, and bytes per second; None where unknown."""

    name: str
    bytes: int | None
    usable_bytes: int | None
    bandwidth_bytes_per_s: float | None
    technology: str | None = None


@dataclass(frozen=True)
class Link:
    """How a chip reaches others: rates in bytes per second, one way. None where unknown."""

    role: str
    name: str | None
    wire: str | None
    topology: str
    one_way_bytes_per_s: float | None
    peer_one_way_bytes_per_s: float | None
    bidirectional_bytes_per_s: float | None
    domain_chips: int | None


@dataclass(frozen=True)
class TorchAnswers:
    """What the chip says to a program that asks torch about it."""

    device_name: str
    capability: tuple[int, int]
    warp_size: int
    multi_processor_count: int
    total_memory_bytes: int
    arch: str | None = None


@dataclass(frozen=True, eq=False)
class Chip:
    """A chip of the standard. Equal and hashed by the content of its files (`digest`). inherits: what was measured on chips
    that it extends, the nearest first, and holds for it."""

    id: str
    aliases: tuple[str, ...]
    vendor: str
    name: str
    platform: Platform
    generation: str | None
    execution: str
    figures: Mapping[str, Figure]
    grade: str = "D"
    digest: str = ""
    file: Path = Path()
    notes: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict)
    inherits: tuple[Inherited, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chip) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @classmethod
    def load(cls, name: str) -> "Chip":
        """As `load_chip`."""
        from anychip.spec.load import load_chip

        return load_chip(name)

    @property
    def runs_of(self) -> str:
        """The chip whose published runs are its own."""
        return next((lent.chip for lent in self.inherits if lent.runs), self.id)

    def get(self, path: str) -> float | None:
        """A figure's SI value by its dotted path, None where it is unknown or the chip has no such thing."""
        figure = self.figures.get(path)
        return figure.value if figure else None

    def need(self, path: str) -> float:
        """As `get`, for what cannot be done without: raises UnknownFigure."""
        value = self.get(path)
        if value is None:
            raise self.lacks(path)
        return value

    @property
    def lacking(self) -> tuple[str, ...]:
        """Figures that are unknown, and without which there is no forecast: the memory's size and bandwidth, any peak."""
        peaks = ("peaks.matrix.", "peaks.vector.")
        known = {
            "memory.main.capacity": self.get("memory.main.usable") or self.get("memory.main.capacity"),
            "memory.main.bandwidth": self.get("memory.main.bandwidth"),
            A_PEAK: any(figure.value for path, figure in self.figures.items() if path.startswith(peaks)),
        }
        return tuple(path for path, value in known.items() if not value)

    def lacks(self, *paths: str) -> UnknownFigure:
        """What to raise where these figures are unknown and cannot be done without."""
        are, them, their = ("is", "it", "its source") if len(paths) == 1 else ("are", "them", "their sources")
        what = f"{', '.join(paths)} {are} unknown, and this needs {them}"
        return UnknownFigure(f"{self.id}: {what}. Add {them} to {self.file}, with {their}")

    def _count(self, path: str) -> int | None:
        value = self.get(path)
        return None if value is None else int(value)

    def _shape(self, path: str) -> tuple[int, ...] | None:
        figure = self.figures.get(path)
        return figure.shape if figure else None

    def peak_flop_per_s(self, dtype: str, engine: str = "matrix") -> float | None:
        """Dense peak for bf16, fp16, fp32, tf32, fp64, fp8, fp6, fp4, int8, int4; engine "matrix" or "vector"."""
        return self.get(f"peaks.{engine}.{dtype}")

    @property
    def memory_bytes(self) -> int:
        """What a program can allocate at most: the usable bytes where known, else the bytes as built."""
        usable = self._count("memory.main.usable")
        return usable if usable is not None else int(self.need("memory.main.capacity"))

    @property
    def memory_bandwidth_bytes_per_s(self) -> float:
        return self.need("memory.main.bandwidth")

    @property
    def memory_tiers(self) -> tuple[MemoryTier, ...]:
        """All memories, "main" first, then as the file orders them."""
        tables: Mapping[str, Any] = self.raw.get("memory", {})
        names = sorted(tables, key=lambda name: name != "main")
        return tuple(self._tier(name, tables[name].get("technology")) for name in names)

    def _tier(self, name: str, technology: str | None) -> MemoryTier:
        at = f"memory.{name}"
        sizes = self._count(f"{at}.capacity"), self._count(f"{at}.usable")
        return MemoryTier(name, *sizes, self.get(f"{at}.bandwidth"), technology)

    @property
    def cores(self) -> int | None:
        return self._count("engine.cores")

    @property
    def matrix_tile(self) -> tuple[int, int, int] | None:
        shape = self._shape("engine.matrix_tile")
        return (shape[0], shape[1], shape[2]) if shape else None

    @property
    def matrix_unit(self) -> tuple[int, int] | None:
        shape = self._shape("engine.matrix_unit")
        return (shape[0], shape[1]) if shape else None

    @property
    def devices_per_package(self) -> int:
        return int(self.raw.get("engine", {}).get("devices_per_package", 1))

    @property
    def device(self) -> str | None:
        """The file of one of several devices in a package, where there is one."""
        named: str | None = self.raw.get("engine", {}).get("device")
        return named if named != self.id else None  # which a device has from the file that it extends

    @property
    def host_link_bandwidth_bytes_per_s(self) -> float | None:
        return self.get("links.host.one_way")

    @property
    def power_w(self) -> float | None:
        return self.get("power.limit")

    @property
    def price_usd_per_hour(self) -> float | None:
        """The lowest listed cloud price of one chip."""
        return self.get("price.per_hour_low")

    @property
    def export_status(self) -> str | None:
        status: str | None = self.raw.get("export", {}).get("status")
        return status

    @property
    def links(self) -> Mapping[str, Link]:
        """scale_up, scale_out and host, as far as the file knows them."""
        return {role: self._link(role, table) for role, table in self.raw.get("links", {}).items()}

    @property
    def scale_up(self) -> Link | None:
        return self.links.get("scale_up")

    @property
    def scale_out(self) -> Link | None:
        return self.links.get("scale_out")

    def _link(self, role: str, table: Mapping[str, Any]) -> Link:
        at = f"links.{role}"
        return Link(
            role=role,
            name=table.get("name"),
            wire=catalogue.as_named("links", table.get("wire"), self.file),
            topology=table.get("topology", "unknown"),
            one_way_bytes_per_s=self.get(f"{at}.one_way"),
            peer_one_way_bytes_per_s=self.get(f"{at}.peer_one_way"),
            bidirectional_bytes_per_s=self.get(f"{at}.bidirectional"),
            domain_chips=self._count(f"{at}.domain_chips"),
        )

    @property
    def torch(self) -> TorchAnswers:
        """What this chip answers; where its file is silent, what its platform answers."""
        said: Mapping[str, Any] = self.raw.get("torch", {})
        capability = said.get("capability", self.platform.capability)
        return TorchAnswers(
            device_name=said.get("device_name", f"{self.vendor} {self.name}"),
            capability=(capability[0], capability[1]),
            warp_size=said.get("warp_size", self.platform.warp_size),
            multi_processor_count=self.cores or 1,
            total_memory_bytes=self.memory_bytes,
            arch=said.get("arch"),
        )

    def with_figures(self, changes: Mapping[str, float | None]) -> "Chip":
        """The same chip with some figures set, in SI units: for "what if" questions; such figures are `estimated`."""
        figures = dict(self.figures)
        for path, value in changes.items():
            unit = figures[path].unit if path in figures else _dimension(path)
            state = "known" if value is not None else "unknown"
            figures[path] = Figure(value, unit, "estimated", "what-if", printed=f"{value} {unit}", state=state)
        digest = hashlib.sha256(f"{self.digest} {sorted(changes.items())}".encode()).hexdigest()
        return replace(self, figures=figures, digest=digest)


def _dimension(path: str) -> str:
    node = tree("chips")
    for part in path.split("."):
        child = node.children.get(part) or node.wildcard
        if child is None:
            raise ValueError(f"no such figure of a chip: {path}")
        node = child
    if node.field is None or node.field.type != "figure":
        raise ValueError(f"not a figure of a chip: {path}")
    return node.field.dimension


def build_figures(table: Mapping[str, Any], schema: str = "chips") -> dict[str, Figure]:
    """Every figure of a validated table by its dotted path."""
    disputes = {entry["figure"]: entry for entry in table.get("disputed", ())}
    found: dict[str, Figure] = {}
    _collect(table, tree(schema), "", table.get("sources", {}), disputes, found)
    return found


def _collect(
    value: Mapping[str, Any], node: Any, path: str, sources: Mapping[str, Any], disputes: Any, found: dict[str, Figure]
) -> None:
    for key, item in value.items():
        child = node.children.get(key) or node.wildcard
        here = f"{path}.{key}" if path else key
        if child is None:
            continue
        if child.field is None and isinstance(item, dict):
            _collect(item, child, here, sources, disputes, found)
        elif child.field is not None and child.field.type in ("figure", "shape"):
            found[here] = _figure(item, child.field.dimension, sources, disputes.get(here))


def _figure(item: Any, dimension: str, sources: Mapping[str, Any], dispute: Mapping[str, Any] | None) -> Figure:
    disputed = (*dispute["values"], f"used: {dispute['used']}, because {dispute['why']}") if dispute else ()
    if isinstance(item, str):
        return Figure(None, dimension, state=item, printed=item, disputed=disputed)
    source = sources[item["src"]]
    origin = {
        "kind": item.get("kind", source["kind"]),
        "source": source.get("url", source["title"]),
        "date": item.get("date", source["date"]),
        "note": item.get("note", ""),
        "disputed": disputed,
    }
    number = item["value"]
    if isinstance(number, list):
        return Figure(None, "elements", shape=tuple(number), printed="x".join(map(str, number)), **origin)
    return Figure(to_si(number, item["unit"]), dimension, printed=f"{number} {item['unit']}", **origin)
