"""The Python API behind the command line: `record` a program once, `forecast` it on every target that was asked for."""

import contextlib
import os
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from anychip.caveats import targets
from anychip.errors import INTERRUPTED, AnychipError, BadUse, Deadlock, ProgramFailed
from anychip.garbage import uncollected
from anychip.places import OnChips, Place, places_of
from anychip.record.failure import Failure, failure_of
from anychip.record.program import Program
from anychip.recordings import MADE, Argv, Recorded, Say, noting, record_all, silent, unlike, why_own
from anychip.recordings import record as record
from anychip.spec import Chip, UnknownFigure, load_chip

if TYPE_CHECKING:
    from anychip.cluster import ClusterTimeline, Stragglers
    from anychip.forecast import Forecast
    from anychip.memory import Peaks
    from anychip.network import Fabric

One = TypeVar("One")
Asked = ParamSpec("Asked")
Batch = Mapping[str, int | None]  # tokens_per_step and samples_per_step, as they were given


@dataclass(frozen=True)
class Answer:
    """Forecasts of one program on several targets, in the order asked.

    names: the targets as they were asked for, ranges written out. chips: of each its chip. programs: the recording that each
    forecast was priced from; one object where one recording served several chips.
    own_recordings: for each chip the questions that it answers otherwise than the first chip, for which it was recorded
    on its own. reserved_bytes: the most that PyTorch's caching allocator would hold of the chip's memory; None for chips
    whose steps are compiled whole, which have no such allocator.
    fabrics: the network of each, None for one chip. stragglers: what made ranks unequal.
    left_out: targets that there is no answer for, as `warnings` says why; too_small: those of them that have too little memory. failures: how the program failed on each, if it did; where
    that was for want of memory before its first step, the figures are of a recording on another chip.
    wall_s: seconds spent here on record, price and total. prices: USD an hour by chip, where they were given. interrupted: the program was stopped by Ctrl-C; a recording that was
    going on is of what it had done by then, and a target on which no step was complete is left out.
    """

    program: str
    names: tuple[str, ...]
    chips: tuple[Chip, ...]
    programs: tuple[Program, ...]
    forecasts: "tuple[Forecast, ...]"
    own_recordings: tuple[tuple[str, ...], ...] = ()
    reserved_bytes: tuple[int | None, ...] = ()
    fabrics: "tuple[Fabric | None, ...]" = ()
    stragglers: "Stragglers | None" = None
    left_out: tuple[str, ...] = ()
    too_small: tuple[str, ...] = ()
    failures: tuple[Failure | None, ...] = ()
    wall_s: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    prices: Mapping[str, float] = field(default_factory=dict)
    interrupted: bool = False

    def timeline(self, index: int) -> "ClusterTimeline | None":
        """A target's job on its clock, simulated again; None for one chip."""
        fabric = self.fabrics[index] if self.fabrics else None
        if fabric is None:
            return None
        from anychip.cluster import simulate
        from anychip.job import node_chips

        return simulate(self.programs[index], self.chips[index], fabric, stragglers=self.stragglers,
                        node_chips=node_chips(fabric))  # fmt: skip

    @property
    def host(self) -> str | None:
        """Whose time the host's is: "modelled", of launching alone, or "measured"; None for recordings that do not tell."""
        return self.programs[0].meta.get("host")

    @property
    def scaling(self) -> tuple[float | None, ...]:
        """Of each target what a chip does of what it does in the smallest job of that chip here, in the same cluster where that is as
        small; None where all have one size, or what a step reads is not known."""
        found = []
        for one in self.forecasts:
            same = [other for other in self.forecasts if other.chip == one.chip]
            best = min(same, key=lambda other: (other.num_chips, other.cluster != one.cluster)).rate_per_chip
            several = len({other.num_chips for other in same}) > 1
            found.append(one.rate_per_chip / best if several and best and one.rate_per_chip else None)
        return tuple(found)

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, the program's own where it failed, 1 where it does not fit, would fail or has no answer on a target, else 0."""
        if self.interrupted:
            return INTERRUPTED
        failed = next((code for one in self.programs if (code := int(one.meta.get("exit_code") or 0))), 0)
        return failed or int(self.outcome != "fine")

    @property
    def outcome(self) -> str:
        """What the exit code means: "interrupted"; "program_failed": by itself, after some steps; "does_not_fit" on a target;
        "would_fail" on one, whose chip refuses what the program does; "left_out": a target has no answer; "fine"."""
        if self.interrupted:
            return "interrupted"
        if any(failure is not None and not failure.refusal for failure in self.failures):
            return "program_failed"
        if self.too_small or not all(forecast.fits for forecast in self.forecasts):
            return "does_not_fit"
        if any(self.failures):  # for want of memory of the chip that it was recorded on, which these have
            return "program_failed"
        if any(forecast.would_fail for forecast in self.forecasts):
            return "would_fail"
        return "left_out" if self.left_out else "fine"


MOST_CERTAIN = 32  # ranks, all of which run where a job seems to hang


def _certain(ask: Callable[Asked, Answer]) -> Callable[Asked, Answer]:
    """Where a job seems to hang after only some of its ranks ran, or with values that others would have given, all run: then what each
    gives really travels, and it hangs or does not. Where what the first run left is in the way of that, that it seems to hang is still
    the answer."""

    @wraps(ask)
    def forecast(*args: Asked.args, **kwargs: Asked.kwargs) -> Answer:
        try:
            return ask(*args, **kwargs)
        except Deadlock as error:
            given: Any = signature(ask).bind(*args, **kwargs)
            program, on, options = (given.arguments.get(name) for name in ("program", "on", "options"))
            options = options or {}
            size = max(place.num_chips for place in places_of(on))
            if isinstance(program, Program) or options.get("ranks") == "all" or size > MOST_CERTAIN:
                raise
            progress = given.arguments.get("progress", silent)
            progress(f"the job seems to hang: all {size} ranks run, to be certain")
            given.arguments["options"] = {**options, "ranks": "all", "show_output": False}
            try:
                return ask(*given.args, **given.kwargs)
            except ProgramFailed as failed:
                if not MADE.search(failed.said):
                    raise
                progress("files that its first run made are in its way: what follows is of that run")
            raise error

    return forecast


def load(path: str | os.PathLike[str]) -> Program:
    """A saved recording. Raises BadProgramFile."""
    return Program.load(path)


@_certain
def forecast(
    program: Program | Argv,
    on: OnChips,
    *,
    tokens_per_step: int | None = None,
    samples_per_step: int | None = None,
    prices: Mapping[str, float] | None = None,
    jobs: int = 2,
    jitter: float = 0.0,
    slow_node: float = 1.0,
    degraded_link: float = 1.0,
    spread: float | None = None,
    progress: Say = silent,
    **options: Any,
) -> Answer:
    """How a program would run on each target of `on`: CHIP[:COUNT[..COUNT][@CLUSTER]].

    program: a recording, or what `record` takes; then `options` are the keyword arguments of `record`, the first target
    is the one that the program's output is shown of, and chips that would have answered it otherwise get a recording of
    their own, `jobs` at a time. A recording given as such is priced as it stands, with a warning for each such chip.
    tokens_per_step, samples_per_step: of the whole job, where they are not what the first embedding or layer sees. prices: USD that an hour
    of a chip costs, by id or alias, over the lowest that its file lists. jitter, slow_node, degraded_link, spread: what makes ranks
    unequal (`cluster.Stragglers`; the last is known where it is not given). progress: called with lines of text.
    Raises BadUse for a recording of another number of ranks or a price of a chip that is not asked for, BadNetwork, Deadlock.
    """
    began = time.perf_counter()
    asked = places_of(on, program.world_size if isinstance(program, Program) else 1)
    places, unknown = _known(asked)
    usd_per_hour = _by_id(prices or {}, places)
    stragglers = _stragglers(places, jitter, slow_node, degraded_link, spread)
    for place in places:
        place.fabric  # noqa: B018 - what a network lacks is told before anything runs
    batch = {"tokens_per_step": tokens_per_step, "samples_per_step": samples_per_step}
    drafted = _Ahead(places, batch, stragglers)
    if isinstance(program, Program):
        _check_ranks(program, places)
        found = Recorded(dict.fromkeys(places, program), warnings=unlike(program, [place.chip for place in places]))
    else:
        found = record_all(program, places, jobs, progress, {**options, "draft": drafted.price})
        found.warnings.extend(targets.never_marked(found.programs.values(), options.get("step_mark")))
    recorded, warnings = found.programs, targets.of_files(places) + found.warnings + unknown
    recorded_s = time.perf_counter() - began
    _check_used(recorded.values(), _title(program))
    note = noting(progress)

    def priced(place: Place) -> "Forecast":
        note(f"pricing on {place}")
        return drafted.known(recorded[place], place) or _price(recorded[place], place, batch, stragglers)

    forecasts, unknown = _as_known(recorded, priced)
    places = list(forecasts)
    forecasts |= {
        place: replace(forecasts[place], usd_per_hour=usd_per_hour[place.chip.id])
        for place in places
        if place.chip.id in usd_per_hour
    }
    # The recording that is priced may leave a little more free than the chip's allocator could.
    forecasts |= {place: replace(forecasts[place], fits=False) for place in places if place in found.short}
    programs = [recorded[place] for place in places]
    warnings += unknown
    reserved = [_reserved(recorded[place], place.chip, one) for place, one in forecasts.items()]
    scattered = [
        place for place, held in zip(places, reserved, strict=True) if held and held.failed and forecasts[place].fits
    ]
    forecasts |= {place: replace(forecasts[place], fits=False) for place in scattered}
    total_s = time.perf_counter() - began
    progress(f"priced on {', '.join(map(str, places))} in {(total_s - recorded_s) * 1e3:.0f} ms")
    warnings += targets.of_each({place: recorded[place].meta.get("warnings", ()) for place in places})
    warnings += [text for one in programs for text in targets.of_failure(one, len(places) > 1)]
    warnings += targets.strangers(programs, {one.step_kind for one in forecasts.values()})
    warnings += targets.of_each({place: place.fabric.assumptions for place in places if place.fabric is not None})
    warnings += [
        *targets.of_each({place: one.warnings for place, one in forecasts.items()}),
        *targets.uneven(forecasts),
        *(targets.scattered(place, forecasts[place]) for place in scattered),
        *targets.tight(forecasts),
        *targets.fits_from(forecasts),
    ]
    return Answer(
        program=_title(program),
        names=tuple(place.name for place in places),
        chips=tuple(place.chip for place in places),
        programs=tuple(programs),
        forecasts=tuple(forecasts.values()),
        own_recordings=tuple(why_own(recorded[place], programs[0], place.chip) for place in places),
        reserved_bytes=tuple(held.reserved_bytes if held else None for held in reserved),
        fabrics=tuple(place.fabric for place in places),
        stragglers=stragglers,
        left_out=tuple(place.name for place in asked if place not in forecasts),
        too_small=tuple(place.name for place in found.too_small),
        failures=tuple(_how_failed(found, place) for place in places),
        wall_s={"record": recorded_s, "price": total_s - recorded_s, "total": total_s},
        warnings=tuple(dict.fromkeys(warnings)),
        prices=usd_per_hour,
        interrupted=found.interrupted or any(one.meta.get("interrupted") for one in programs),
    )


def _by_id(prices: Mapping[str, float], places: Sequence[Place]) -> dict[str, float]:
    """Prices by the ids of chips that are asked for."""
    asked = {place.chip.id for place in places}  # also chips of files that no search path has
    found: dict[str, float] = {}
    for name, usd in prices.items():
        chip = name if name in asked else load_chip(name).id
        if found.setdefault(chip, usd) != usd:
            raise BadUse(f"two prices are given of {chip}, {found[chip]:g} and {usd:g} USD an hour: leave out one.")
    for chip in found.keys() - asked:
        raise BadUse(
            f"a price is given of {chip}, which is not asked for: --on {', '.join(str(place) for place in places)}"
        )
    return found


class _Ahead:
    """Prices a job on the places that it is recorded for while its last samples run. What fails here is told when it is over."""

    def __init__(self, places: Sequence[Place], batch: Batch, stragglers: "Stragglers") -> None:
        self._places, self._batch, self._stragglers = places, batch, stragglers
        self._priced: WeakKeyDictionary[Program, dict[Place, Forecast]] = WeakKeyDictionary()

    def price(self, program: Program) -> None:
        for place in self._places:
            if (place.chip.id, place.num_chips) == (program.meta.get("chip"), program.world_size):
                with contextlib.suppress(AnychipError):
                    one = _price(program, place, self._batch, self._stragglers)
                    self._priced.setdefault(program, {})[place] = one
                    _reserved(program, place.chip, one)

    def known(self, program: Program, place: Place) -> "Forecast | None":
        return self._priced.get(program, {}).get(place)


def _known(places: list[Place]) -> tuple[list[Place], list[str]]:
    """Places that can be priced at all, told before anything runs, and what to say of the others; UnknownFigure where none
    can."""

    def lacks(place: Place) -> None:
        if place.chip.lacking:
            raise place.chip.lacks(*place.chip.lacking)

    known, lacking = _as_known(places, lacks)
    return list(known), lacking


def _as_known(places: Iterable[Place], of: Callable[[Place], One]) -> tuple[dict[Place, One], list[str]]:
    """What `of` gives for each place, and what to say of those whose files lack a figure; UnknownFigure where all do."""
    found: dict[Place, One] = {}
    lacking: list[UnknownFigure] = []
    for place in places:
        try:
            found[place] = of(place)
        except UnknownFigure as error:
            lacking.append(error)
    if not found:
        raise UnknownFigure("\n".join(dict.fromkeys(map(str, lacking))))
    return found, [f"left out: {error}" for error in lacking]


def _stragglers(places: list[Place], jitter: float, slow_node: float, degraded_link: float,
                spread: float | None) -> "Stragglers":  # fmt: skip
    from anychip.cluster import Stragglers
    from anychip.cluster.stragglers import SPREAD

    wanted = Stragglers(jitter, slow_node, degraded_link, SPREAD if spread is None else spread)
    if (spread is not None or wanted != Stragglers()) and all(place.num_chips == 1 for place in places):
        raise BadUse("jitter, spread, slow nodes and degraded links are of jobs of several chips. Try: --on h100:8")
    return wanted


def _check_ranks(program: Program, places: list[Place]) -> None:
    for place in places:
        if place.num_chips != program.world_size:
            ranks = f"{program.world_size} rank{'s' * (program.world_size > 1)}"
            raise BadUse(
                f"{place.name}: the recording is of a job of {ranks}, and a program does something else on "
                f"{place.num_chips}. Record it with --on {place.chip.id}:{place.num_chips}."
            )


def _check_used(programs: Iterable[Program], title: str) -> None:
    """A program that falls back to the CPU takes all its steps there: figures of nothing would look like an answer."""
    for program in programs:
        if not any(rank.ops for rank in program.ranks) and not program.meta.get("interrupted"):
            started = (
                " It started processes of its own: one of these is recorded once it has taken as many steps as are asked for, or made as many "
                "calls of a model (--calls N); their errors are above."
            )
            raise BadUse(
                f"{title} ran without a single operation on the chip. Was it told to use the CPU, or does it choose it "
                f"by a test that the virtual chip does not pass? Programs see the chip as cuda.{started * bool(program.meta.get('forked'))}"
            )


# Without a limit, of recordings that live, by the allocator's settings.
_replayed: "WeakKeyDictionary[Program, dict[str, Peaks]]" = WeakKeyDictionary()
FULLEST = 2  # distinct ranks, those that hold most at once: the allocator keeps most where most is


@uncollected()
def _reserved(program: Program, chip: Chip, forecast: "Forecast") -> "Peaks | None":
    """Peak of what PyTorch's allocator holds, set as it was where it was recorded, else as the chip's own variable says. Only where memory is short does the chip's size change the answer, so a
    recording is replayed once without a limit, and again only for the chips that this does not fit on."""
    from anychip.forecast import reserved
    from anychip.memory import NO_LIMIT, settings_of

    settings = program.meta.get("allocator") or settings_of(chip.platform.alloc_conf)

    def most_of(limit: int) -> "Peaks":
        held = {rank.rank: rank.peak_memory_bytes for rank in forecast.ranks}
        fullest = sorted(program.ranks, key=lambda rank: -held.get(rank.rank, 0))[:FULLEST]
        peaks = [reserved(rank, limit, settings) for rank in fullest]
        return max(peaks, key=lambda one: (one.failed, one.reserved_bytes))

    if chip.execution == "graph":
        return None
    replayed = _replayed.setdefault(program, {})
    if settings not in replayed:
        replayed[settings] = most_of(NO_LIMIT)
    most = replayed[settings]
    return most_of(chip.memory_bytes) if most.reserved_bytes > chip.memory_bytes else most


def _how_failed(found: Recorded, place: Place) -> Failure | None:
    return found.short[place].how if place in found.short else failure_of(found.programs[place])


@uncollected()
def _price(program: Program, place: Place, batch: Batch, stragglers: "Stragglers") -> "Forecast":
    if place.fabric is None:
        from anychip.forecast import forecast as price

        return price(program, place.chip, **batch)
    from anychip.job import forecast_job

    return forecast_job(program, place.chip, place.fabric, stragglers=stragglers, **batch)


def _title(program: Any) -> str:
    if isinstance(program, Program):
        return shlex.join(program.meta.get("argv", ["?"]))
    return os.fspath(program) if isinstance(program, str | os.PathLike) else shlex.join(program)
