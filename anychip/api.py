"""The Python API behind the command line: `record` a program once, `forecast` it on every target that was asked for.

A recording is priced on another chip as it stands where that chip would have answered every question that the program
asked in the same way; where an answer differs the program might have done something else, so it is recorded again.
"""

import contextlib
import os
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from anychip import targets
from anychip.argv import check
from anychip.errors import AnychipError, BadUse, ProgramFailed, error_line
from anychip.record.program import Program, Question
from anychip.spec import Chip, UnknownFigure, load_chip

if TYPE_CHECKING:
    from anychip.cluster import ClusterTimeline, Stragglers
    from anychip.forecast import Forecast
    from anychip.network import Fabric

INTERRUPTED = 130  # exit code after Ctrl-C

Say = Callable[[str], None]
One = TypeVar("One")
OnChips = str | Chip | Sequence[str | Chip]


def _silent(text: str) -> None:
    pass


@dataclass(frozen=True)
class Where:
    """One target: a number of chips, in a named cluster or as the chip's own file joins them. name: as it was asked for."""

    name: str
    chip: Chip
    num_chips: int = 1
    cluster: str | None = None


@dataclass(frozen=True)
class Answer:
    """Forecasts of one program on several targets, in the order asked.

    names: the targets as they were asked for, ranges written out. chips: of each its chip. programs: the recording that each forecast was priced from; one object where one recording served several chips.
    own_recordings: for each chip the questions that it answers otherwise than the first chip, for which it was recorded
    on its own. reserved_bytes: the most that PyTorch's caching allocator would hold of the chip's memory; None for chips
    whose steps are compiled whole, which have no such allocator.
    fabrics: the network of each, None for one chip. stragglers: what made ranks unequal.
    left_out: targets that there is no answer for, as `warnings` says why.
    wall_s: seconds spent here on record, price and total. interrupted: the program was stopped by Ctrl-C, so the
    forecasts hold only for what it had done by then.
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
    wall_s: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
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
    def exit_code(self) -> int:
        """130 after Ctrl-C, the program's own where it failed, 1 where it does not fit or a target has no answer, else 0."""
        if self.interrupted:
            return INTERRUPTED
        failed = int(self.programs[0].meta.get("exit_code") or 0)
        return failed or int(bool(self.left_out) or any(not forecast.fits for forecast in self.forecasts))


def places_of(on: OnChips, ranks_of: Program | None = None) -> list[Where]:
    """Every target, ranges written out, each once. ranks_of: a recording, whose ranks a target without a count takes.

    Raises UnknownChip, BadChipFile, BadTarget, BadUse for none.
    """
    ranks = ranks_of.world_size if ranks_of is not None else 1
    found: dict[tuple[Chip, int, str | None], Where] = {}
    for one in _listed(on):
        if isinstance(one, Chip):
            found.setdefault((one, ranks, None), Where(one.id, one, ranks))
            continue
        for target in targets.expand(one):
            count = ranks if ":" not in one and target.count == 1 else target.count
            chip = load_chip(target.chip)
            name = str(target) if count == target.count else f"{target.chip}:{count}"
            found.setdefault((chip, count, target.cluster), Where(name, chip, count, target.cluster))
    return list(found.values())


def _listed(on: OnChips) -> list[str | Chip]:
    wanted = [on] if isinstance(on, str | Chip) else list(on)
    if not wanted:
        raise BadUse("no chip given; see: anychip chips")
    return wanted


def load(path: str | os.PathLike[str]) -> Program:
    """A saved recording. Raises BadProgramFile."""
    return Program.load(path)


def record(
    program: str | os.PathLike[str] | Sequence[str],
    on: str | Chip,
    *,
    module: bool = False,
    steps: int | None = None,
    calls: int | None = None,
    step_mark: str | None = None,
    host: str = "modelled",
    device: str = "cuda",
    imbalance: float = 1.0,
    show_output: bool = True,
    num_chips: int = 1,
    chips_per_node: int = 8,
    ranks: str = "distinct",
    jobs: int = 2,
    cluster: str | None = None,
    draft: Callable[[Program], None] | None = None,
) -> Program:
    """Run a program on a virtual chip, shapes only, in a process of its own, and keep what it did.

    on: a chip, or a target of several chips: then num_chips, chips_per_node and cluster are as it says. num_chips: above 1
    the program runs as a job of as many ranks, with torchrun's environment, of which each distinct one is recorded (ranks
    "all": every one), at most `jobs` at a time. chips_per_node: how many a rank sees. cluster: whose network the
    program's clocks go by.

    program: script and its arguments, or with `module` a module's name and its arguments. It runs with your rights.
    steps, calls: where it is ended; without, after 3 steps, or 2 of a job of more than 1,024 ranks. host: "measured" adds the host's time as it passed here, the recording's own
    included, so that it is an upper bound. show_output: forward what it prints to stderr. imbalance: fullest
    over mean where data decide a split. draft: called with a job's recording while its last samples run: it is the one that
    is returned, unless they do otherwise than it says. step_mark: name of a function whose returns end steps. device: planned; other
    values than the default raise BadUse.
    Raises BadUse for a missing script, ProgramFailed if it failed before the first step, UnsupportedTorch.
    """
    argv = _argv(program, module)
    place, *others = places_of(on)
    if others:
        raise BadUse(f"{on}: a recording is of one number of chips of one kind")
    if place.num_chips > 1:
        fabric = _fabric(place)
        assert fabric is not None
        num_chips, chips_per_node, cluster = place.num_chips, _node_chips(fabric), place.cluster
    _not_yet(device)
    from anychip.device import launch

    return launch.record(
        argv,
        place.chip,
        steps=steps,
        module=module,
        calls=calls,
        step_mark=step_mark,
        host=host,
        device=device,
        imbalance=imbalance,
        show_output=show_output,
        world_size=num_chips,
        devices=min(num_chips, chips_per_node),
        ranks=ranks,
        jobs=jobs,
        cluster=cluster,
        draft=draft,
    )


def _not_yet(device: str) -> None:
    """Refuse what would otherwise be passed over in silence."""
    if device != "cuda":
        raise BadUse(f"--device {device} is not there yet: programs see every chip as cuda. Try it without --device.")


def _argv(program: str | os.PathLike[str] | Sequence[str], module: bool) -> list[str]:
    argv = [os.fspath(program)] if isinstance(program, str | os.PathLike) else list(program)
    check(argv, module)
    return argv


def forecast(
    program: Program | str | os.PathLike[str] | Sequence[str],
    on: OnChips,
    *,
    tokens_per_step: int | None = None,
    jobs: int = 2,
    jitter: float = 0.0,
    slow_node: float = 1.0,
    degraded_link: float = 1.0,
    progress: Say = _silent,
    **options: Any,
) -> Answer:
    """How a program would run on each target of `on`: CHIP[:COUNT[..COUNT]][@CLUSTER].

    program: a recording, or what `record` takes; then `options` are the keyword arguments of `record`, the first target
    is the one that the program's output is shown of, and chips that would have answered it otherwise get a recording of
    their own, `jobs` at a time. A recording given as such is priced as it stands, with a warning for each such chip.
    tokens_per_step: of the whole job, where they are not what the first embedding sees. jitter, slow_node,
    degraded_link: what makes ranks unequal (`cluster.Stragglers`). progress: called with lines of text.
    Raises BadUse for a recording of another number of ranks, BadNetwork, Deadlock.
    """
    began = time.perf_counter()
    asked = places_of(on, program if isinstance(program, Program) else None)
    places, unknown = _known(asked)
    chips = [place.chip for place in places]
    stragglers = _stragglers(places, jitter, slow_node, degraded_link)
    fabrics = [_fabric(place) for place in places]
    priced: WeakKeyDictionary[Program, dict[str, Forecast]] = WeakKeyDictionary()

    def ahead(drafted: Program) -> None:
        """Price a job on the chip that it is recorded on while its last samples run; what fails here is told when it is over."""
        for place, fabric in zip(places, fabrics, strict=True):
            if (place.chip.id, place.num_chips) == (drafted.meta.get("chip"), drafted.world_size):
                with contextlib.suppress(AnychipError):
                    one = _price(drafted, place.chip, fabric, tokens_per_step, stragglers)
                    priced.setdefault(drafted, {})[place.name] = one
                    _reserved([drafted], [place.chip], [one])

    if isinstance(program, Program):
        _check_ranks(program, places)
        programs, warnings = [program] * len(chips), _unlike(program, chips)
    else:
        found, failed = _record_all(program, places, fabrics, jobs, progress, {**options, "draft": ahead})
        kept = [index for index, place in enumerate(places) if (place.chip.id, place.num_chips) in found]
        places, fabrics = _of(places, kept), _of(fabrics, kept)
        chips = [place.chip for place in places]
        programs = [found[place.chip.id, place.num_chips] for place in places]
        warnings = failed + _never_marked(programs, options.get("step_mark"))
    warnings += unknown
    recorded_s = time.perf_counter() - began
    _check_used(programs, _title(program))
    forecasts, kept, unknown = _price_all(programs, places, fabrics, tokens_per_step, stragglers, priced)
    places, programs, fabrics = _of(places, kept), _of(programs, kept), _of(fabrics, kept)
    chips = [place.chip for place in places]
    warnings += unknown
    reserved = _reserved(programs, chips, forecasts)
    total_s = time.perf_counter() - began
    progress(f"priced on {', '.join(_target_text(place) for place in places)} in {(total_s - recorded_s) * 1e3:.0f} ms")
    warnings += [text for recorded in programs for text in (*recorded.meta.get("warnings", ()), *_failure(recorded))]
    warnings += _strangers(programs)
    warnings += [text for fabric in fabrics if fabric is not None for text in fabric.assumptions]
    warnings += [text for result in forecasts for text in result.warnings]
    warnings += _dtypes(programs, chips)
    return Answer(
        program=_title(program),
        names=tuple(place.name for place in places),
        chips=tuple(chips),
        programs=tuple(programs),
        forecasts=tuple(forecasts),
        own_recordings=tuple(_unlike_first(programs, chip, p) for chip, p in zip(chips, programs, strict=True)),
        reserved_bytes=reserved,
        fabrics=tuple(fabrics),
        stragglers=stragglers,
        left_out=tuple(place.name for place in asked if place not in places),
        wall_s={"record": recorded_s, "price": total_s - recorded_s, "total": total_s},
        warnings=tuple(dict.fromkeys(warnings)),
        interrupted=any(p.meta.get("interrupted") for p in programs),
    )


def _known(places: list[Where]) -> tuple[list[Where], list[str]]:
    """Targets that can be priced at all, told before anything runs, and what to say of the others; UnknownFigure where none
    can."""
    from anychip.forecast import check_figures

    known, lacking = _as_known(len(places), lambda index: check_figures(places[index].chip))
    return _of(places, list(known)), lacking


def _as_known(count: int, of: Callable[[int], One]) -> tuple[dict[int, One], list[str]]:
    """What `of` gives for each target by number, and what to say of those whose files lack a figure; UnknownFigure where all
    do."""
    found: dict[int, One] = {}
    lacking: list[UnknownFigure] = []
    for index in range(count):
        try:
            found[index] = of(index)
        except UnknownFigure as error:
            lacking.append(error)
    if not found:
        raise lacking[0]
    return found, [f"left out: {error}" for error in lacking]


def _stragglers(places: list[Where], jitter: float, slow_node: float, degraded_link: float) -> "Stragglers":
    from anychip.cluster import Stragglers

    wanted = Stragglers(jitter, slow_node, degraded_link)
    if wanted != Stragglers() and all(place.num_chips == 1 for place in places):
        raise BadUse("jitter, slow nodes and degraded links are of jobs of several chips. Try: --on h100:8")
    return wanted


def _fabric(place: Where) -> "Fabric | None":
    """The network of a target, before anything is recorded: what it lacks is told at once."""
    if place.num_chips == 1 and place.cluster is None:
        return None
    from anychip.network import Fabric

    fabric = Fabric.of(place.chip, place.num_chips, place.cluster)
    return fabric if place.num_chips > 1 else None


def _check_ranks(program: Program, places: list[Where]) -> None:
    for place in places:
        if place.num_chips != program.world_size:
            ranks = f"{program.world_size} rank{'s' * (program.world_size > 1)}"
            raise BadUse(
                f"{place.name}: the recording is of a job of {ranks}, and a program does something else on "
                f"{place.num_chips}. Record it with --on {place.chip.id}:{place.num_chips}."
            )


def _check_used(programs: list[Program], title: str) -> None:
    """A program that falls back to the CPU takes all its steps there: figures of nothing would look like an answer."""
    for program in programs:
        if not any(rank.ops for rank in program.ranks) and not program.meta.get("interrupted"):
            raise BadUse(
                f"{title} ran without a single operation on the chip. Was it told to use the CPU, or does it choose it "
                "by a test that the virtual chip does not pass? Programs see the chip as cuda."
            )


def _strangers(programs: list[Program]) -> list[str]:
    """Of jobs whose ranks have nothing to do with one another: the figures are of so many copies of the program."""
    sizes = {
        one.world_size for one in programs
        if one.world_size > 1 and not any(op.name.startswith("c10d.") for rank in one.ranks for op in rank.ops)
    }  # fmt: skip
    return [
        f"The program's {size:,} ranks never communicate: the figures are of {size:,} copies of it, side by side. Does it "
        "join a process group (torch.distributed.init_process_group)?"
        for size in sorted(sizes)
    ]


def _never_marked(programs: list[Program], function: str | None) -> list[str]:
    from anychip.record import Kind, Mark, word

    mark = word(Kind.MARK, Mark.STEP)
    if function is None or all((rank.tape == mark).any() for one in programs for rank in one.ranks):
        return []
    return [f"No function called {function} returned while it was recorded, so steps are those of the optimizers."]


def _target_text(place: Where) -> str:
    return place.chip.id + (f":{place.num_chips}" if place.num_chips > 1 else "")


def _unlike_first(programs: list[Program], chip: Chip, own: Program) -> tuple[str, ...]:
    """The questions for which a chip has a recording of its own."""
    if own is programs[0]:
        return ()
    from anychip.device.answers import differing

    return tuple(dict.fromkeys(question.name for question in differing(programs[0], chip)))


_replayed: WeakKeyDictionary[Program, int] = WeakKeyDictionary()  # without a limit, of recordings that live
FULLEST = 2  # distinct ranks, those that hold most at once: the allocator keeps most where most is


def _reserved(programs: list[Program], chips: list[Chip], forecasts: "Sequence[Forecast]") -> tuple[int | None, ...]:
    """Peak of what PyTorch's allocator holds. Only where memory is short does the chip's size change the answer, so a
    recording is replayed once without a limit, and again only for the chips that this does not fit on."""
    from anychip.forecast import reserved_bytes
    from anychip.memory import NO_LIMIT

    def most_of(program: Program, forecast: "Forecast", limit: int) -> int:
        held = {rank.rank: rank.peak_memory_bytes for rank in forecast.ranks}
        fullest = sorted(program.ranks, key=lambda rank: -held.get(rank.rank, 0))[:FULLEST]
        return max(reserved_bytes(rank, limit) for rank in fullest)

    found: list[int | None] = []
    for program, chip, forecast in zip(programs, chips, forecasts, strict=True):
        if chip.execution == "graph":
            found.append(None)
            continue
        if program not in _replayed:
            _replayed[program] = most_of(program, forecast, NO_LIMIT)
        most = _replayed[program]
        found.append(most_of(program, forecast, chip.memory_bytes) if most > chip.memory_bytes else most)
    return tuple(found)


def _failure(program: Program) -> list[str]:
    """Told with the figures where the program failed after it had taken steps."""
    code = program.meta.get("exit_code")
    if not code or program.meta.get("interrupted"):
        return []
    from anychip.record.steps import find_steps

    steps = len(find_steps(program))
    return [f"The program ended with exit code {code} after {steps} steps; the figures hold for these."]


def _dtypes(programs: list[Program], chips: list[Chip]) -> list[str]:
    from anychip.dtypes import unlike

    return [text for recorded, chip in zip(programs, chips, strict=True) for text in unlike(recorded, chip)]


def _of(these: Sequence[One], kept: list[int]) -> list[One]:
    return [these[index] for index in kept]


def _price_all(programs: list[Program], places: list[Where], fabrics: "Sequence[Fabric | None]", tokens_per_step: int | None,
               stragglers: "Stragglers", priced: "Mapping[Program, Mapping[str, Forecast]]",
               ) -> "tuple[list[Forecast], list[int], list[str]]":  # fmt: skip
    """Forecasts, of which targets they are, and what to say of the others, whose files lack a figure that the program needs;
    UnknownFigure where all do. priced: what is known already, by recording and target."""

    def price(index: int) -> "Forecast":
        program, place = programs[index], places[index]
        known = priced.get(program, {}).get(place.name)
        return known or _price(program, place.chip, fabrics[index], tokens_per_step, stragglers)

    found, lacking = _as_known(len(places), price)
    return list(found.values()), list(found), lacking


def _price(program: Program, chip: Chip, fabric: "Fabric | None", tokens_per_step: int | None,
           stragglers: "Stragglers") -> "Forecast":  # fmt: skip
    if fabric is None:
        from anychip.forecast import forecast as price

        return price(program, chip, tokens_per_step=tokens_per_step)
    from anychip.job import forecast_job

    return forecast_job(program, chip, fabric, tokens_per_step=tokens_per_step, stragglers=stragglers)


def _record_all(program: Any, places: list[Where], fabrics: "Sequence[Fabric | None]", jobs: int, progress: Say,
                options: Mapping[str, Any]) -> tuple[dict[tuple[str, int], Program], list[str]]:  # fmt: skip
    """By chip and number of chips: for each number one recording, for all chips that would have answered alike; one more
    for each that would not. What the program prints is shown of the first target. And what to say of targets on which the
    program fails; where it does on all, ProgramFailed."""
    _argv(program, bool(options.get("module")))
    found: dict[tuple[str, int], Program] = {}
    failed: dict[tuple[str, int], ProgramFailed] = {}
    for count in dict.fromkeys(place.num_chips for place in places):
        chips = list(dict.fromkeys(place.chip for place in places if place.num_chips == count))
        mine = {**options}
        if count > 1:
            node = next(_node_chips(fabric) for fabric in fabrics if fabric is not None and fabric.num_chips == count)
            cluster = next(place.cluster for place in places if place.num_chips == count)
            mine |= {"num_chips": count, "chips_per_node": node, "jobs": jobs, "cluster": cluster}
        if found or failed:
            mine["show_output"] = False
        recorded = _record_chips(program, chips, jobs, progress, mine)
        for chip, one in recorded.items():
            if isinstance(one, Program):
                found[chip, count] = one
            else:
                failed[chip, count] = one
        ended = [one for one in failed.values() if one.exit_code == INTERRUPTED]
        if ended:
            raise ended[0]
        if any(isinstance(one, Program) and one.meta.get("interrupted") for one in recorded.values()):
            break
    if not found:
        raise next(iter(failed.values()))
    return found, _left_out(found, failed)


RANKS = re.compile(r"\b(LOCAL_RANK|RANK|WORLD_SIZE|MASTER_ADDR)\b")


def _left_out(found: Mapping[tuple[str, int], Program], failed: Mapping[tuple[str, int], ProgramFailed]) -> list[str]:
    """What to say of targets on which the program fails; once for a number of chips that none of them gets through."""
    lines: dict[str, None] = {}
    for (chip, count), error in failed.items():
        alone = count > 1 and not any(other == count for _, other in found)
        where = f"{count:,} chips" if alone else f"{chip}:{count}" if count > 1 else chip
        why = error_line(str(error))
        hint = f" Is it one of several ranks? Then: --on {chip}:8" if count == 1 and RANKS.search(why) else ""
        lines[f"left out, as the program fails on {where}: {why}{hint}"] = None
    return list(lines)


def _node_chips(fabric: "Fabric") -> int:
    from anychip.job import node_chips

    return node_chips(fabric)


def _record_chips(
    program: Any, chips: list[Chip], jobs: int, progress: Say, options: Mapping[str, Any]
) -> dict[str, "Program | ProgramFailed"]:
    """By chip one recording for the first and for all that would have answered alike, one more for each that would not, or
    how the program failed there. Where it fails alike on two chips it is taken to do so on all."""
    from anychip.device.answers import differing

    count = options.get("num_chips", 1)
    found: dict[str, Program | ProgramFailed] = {}
    left = list(chips)
    while left:
        progress(f"recording on {f'{count:,} ' if count > 1 else 'a '}virtual {left[0].id}, shapes only")
        first = _recorded(program, left[0], options)
        if isinstance(first, Program):
            break
        alike = any(error_line(str(first)) == error_line(str(other)) for other in found.values())
        found[left.pop(0).id] = first
        if alike or first.exit_code == INTERRUPTED:
            return found | {chip.id: first for chip in left}
        options = {**options, "show_output": False}
    else:
        return found
    ran = f" of {len(first.ranks)} distinct rank{'s' * bool(first.others)}" if count > 1 else ""
    events = sum(len(rank.tape) for rank in first.ranks)
    progress(f"recorded {events:,} events, {len(first.ops):,} distinct operations{ran}")
    again = {chip.id: chip for chip in left[1:] if differing(first, chip)} if not first.meta.get("interrupted") else {}
    for chip in again.values():
        question = differing(first, chip)[0]
        progress(f"recording again on {chip.id}: it answers {question.name} otherwise ({_place(question)})")
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        runs = {
            name: pool.submit(_recorded, program, chip, {**options, "show_output": False, "draft": None})
            for name, chip in again.items()
        }
        found |= {name: run.result() for name, run in runs.items()}
    return {chip.id: found.get(chip.id, first) for chip in chips}


def _recorded(program: Any, chip: Chip, options: Mapping[str, Any]) -> "Program | ProgramFailed":
    try:
        return record(program, chip, **options)
    except ProgramFailed as error:
        return error


def _unlike(program: Program, chips: Sequence[Chip]) -> list[str]:
    """A warning for each chip that would have answered otherwise, with the first such question and its line."""
    from anychip.device.answers import differing

    found = []
    for chip in chips:
        questions = differing(program, chip)
        if questions:
            others = f" and {len(questions) - 1} more" if len(questions) > 1 else ""
            found.append(
                f"{chip.id} would have answered {questions[0].name} ({_place(questions[0])}){others} otherwise than the "
                f"recording was told ({questions[0].answer!r}): there the program might do something else. Record it again."
            )
    return found


def _place(question: Question) -> str:
    return f"{question.place.file}:{question.place.line}"


def _title(program: Any) -> str:
    if isinstance(program, Program):
        return shlex.join(program.meta.get("argv", ["?"]))
    return os.fspath(program) if isinstance(program, str | os.PathLike) else shlex.join(program)
