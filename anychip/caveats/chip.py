"""Of a program on one chip: what was assumed, left out or seen that makes its figures say less than they seem to.

In: a recording, its timeline or its memory. Out: sentences, none where nothing is to be told.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import prod

import numpy as np

from anychip import units
from anychip.cost.custom import OWN_KERNELS
from anychip.cost.work import packet, work
from anychip.figures import Window, after_calls_s, before_training, copies_of, crowded_s, inference_of
from anychip.record import Kind, Program
from anychip.record.failure import refused
from anychip.record.steps import Step, find_steps, is_drafted
from anychip.spec import Chip
from anychip.timeline.memory import Memory
from anychip.timeline.price import Timeline


def of_chip(program: Program, timeline: Timeline, window: Window, held: Memory) -> list[str]:
    """All of a program on one chip. program: as it was recorded; window: all of its steps that count."""
    steps = find_steps(program)
    return [
        *of_steps(timeline, window),
        *by_crowded_streams([(timeline, window.told())]),
        *too_full(timeline.program, timeline.chip, held),
        *played_before(timeline, window.told()),
        *worked_after(timeline, window),
        *growing(held, len(steps), timeline.chip),
        *compiled_anew(program, steps, timeline.chip),
        *by_bytes_alone(timeline.program),
    ]


# Of the chip's time that copies between host and chip take before what was assumed of their link is told.
COPIES = 0.01


def by_assumed_link(timeline: Timeline, window: Window) -> tuple[str, ...]:
    """What was assumed of the link to the host, where a step spends time on it."""
    on, copies = timeline.prices.on, copies_of(timeline, window)
    if not on.host_link_assumed or copies < COPIES:
        return ()
    rate = units.count(on.host_link_bytes_per_s, "B/s")
    return (
        f"{timeline.chip.id}: the rate of its link to the host is unknown. Copies between them, {copies:.0%} of the time on the chip, "
        f"are priced at {rate}: {on.host_link_assumed}.",
    )


# Of a step that kernels of several streams must at least want the same units or memory for to be told.
CROWDED = 0.05


def by_crowded_streams(steps: Iterable[tuple[Timeline, Window]]) -> list[str]:
    """That streams of one chip do not slow one another here, where a step rests on it. steps: of each rank; the worst is told."""
    found = [(crowded_s(timeline, window), window.step_time_s, timeline.chip.id) for timeline, window in steps]
    wanted, step_s, chip = max(found, default=(0.0, 0.0, ""))
    if wanted <= CROWDED * step_s:
        return []
    return [
        f"{chip}: for {units.duration(wanted)} of a step of {units.duration(step_s)} kernels of several streams want the same of the "
        f"chip, and each is priced as if it were alone: a step takes up to {units.duration(step_s + wanted)}, and MFU is that much too high."
    ]


MANY_STEPS = 1_000_000  # more than programs take


def of_steps(timeline: Timeline, window: Window) -> tuple[str, ...]:
    """Which steps figures are of, and what else of them, of the chip's file and of its links a reader must know."""
    chip = timeline.chip
    found = []
    if window.kind == "run":
        found.append(
            "No step was found: no optimizer stepped and no module on the chip was called to its end, so figures are of the "
            "whole run. For a training script try more time or --steps; for one that only calls a model, --calls N."
        )
    elif len(window.times_s) == 1 and len(find_steps(timeline.program)) == 1:
        found.append("Only one step was recorded: its figures include what happens once.")
    if window.second_s is not None:
        found.append(
            f"The second step took {units.duration(window.second_s)} and is left out, too: what was done before it (a sample, an "
            f"evaluation) did not come again in the {units.several(len(window.times_s), 'step')} after it. --steps takes in more of them."
        )
    calls = find_steps(timeline.program) if window.kind == "call" else []
    drafts = max((len(one.forwards) - 1 for one in calls if is_drafted(timeline.program, one)), default=0)
    if drafts:
        found.append(
            f"A call is a round: one model writes up to {drafts} tokens, which another then reads at once. How many it accepts values "
            f"decide (docs/values.md): a round writes 1 to {drafts + 1}, so tokens a second are not told; --tokens-per-step N tells them of N."
        )
    if window.kind == "train" and inference_of(timeline, window) > 1 / 2:
        found.append(
            "More than half of the chip's time in the steps that were recorded is in model calls without gradients, as an evaluation's: "
            "where they do not belong to every step, a step takes less."
        )
    found += by_assumed_link(timeline, window)
    found += of_package(chip)
    return tuple(found)


def too_full(program: Program, chip: Chip, held: Memory) -> list[str]:
    """How much a program needs that a chip has not, and what for."""
    if held.peak_bytes <= chip.memory_bytes:
        return []
    more = "more than " if any(refused(program)) else ""
    return [
        f"{chip.id}: does not fit: needs {more}{units.memory(held.peak_bytes)}, has {units.memory(chip.memory_bytes)}: {filling(held)}."
    ]


FILLING = 3


def filling(held: Memory) -> str:
    """What most of the memory at the peak is, the most first."""
    ranked = sorted(held.by_kind.items(), key=lambda item: -item[1])[:FILLING]
    return ", ".join(f"{name} {units.memory(nbytes)}" for name, nbytes in ranked if nbytes)


def played_before(timeline: Timeline, window: Window) -> list[str]:
    """Told where a program calls a model for longer than a step before it trains: an evaluation, or the play that an agent learns from."""
    if window.kind != "train":
        return []
    calls, seconds = before_training(timeline)
    if seconds <= window.step_time_s:
        return []
    return [
        f"Before its first step the program called a model {units.several(calls, 'time')} without gradients, {units.duration(seconds)} on the "
        "chip, which is in no figure. Where such calls come again (an agent's play, an evaluation), --steps takes in more steps, and with them those."
    ]


def of_package(chip: Chip) -> list[str]:
    """Told where a rank of a program has less than what the file describes: one of several devices of a package."""
    if (several := chip.devices_per_package) == 1:
        return []
    of_one = f"For one of them: --on {chip.device}" if chip.device else "No file of the standard describes one of them"
    return [
        f"{chip.id}: figures take a package as one chip. Drivers show {several} devices in it, each with its own memory and rank, so what "
        f"fits here may not fit there. {of_one}."
    ]


def growing(held: Memory, steps: int, chip: Chip, who: str = "") -> list[str]:
    """Told where what each step leaves behind fills the memory in a training's time. who: of a job the rank."""
    left = chip.memory_bytes - held.peak_bytes
    if left < 0 or not held.growth_bytes or left > MANY_STEPS * held.growth_bytes:
        return []
    return [
        f"{chip.id}: memory grows{who}: each step keeps {units.memory(held.growth_bytes)} that it made, in all {steps} that were "
        f"recorded. If that goes on, it is full after about {steps + left // held.growth_bytes:,} steps."
    ]


FEW_SHAPES = 3  # of steps: a prompt's, a token's, those of a last batch
OFTEN = 4  # times that steps of the same shapes may come while the compiler's time still tells


def compiled_anew(program: Program, steps: Sequence[Step], chip: Chip) -> list[str]:
    """Told of a chip whose software compiles whole steps where each step, but for the first, has shapes that none before it had (a cache
    that grows by a token, batches as long as their longest line), or many do, as where one prompt is generated from twice."""
    if chip.execution != "graph" or len(steps) < 3:
        return []
    shapes = [
        frozenset(
            (one.shape, one.dtype)
            for op in (program.ops[at] for at in launched_in(program, step))
            for one in op.tensors
        )
        for step in steps
    ]
    seen, fresh = set(shapes[0]), []
    for those in shapes[1:]:
        fresh.append(those - seen)
        seen |= those
    kinds = len(set(shapes))
    if not all(fresh) and not (kinds > FEW_SHAPES and kinds * OFTEN >= len(steps)):
        return []
    shown = ", then ".join("x".join(map(str, largest_of(those))) for those in [one for one in fresh if one][:3])
    kind = "call" if steps[0].kind == "call" else "step"
    which = "each has shapes of its own" if all(fresh) else f"{kinds} have shapes of their own"
    return [
        f"{chip.id}: {units.several(len(steps), kind)} were recorded, and {which} ({shown}). Its software compiles "
        f"each anew, seconds to minutes that are in no figure. Try fixed shapes: a static cache "
        '(transformers: cache_implementation="static"), or batches padded to a few lengths.'
    ]


def launched_in(program: Program, step: Step) -> list[int]:
    """The distinct ops of a step."""
    words = slice(step.begin, step.end)
    found: list[int] = np.unique(program.payloads[words][program.kinds[words] == Kind.OP]).tolist()
    return found


def largest_of(shapes: Iterable[tuple[tuple[int, ...], str]]) -> tuple[int, ...]:
    return max((shape for shape, _ in shapes), key=lambda shape: (prod(shape), shape))


def by_bytes_alone(*programs: Program) -> tuple[str, ...]:
    """What has no formula, in one line each: kernels of the program's own, which its author can give a cost and of which those that
    move most are named, and other ops."""
    own: Counter[str] = Counter()
    others: set[str] = set()
    for program in programs:
        for op, count in zip(program.ops, program.launches.tolist(), strict=True):
            if work(op).known:
                continue
            if op.name.startswith(OWN_KERNELS):
                own[op.name] += count * work(op).bytes_moved
            else:
                others.add(packet(op.name))
    found = []
    if own:
        shown = ", ".join(name for name, _ in own.most_common(3)) + (", ..." if len(own) > 3 else "")
        found.append(
            f"Priced by the bytes of their tensors alone, what they multiply in no figure: {units.several(len(own), 'kernel')} of the program's own ({shown}). "
            "anychip.kernel gives a kernel its cost, see docs/kernels.md."
        )
    if others:
        shown = ", ".join(sorted(others)[:8]) + (", ..." if len(others) > 8 else "")
        found.append(f"Priced by bytes alone, for want of a formula: {shown}.")
    return tuple(found)


def worked_after(timeline: Timeline, window: Window) -> list[str]:
    """Told where a program calls a model and then works longer on what it saw: weights that it quantises or prunes."""
    seconds = after_calls_s(timeline, window) if window.kind == "call" else 0.0
    if seconds <= sum(window.times_s):
        return []
    return [
        f"After its last call the program works for {units.duration(seconds)} on the chip, longer than all calls that the figures are of, which "
        "leave it out. --trace shows it."
    ]
