"""What is recorded for which place: one recording for all chips that would have answered the program alike.

A recording is priced on another chip as it stands where that chip would have answered every question that the program
asked in the same way; where an answer differs the program might have done something else, so it is recorded again.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from anychip.argv import check
from anychip.errors import INTERRUPTED, MOST_RANKS, BadUse, ProgramFailed, error_line
from anychip.places import Place, places_of
from anychip.record.failure import failure_of
from anychip.record.program import Program, Question
from anychip.spec import Chip

Say = Callable[[str], None]
Argv = str | os.PathLike[str] | Sequence[str]
Ran = TypeVar("Ran")


def record(
    program: Argv,
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
    num_chips: int | None = None,
    chips_per_node: int = 8,
    ranks: str = "distinct",
    jobs: int = 2,
    cluster: str | None = None,
    draft: Callable[[Program], None] | None = None,
    note: Say | None = None,
) -> Program:
    """Run a program on a virtual chip, shapes only, in a process of its own, and keep what it did.

    on: a chip, or a target with a number of chips: then num_chips, chips_per_node and cluster are as it says. num_chips: the
    program runs as a job of as many ranks, with torchrun's environment, of which each distinct one is recorded (ranks
    "all": every one), at most `jobs` at a time; None: on one chip, by itself. chips_per_node: how many a rank sees. cluster:
    whose network the program's clocks go by.

    program: script and its arguments, or with `module` a module's name and its arguments. It runs with your rights.
    steps, calls: where it is ended; without, after 3 steps, 5 where the second and the third differ on one chip, up to 16 until
    each optimizer has stepped there, or 2 of a job of more than 1,024 ranks. step_mark: name of a function whose returns end steps. host: "measured" adds the host's time as it
    passed here between calls of models, backward passes and optimizers. show_output: forward what it prints to stderr. imbalance: fullest over mean where data decide a
    split. draft: called with a job's recording while its last samples run: it is the one that is returned, unless they do
    otherwise than it says. note: called from time to time with how far a job is. device: planned; other values than the default raise BadUse.
    Raises BadUse for a missing script, ProgramFailed if it failed before the first step, UnsupportedTorch.
    """
    argv = argv_of(program, module)
    place, *others = places_of(on)
    if others:
        raise BadUse(f"{on}: a recording is of one number of chips of one kind")
    if place.is_job:
        num_chips, chips_per_node, cluster = place.num_chips, place.node_chips, place.cluster
    _not_yet(device)
    world_size = num_chips or 1
    _few_enough(ranks, world_size)
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
        is_job=num_chips is not None,
        world_size=world_size,
        devices=min(world_size, chips_per_node),
        ranks=ranks,
        jobs=jobs,
        cluster=cluster,
        draft=draft,
        note=note,
    )


def _not_yet(device: str) -> None:
    """Refuse what would otherwise be passed over in silence."""
    if device != "cuda":
        raise BadUse(f"--device {device} is not there yet: programs see every chip as cuda. Try it without --device.")


def _few_enough(ranks: str, num_chips: int) -> None:
    if ranks == "all" and num_chips > MOST_RANKS:
        raise BadUse(
            f"--ranks all runs ranks one by one, {MOST_RANKS} at most: {num_chips:,} are asked for. Without it one rank of each kind runs."
        )


def argv_of(program: Argv, module: bool) -> list[str]:
    """The program's command line. Raises BadUse where there is no such script or module."""
    argv = [os.fspath(program)] if isinstance(program, str | os.PathLike) else list(program)
    check(argv, module)
    return argv


@dataclass(frozen=True)
class Recorded:
    """programs: the recording of each place that there is one for. short: places where the program ran out of memory before its first
    step, and how; their recording is that of a chip with more, as it tells what the program would have needed. too_small: such places
    that no other chip's recording tells of. warnings: what to say of these, and of places on which the program fails. interrupted: Ctrl-C ended some recording, or came before it."""

    programs: dict[Place, Program]
    short: dict[Place, ProgramFailed] = field(default_factory=dict)
    too_small: tuple[Place, ...] = ()
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False


NEVER = ProgramFailed("interrupted before it ran there", INTERRUPTED)


LACKS = re.compile(r"(ModuleNotFound|Import|Syntax|Indentation|FileNotFound|Name)Error\b")  # of no number of chips


def _lacks(ran: Mapping[str, Program | ProgramFailed]) -> str:
    """What a program fails for on all chips of a number, where no other number would help; else empty."""
    whys = {"" if isinstance(one, Program) else error_line(str(one)) for one in ran.values()}
    return whys.pop() if len(whys) == 1 and all(map(LACKS.match, whys)) else ""


def record_all(
    program: Argv, places: Sequence[Place], jobs: int, progress: Say, options: Mapping[str, Any]
) -> Recorded:
    """For each number of chips, one apart from none given, one recording for all chips that would have answered alike, and one
    more for each that would not. What it prints is shown of the first.

    options: keyword arguments of `record`. Raises ProgramFailed where the program fails everywhere or is interrupted before
    its first step; what ends it later also ends what else was to be recorded.
    """
    argv_of(program, bool(options.get("module")))
    _few_enough(options.get("ranks", "distinct"), max(place.num_chips for place in places))
    by_count: dict[tuple[int, bool], list[Place]] = {}
    for place in places:
        by_count.setdefault((place.num_chips, place.is_job), []).append(place)

    def of(alike: Sequence[Place], at_a_time: int, more: Mapping[str, Any]) -> dict[str, Program | ProgramFailed]:
        first = alike[0]
        mine = {**options, **more}
        if first.is_job:
            mine |= {"num_chips": first.num_chips, "chips_per_node": first.node_chips, "cluster": first.cluster,
                     "jobs": at_a_time}  # fmt: skip
        return _record_chips(program, list(dict.fromkeys(place.chip for place in alike)), at_a_time, progress, mine)

    # The first alone: its output is shown, and what it prepares once, such as a file of data, is there for the others. Where it lacks
    # something the next alone, too: what is missing for two numbers of chips is for all.
    first, *others = by_count.values()
    ran = [of(first, jobs, {})]
    unseen = {"show_output": False}
    if others and _lacks(ran[0]) and not _interrupted(ran[0].values()):
        ran.append(of(others.pop(0), jobs, unseen))
    if len(ran) > 1 and _lacks(ran[0]) == _lacks(ran[1]):
        one = next(iter(ran[1].values()))
        beside = [{place.chip.id: one for place in alike} for alike in others]
    elif _interrupted(one for each in ran for one in each.values()):
        beside = [{place.chip.id: NEVER for place in alike} for alike in others]
    else:
        each = max(jobs // max(len(others), 1), 1)
        ended = _side_by_side(jobs, [partial(of, alike, each, unseen) for alike in others])
        beside = [one or {place.chip.id: NEVER for place in alike} for alike, one in zip(others, ended, strict=True)]
    found: dict[Place, Program] = {}
    failed: dict[Place, ProgramFailed] = {}
    for alike, of_count in zip(by_count.values(), (*ran, *beside), strict=True):
        for place in alike:
            one = of_count[place.chip.id]
            if isinstance(one, Program):
                found[place] = one
            else:
                failed[place] = one
    interrupted = _interrupted([*found.values(), *failed.values()])
    if not found:
        (place, error), *more = failed.items()
        also = "" if error.is_interrupted else _also(dict(more))
        text = f"{error}{_hint(place, error.said)}{also}"
        raise error.saying(text, INTERRUPTED if interrupted else error.exit_code)
    lent = {place: other for place, error in failed.items() if error.is_short and (other := _lender(place, found))}
    found |= {place: found[other] for place, other in lent.items()}
    short = {place: failed.pop(place) for place in lent}
    told = [f"{place}: does not fit: {_refusal(error)}; its figures are of what the program does on {lent[place]}."
            for place, error in short.items()]  # fmt: skip
    told += _left_out(found, failed)
    # Others that were to be recorded no more have the one that was stopped.
    told += [text for place, one in found.items() if one.meta.get("interrupted") for text in unlike(one, [place.chip])]
    too_small = tuple(place for place, error in failed.items() if error.is_short)
    return Recorded({place: found[place] for place in places if place in found}, short, too_small, told, interrupted)


def _lender(place: Place, found: Mapping[Place, Program]) -> Place | None:
    """Where as many ranks did what they could not at `place`, for want of memory: on the smallest chip that had enough to the end;
    where none had, on the largest, where they came furthest. Of chips that run steps as this one does: what one that compiles them whole
    has fused is not what kernel by kernel would be."""
    kind = place.num_chips, place.is_job, place.chip.execution
    alike = [other for other in found if (other.num_chips, other.is_job, other.chip.execution) == kind]
    whole = [other for other in alike if failure_of(found[other]) is None]
    by_memory = sorted(whole or alike, key=lambda other: other.chip.memory_bytes, reverse=not whole)
    return by_memory[0] if by_memory else None


def _refusal(error: ProgramFailed) -> str:
    """What a program was refused, and where: the line that says so, without the error's name."""
    return error_line(str(error)).partition(": ")[2]


def _record_chips(
    program: Argv, chips: Sequence[Chip], jobs: int, progress: Say, options: Mapping[str, Any]
) -> dict[str, Program | ProgramFailed]:
    """By chip one recording for the first and for all that would have answered alike, one more for each that would not, or
    how the program failed there. Where it fails alike on two chips it is taken to do so on all, unless it is memory that they
    have too little of."""
    from anychip.device.cuda.answers import answer, differing, may_refuse

    count = options.get("num_chips", 1)
    found: dict[str, Program | ProgramFailed] = {}
    left = list(chips)
    while left:
        progress(f"recording on {f'{count:,} ' if count > 1 else 'a '}virtual {left[0].id}, shapes only")
        first = _recorded(program, left[0], {**options, "note": noting(progress)})
        if isinstance(first, Program):
            break
        why = error_line(str(first))
        alike = not first.is_short and any(why == error_line(str(other)) for other in found.values())
        found[left.pop(0).id] = first
        if alike or first.is_interrupted:
            return found | {chip.id: first for chip in left}
        options = {**options, "show_output": False}
    else:
        return found
    of_ranks = f" of {len(first.ranks)} distinct rank{'s' * bool(first.others)} of {count:,}" if count > 1 else ""
    events = sum(len(rank.tape) for rank in first.ranks)
    progress(f"recorded {events:,} events, {len(first.ops):,} distinct operations{of_ranks}")
    why_again: dict[str, str] = {}
    for chip in left[1:] if not first.meta.get("interrupted") else ():
        if questions := differing(first, chip):
            why_again[chip.id] = f"it answers otherwise ({questions[0].words}, {_line(questions[0])})"
        elif may_refuse(chip, first):
            why_again[chip.id] = "it has less memory than the program took"
    alike_to_it: dict[str, list[Chip]] = {}  # by what they answer to the first one's questions; their own may be others
    for chip in left:
        if chip.id in why_again:
            answers = repr([answer(chip, question.name) for question in first.questions])
            alike_to_it.setdefault(chip.id if may_refuse(chip, first) else answers, []).append(chip)
    for name, text in why_again.items():
        progress(f"recording again on {name}: {text}")
    shown = {**options, "show_output": False, "draft": None}
    groups = list(alike_to_it.values())
    calls = [partial(_record_chips, program, group, 1, silent, shown) for group in groups]
    ran = _side_by_side(jobs, _counted(calls, noting(progress)))
    for group, ran_again in zip(groups, ran, strict=True):
        found |= ran_again if ran_again is not None else {chip.id: NEVER for chip in group}
    return {chip.id: found.get(chip.id, first) for chip in chips}


def silent(text: str) -> None:
    """Progress that nobody wants, or that is told already."""


def noting(progress: Say) -> Say:
    """What shows a few words until the next ones, where progress is on a terminal (`report.progress.Progress`)."""
    found: Say = getattr(progress, "note", silent)
    return found


def _counted(calls: Sequence[Callable[[], Ran]], note: Say) -> list[Callable[[], Ran]]:
    """The same calls, which note how many of them are done."""
    done: list[None] = []

    def counted(call: Callable[[], Ran]) -> Ran:
        ran = call()
        done.append(None)
        note(f"{len(done)} of {len(calls)} recorded again")
        return ran

    return [partial(counted, call) for call in calls]


def _side_by_side(at_a_time: int, calls: Sequence[Callable[[], Ran]]) -> list[Ran | None]:
    """What the calls give, so many at a time; None is of what had not begun. Ctrl-C or SIGTERM ends what runs, which keeps what it has; a second
    one, too long a wait or another end of this process (SIGHUP) ends it at once."""
    from anychip.device.launch import interrupt_all, saving_s

    if not calls:
        return []
    with ThreadPoolExecutor(max_workers=at_a_time) as pool:
        runs = [pool.submit(call) for call in calls]
        try:
            wait(runs)
        except KeyboardInterrupt as asked:
            _cancel(runs)
            interrupt_all()
            with contextlib.suppress(KeyboardInterrupt):
                wait(runs, timeout=saving_s(asked))
            _end(runs)
        except BaseException:
            _cancel(runs)
            _end(runs)
            raise
        return [None if run.cancelled() else run.result() for run in runs]


def _cancel(runs: Iterable[Future[Any]]) -> None:
    for run in runs:
        run.cancel()


def _end(runs: Sequence[Future[Any]]) -> None:
    """End the programs of those that still run, also of one that is only about to start its own."""
    from anychip.device.launch import POLL_S, end_all

    while not all(run.done() for run in runs):
        end_all()
        wait(runs, timeout=POLL_S)


def _interrupted(recorded: Iterable[Program | ProgramFailed]) -> bool:
    return any(one.meta.get("interrupted") if isinstance(one, Program) else one.is_interrupted for one in recorded)


def _recorded(program: Argv, chip: Chip, options: Mapping[str, Any]) -> Program | ProgramFailed:
    try:
        return record(program, chip, **options)
    except ProgramFailed as error:
        return error


RANKS = re.compile(r"\b(LOCAL_RANK|RANK|WORLD_SIZE|MASTER_ADDR)\b")
AT_END = "EOFError: EOF when reading a line"  # what `input()` raises
MADE = re.compile(r"FileExistsError|already exists|not empty")  # what a program says of files that are in its way


def _hint(place: Place, said: str, passed: bool = False) -> str:
    """For a program that failed on one chip and speaks of ranks, for one that asks its user, and for one that finds what a rank or a
    recording before it made. passed: it did not fail on another chip."""
    if AT_END in said:
        return " Nothing is on its stdin, as it may run more than once: give what it asks for by an argument or a file."
    if not place.is_job and RANKS.search(said):
        return f" Is it one of several ranks? Then: --on {place.chip.id}:8"
    if MADE.search(said) and (place.is_job or passed):
        before = "A rank" if place.is_job else "A recording on another chip"
        return f" {before} that ran before may have made that. Let the program write over it, or give each chip a folder of its own."
    return ""


def _also(failed: Mapping[Place, ProgramFailed]) -> str:
    """Behind how the program fails on the first place: on which others, and how."""
    places: dict[tuple[str, bool], list[str]] = {}
    for place, error in failed.items():
        places.setdefault((error_line(str(error)), error.is_interrupted), []).append(str(place))
    return "".join(
        f"\n{', '.join(where)}: {why}" if stopped else f"\nIt fails on {', '.join(where)}, too: {why}"
        for (why, stopped), where in places.items()
    )


def _left_out(found: Iterable[Place], failed: Mapping[Place, ProgramFailed]) -> list[str]:
    """What to say of places on which the program fails; once for a number of chips on which it fails alike on all."""
    counts = {place.num_chips for place in found}
    whys = {place: error_line(str(error)) for place, error in failed.items()}
    lines: dict[str, None] = {}
    for place, why in whys.items():
        count = place.num_chips
        alike = all(other == why for at, other in whys.items() if at.num_chips == count)
        where = f"{count:,} chips" if count > 1 and count not in counts and alike else place
        error = failed[place]
        begins = "left out:" if error.is_interrupted else "left out, as the program fails on"
        if error.is_short:
            begins, why = "left out, as it does not fit on", _refusal(error)
        lines[f"{begins} {where}: {why}{_hint(place, why, passed=True)}"] = None
    return list(lines)


def unlike(program: Program, chips: Sequence[Chip]) -> list[str]:
    """A warning for each chip that would have answered otherwise, with the first such question and its line."""
    from anychip.device.cuda.answers import differing

    found = []
    for chip in chips:
        questions = differing(program, chip)
        if questions:
            others = f" and {len(questions) - 1} more" if len(questions) > 1 else ""
            found.append(
                f"{chip.id} would have answered {questions[0].words} ({_line(questions[0])}){others} otherwise than the "
                f"recording was told ({questions[0].answer!r}): there the program might do something else. Record it again."
            )
    return found


def why_own(program: Program, first: Program, chip: Chip) -> tuple[str, ...]:
    """The questions for which a chip has a recording of its own; none where it is the first chip's."""
    if program is first:
        return ()
    from anychip.device.cuda.answers import differing

    return tuple(dict.fromkeys(question.name for question in differing(first, chip)))


def _line(question: Question) -> str:
    return f"{question.place.file}:{question.place.line}"
