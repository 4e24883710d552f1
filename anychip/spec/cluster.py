"""Networks as values: a wire of links/ and a cluster of clusters/, each figure with its origin.

`load_cluster("dgx-h100")` by id, alias or path; `load_wire("nvlink4")`; `list_clusters()`. Unknown stays unknown: such
a figure is None, and whoever cannot do without it says which file lacks it.
"""

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from anychip.errors import UnknownCluster
from anychip.spec import catalogue
from anychip.spec.chip import Figure, build_figures
from anychip.spec.problem import raise_problems
from anychip.spec.toml import Document, read
from anychip.spec.validate import is_id, validate


@dataclass(frozen=True)
class _Sheet:
    """What a wire and a cluster have in common: figures by dotted path, in SI units."""

    id: str
    name: str
    figures: Mapping[str, Figure] = field(default_factory=dict, compare=False)
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False)
    digest: str = ""
    file: Path = field(default=Path(), compare=False)

    def get(self, path: str) -> float | None:
        """A figure's SI value, None where it is unknown or absent."""
        figure = self.figures.get(path)
        return figure.value if figure else None

    def count(self, path: str) -> int | None:
        value = self.get(path)
        return None if value is None else int(value)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.raw.get("notes", ()))


@dataclass(frozen=True)
class Wire(_Sheet):
    """A wire and its protocol."""

    @property
    def link_bytes_per_s(self) -> float | None:
        """What one link carries in one direction."""
        return self.get("wire.per_link_one_way")

    @property
    def latency_s(self) -> float | None:
        return self.get("wire.latency")

    @property
    def hop_latency_s(self) -> float | None:
        return self.get("wire.hop_latency")

    @property
    def efficiency(self) -> float | None:
        """Share of the wire rate that large collectives reach."""
        return self.get("wire.efficiency")

    @property
    def in_network_reduction(self) -> bool:
        return bool(self.raw.get("wire", {}).get("in_network_reduction", False))

    @property
    def coherent(self) -> bool:
        """Whether the chip reads the host's memory as it is, pinned or not."""
        return bool(self.raw.get("wire", {}).get("coherent", False))

    @property
    def in_network_efficiency(self) -> float | None:
        return self.get("wire.in_network_efficiency")


@dataclass(frozen=True)
class ClusterTier:
    """A tier outside of the scale-up domain. chips: of one domain, None for the whole cluster. None: unknown."""

    name: str
    chips: int | None
    wire: str | None
    one_way_bytes_per_s: float | None
    oversubscription: float
    latency_s: float | None
    in_network_reduction: bool


@dataclass(frozen=True)
class Cluster(_Sheet):
    """How chips are put together."""

    aliases: tuple[str, ...] = ()
    chips: tuple[str, ...] = ()

    @property
    def asked(self) -> str:
        """What to write after @ to get this cluster: its id, or its file where no id leads to it."""
        return self.id if catalogue.find("clusters", self.id) == self.file else str(self.file)

    @property
    def node_chips(self) -> int | None:
        return self.count("node.chips")

    @property
    def domain_chips(self) -> int | None:
        return self.count("scale_up.domain_chips")

    @property
    def topology(self) -> str:
        text: str = self.raw.get("scale_up", {}).get("topology", "unknown")
        return text

    @property
    def torus_shape(self) -> tuple[int, ...]:
        return tuple(self.raw.get("scale_up", {}).get("shape", ()))

    @property
    def wrap_multiple(self) -> int:
        return int(self.raw.get("scale_up", {}).get("wrap_multiple", 1))

    @property
    def scale_up_bytes_per_s(self) -> float | None:
        """What one chip can send inside its domain, where that is not as in the chip's file."""
        return self.get("scale_up.one_way_per_chip")

    @property
    def peer_bytes_per_s(self) -> float | None:
        return self.get("scale_up.peer_one_way")

    @property
    def nic_bytes_per_s(self) -> float | None:
        """Network rate of one chip, one way."""
        return self.get("scale_out.one_way_per_chip")

    @property
    def max_chips(self) -> int | None:
        return self.count("size.max_chips")

    @property
    def tiers(self) -> tuple[ClusterTier, ...]:
        """[tiers.X] of the file, from the smallest domain to the largest."""
        tables: Mapping[str, Any] = self.raw.get("tiers", {})
        found = [self._tier(name, table) for name, table in tables.items()]
        return tuple(sorted(found, key=lambda tier: tier.chips or 10**12))

    def _tier(self, name: str, table: Mapping[str, Any]) -> ClusterTier:
        at = f"tiers.{name}"
        return ClusterTier(
            name=name,
            chips=self.count(f"{at}.chips"),
            wire=catalogue.as_named("links", table.get("wire"), self.file),
            one_way_bytes_per_s=self.get(f"{at}.one_way_per_chip"),
            oversubscription=self.get(f"{at}.oversubscription") or 1.0,
            latency_s=self.get(f"{at}.latency"),
            in_network_reduction=bool(table.get("in_network_reduction", False)),
        )


def load_cluster(name: str | Path) -> Cluster:
    """The cluster of an id, an alias or a file. Raises UnknownCluster, BadChipFile."""
    file = _find("clusters", str(name))
    return _cluster(file, file.stat().st_mtime_ns)


def load_wire(name: str | Path) -> Wire:
    """The wire of an id or a file of links/. Raises UnknownCluster, BadChipFile."""
    file = _find("links", str(name))
    return _wire(file, file.stat().st_mtime_ns)


def list_clusters() -> list[Cluster]:
    """Every cluster that can be found, by id; of two files with one id the standard's."""
    files = {file.stem: file for file in reversed(catalogue.files("clusters"))}
    return [_cluster(files[name], files[name].stat().st_mtime_ns) for name in sorted(files)]


def list_wires() -> list[Wire]:
    """Every link that can be found, by id."""
    files = {file.stem: file for file in reversed(catalogue.files("links"))}
    return [_wire(files[name], files[name].stat().st_mtime_ns) for name in sorted(files)]


@cache
def _cluster(file: Path, stamp: int) -> Cluster:
    doc = _checked(file, "clusters")
    aliases, chips = tuple(doc.table.get("aliases", ())), tuple(doc.table["chips"])
    return Cluster(**_common(doc, "clusters"), aliases=aliases, chips=chips)


@cache
def _wire(file: Path, stamp: int) -> Wire:
    return Wire(**_common(_checked(file, "links"), "links"))


def _checked(file: Path, schema: str) -> Document:
    doc = read(file)
    raise_problems(validate(doc, schema), file)
    return doc


def _common(doc: Document, schema: str) -> dict[str, Any]:
    figures = build_figures(doc.table, schema)
    digest = hashlib.sha256(doc.text.encode()).hexdigest()
    return {"id": doc.table["id"], "name": doc.table["name"], "figures": figures, "raw": doc.table, "digest": digest,
            "file": doc.file}  # fmt: skip


def _find(kind: str, name: str) -> Path:
    what = {"clusters": "cluster", "links": "link"}[kind]
    if name.endswith(".toml"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UnknownCluster(f"{name}: no such {what} file. To begin one, copy one of: anychip chips clusters")
        return path.resolve()
    wanted = name.strip().lower()
    found = catalogue.find(kind, wanted) if is_id(wanted) else None
    return found or _by_alias(kind, what, name, wanted)


def _chip_called(name: str) -> str | None:
    """The id of the chip of an id or alias."""
    return next((head.id for head in catalogue.heads("chips") if name in (head.id, *head.aliases)), None)


def _by_alias(kind: str, what: str, name: str, wanted: str) -> Path:
    heads = catalogue.heads(kind)
    owners = list(dict.fromkeys(head.file for head in heads if wanted in head.aliases))
    if len(owners) == 1:
        return owners[0]
    if owners:
        raise UnknownCluster(f"{name!r} is an alias of more than one {what}: {', '.join(o.stem for o in owners)}")
    built = [c.id for c in list_clusters() if kind == "clusters" and _chip_called(wanted) in c.chips]
    if built:
        raise UnknownCluster(f"{name!r} is a chip, not a cluster; clusters of it: {', '.join(built)}")
    words = {word: head.id for head in heads for word in (head.id, *head.aliases)}
    near = difflib.get_close_matches(wanted, words, 3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(word) for word in near)}?" if near else ""
    raise UnknownCluster(f"no {what} is called {name!r}.{hint} A file works as well: a path that ends in .toml. "
                         f"See: anychip chips {kind}")  # fmt: skip
