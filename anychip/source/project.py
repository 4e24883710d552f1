"""Device names that cross files: what each file's flow says, joined over the imports of a project.

In: for each module its values, edges and sinks (`anychip.source.flow`), without trees. Out: for each sink the values that
reach it. A module is known by its path from the root, by that path without leading folders, and from beside it.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from anychip.source.flow import Flow, Sink, flow_of
from anychip.source.module import Module, Place

_MAX_REACHED = 2000


@dataclass(frozen=True)
class Source:
    """A device name at its place. kind: device, backend, tensor_type."""

    place: Place
    kind: str
    text: str


@dataclass(frozen=True)
class ModuleFlow:
    """The flow of one module, small enough to keep of every file. sources: slot -> what is written into it."""

    module: str
    sources: tuple[tuple[str, Source], ...]
    edges: Mapping[str, tuple[str, ...]]
    sinks: tuple[Sink, ...]


@dataclass(frozen=True)
class Reached:
    sink: Sink
    source: Source


def module_flow(module: Module) -> ModuleFlow:
    flow: Flow = flow_of(module)
    sources = tuple((slot, Source(module.place(v.node), v.kind, v.text)) for v in flow.values for slot in v.slots)
    return ModuleFlow(module.name, sources, dict(flow.edges), flow.sinks)


def follow(flows: Sequence[ModuleFlow]) -> Iterator[Reached]:
    """Every sink that a device name reaches, with the nearest one: of the same file before others, then the first found."""
    names = _Names([flow.module for flow in flows])
    held: dict[str, list[Source]] = {}
    edges: dict[str, list[str]] = {}
    for flow in flows:
        for slot, source in flow.sources:
            held.setdefault(names.whole(slot, flow.module), []).append(source)
        for slot, from_ in flow.edges.items():
            edges.setdefault(names.whole(slot, flow.module), []).extend(names.whole(s, flow.module) for s in from_)
    _options(held)
    reached: dict[str, tuple[Source, ...]] = {}
    for flow in flows:
        for sink in flow.sinks:
            slot = names.whole(sink.slot, flow.module)
            if slot not in reached:
                reached[slot] = tuple(_sources(slot, held, edges))
            found = reached[slot]
            if found:
                yield Reached(sink, next((s for s in found if s.place.path == sink.place.path), found[0]))


def _sources(slot: str, held: Mapping[str, list[Source]], edges: Mapping[str, list[str]]) -> Iterator[Source]:
    """Breadth first from the slot against the edges."""
    seen, queue = {slot}, deque([slot])
    while queue and len(seen) < _MAX_REACHED:
        at = queue.popleft()
        yield from held.get(at, ())
        if at.startswith("args:") and at not in held:
            yield from held.get(at.partition("@")[0], ())
        for other in edges.get(at, ()):
            if other not in seen:
                seen.add(other)
                queue.append(other)


def _options(held: dict[str, list[Source]]) -> None:
    """An option that a file reads and does not declare is declared in another: args:device of any."""
    for slot in [slot for slot in held if slot.startswith("args:")]:
        held.setdefault(slot.partition("@")[0], []).extend(held[slot])


class _Names:
    """Dotted names as they are written in one module -> as the project has them."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.modules = set(modules)
        self.by_tail: dict[str, str | None] = {}
        for name in modules:
            tail = name
            while "." in tail:
                tail = tail.partition(".")[2]
                self.by_tail[tail] = None if tail in self.by_tail else name
        self.known: dict[tuple[str, str], str] = {}

    def whole(self, slot: str, module: str) -> str:
        if slot.startswith("args:") or slot.startswith(f"{module}."):
            return slot
        head, mark, tail = _cut(slot)
        key = (head, module.rpartition(".")[0])
        if key not in self.known:
            self.known[key] = self._resolve(head, key[1])
        return self.known[key] + mark + tail

    def _resolve(self, dotted: str, package: str) -> str:
        """Replace the longest part that is a module by the module's whole name."""
        part, rest = dotted, ""
        while part:
            found = self._module(part, package)
            if found:
                return found + rest
            part, _, last = part.rpartition(".")
            rest = f".{last}{rest}"
        return dotted

    def _module(self, name: str, package: str) -> str | None:
        if name in self.modules:
            return name
        beside = f"{package}.{name}" if package else name
        return beside if beside in self.modules else self.by_tail.get(name)


def _cut(slot: str) -> tuple[str, str, str]:
    """The dotted name of a slot and what follows it: (), [key], #1."""
    for at, letter in enumerate(slot):
        if letter in "([#@":
            return slot[:at], letter, slot[at + 1 :]
    return slot, "", ""
