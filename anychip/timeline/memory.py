"""Memory: the live blocks of a recorded program over time, and what they hold.

Exact sums of the blocks' bytes in host order; what a caching allocator rounds up or keeps back is not in them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from anychip.record import Kind, Mark, Program
from anychip.record.failure import refused
from anychip.record.steps import Marks, Phase, Step, find_steps
from anychip.record.tape import order_of
from anychip.timeline.modules import memory_by_module

ENOUGH_STEPS = 3  # to tell growth from what happens once: two differences
KINDS = ("parameters", "buffers", "gradients", "optimizer", "activations", "workspace", "other")


@dataclass(frozen=True)
class Memory:
    """peak_bytes: the most that was live at once; at: the word where that was. by_kind: the peak's bytes by KINDS.
    end_bytes: what was live at the end. stepping_bytes: the most from the first step on. state_bytes: parameters and optimizer
    state when the last step has ended, whenever the peak was. growth_bytes: what each step leaves behind for good; 0 where not every
    one does, or too few are there to tell."""

    peak_bytes: int
    at: int
    by_kind: dict[str, int]
    end_bytes: int
    stepping_bytes: int
    state_bytes: int = 0
    growth_bytes: int = 0
    _by_module: Callable[[], dict[str, int]] = field(default=dict, repr=False, compare=False)

    @cached_property
    def by_module(self) -> dict[str, int]:
        """The peak's bytes by the module that they were made for. Of a job it is asked of the fullest rank alone."""
        return self._by_module()


@dataclass(frozen=True)
class Lives:
    """One entry per allocation: block bytes, positions of its ALLOC and FREE words (the tape's size: never freed), and
    which block it was."""

    size: npt.NDArray[np.int64]
    born: npt.NDArray[np.int64]
    died: npt.NDArray[np.int64]
    block: npt.NDArray[np.int64]


def suffices(memory_bytes: int, program: Program, peak_bytes: int) -> bool:
    """Whether so much memory is enough: for the peak, and more than a program had that was refused some."""
    return peak_bytes <= memory_bytes and memory_bytes > refused(program)[1]


def lives(program: Program) -> Lives:
    """Pair each ALLOC with the next FREE of the same block."""
    kinds = program.kinds
    at = np.flatnonzero((kinds == Kind.ALLOC) | (kinds == Kind.FREE))
    block, allocates = program.payloads[at], kinds[at] == Kind.ALLOC
    order = order_of(block)
    at, block, allocates = at[order], block[order], allocates[order]
    following = np.append(at[1:], program.tape.size)
    ends_here = np.append((block[1:] != block[:-1]) | allocates[1:], True)
    died = np.where(ends_here, program.tape.size, following)
    return Lives(program.block_bytes[block[allocates]], at[allocates], died[allocates], block[allocates])


def memory(program: Program) -> Memory:
    """Peak of live bytes and what it is made of.

    parameters: what modules that are called and optimizers have as such, from the first step on, and what was in their place before a
    conversion (.half()); buffers: others born before the
    first forward and alive at the end of the second step (of an only one), or of the tape (registered ones, caches, data), and where nothing is trained
    what outlives the call that it was made in, or the second after it (caches of keys and values, outputs); of a recording that names no parameters, both are parameters, but of one that calls no module and trains
    nothing other;
    gradients: born in a backward and alive when it ends, unless it makes a graph for another, or there from the start (one block of all) and what an optimizer steps by,
    or kept for longer than a step and what backwards reduce in (DistributedDataParallel's buckets);
    optimizer: born in an optimizer step and alive when it ends, or had by an optimizer before; activations: born in
    a forward and kept for its backward, flowing through a backward, or kept for one that goes through its graph; workspace: born in a forward and gone before it
    ends. Inputs, temporaries outside of phases, and what a forward makes for longer than the step after it are other.
    """
    all_lives = lives(program)
    if not all_lives.size.size:
        return Memory(0, 0, dict.fromkeys(KINDS, 0), 0, 0)
    change = np.zeros(program.tape.size, np.int64)  # at one word only one thing happens
    change[all_lives.born], dies = all_lives.size, all_lives.died < change.size
    change[all_lives.died[dies]] = -all_lives.size[dies]
    live = np.cumsum(change)
    at = int(np.argmax(live))
    steps = find_steps(program)
    stepping = int(live[max(steps[0].begin - 1 if steps else 0, 0) :].max())
    present = (all_lives.born <= at) & (all_lives.died > at)
    kind = kinds_of(program, all_lives)
    by_kind = np.bincount(kind[present], weights=all_lives.size[present], minlength=len(KINDS))
    modules = partial(
        memory_by_module, program, all_lives.block[present], all_lives.size[present], all_lives.born[present],
        np.isin(kind[present], (KINDS.index("parameters"), KINDS.index("buffers"))), kind[present] == KINDS.index("optimizer"),
    )  # fmt: skip
    kinds = {name: int(by_kind[i]) for i, name in enumerate(KINDS)}
    # What an optimizer keeps it makes in its first step; of later ones only what is not given back yet is there.
    first, last = (steps[0].end, steps[-1].end) if steps else (program.tape.size, program.tape.size)
    kept = np.isin(kind, (KINDS.index("parameters"), KINDS.index("optimizer")))
    kept &= (all_lives.born < first) & (all_lives.died >= last)
    state = int(all_lives.size[kept].sum())
    growth = _growth(live, all_lives, steps)
    return Memory(int(live[at]), at, kinds, int(live[-1]), stepping, state, growth, modules)


def _growth(live: npt.NDArray[np.int64], of: Lives, steps: list[Step]) -> int:
    """The least that live memory grew by from the end of one step to that of the next, and that a step but the last made and was
    there when the last had ended. What is made once (an optimizer's state, buckets, caches), or is given back a step later (the last
    batch), is in no two of them."""
    if len(steps) < ENOUGH_STEPS:
        return 0
    ends = np.array([step.end for step in steps])
    lasting = (of.born >= steps[0].begin) & (of.born < ends[-2]) & (of.died >= ends[-1])
    made_in = np.searchsorted(ends, of.born[lasting], side="right")
    kept = np.bincount(made_in, of.size[lasting], ends.size - 1)
    return max(int(min(np.diff(live[ends - 1]).min(), kept.min())), 0)


def kinds_of(program: Program, of: Lives) -> npt.NDArray[np.int64]:
    """For each allocation an index into KINDS."""
    marks = Marks(program)
    phase = marks.phase()[of.born]
    size = program.tape.size
    steps = find_steps(program)
    first_forward = steps[0].forwards[0] if steps and steps[0].forwards else _begun(marks, size)
    kind = np.full(of.size.size, KINDS.index("other"))
    kind[phase == Phase.BACKWARD] = KINDS.index("activations")
    # One that failed midway ends with the last that it did: whether its interpreter then gives back what it held is chance.
    done = int(np.flatnonzero((program.kinds == Kind.OP) | (program.kinds == Kind.ALLOC)).max(initial=-1)) + 1
    ends = np.append(marks.at[np.isin(marks.what, (Mark.FORWARD_END, Mark.INFER_END))], (size, size))
    first_end = steps[0].end if steps else done
    call = np.searchsorted(ends, of.born)  # that it was made in, or that comes next
    is_called = phase == Phase.FORWARD
    kind[is_called] = KINDS.index("activations")
    is_trained = Mark.BACKWARD_BEGIN in marks.what
    if not is_trained:
        kind[of.died > np.where(is_called, ends[call], ends[call + 1])] = KINDS.index("buffers")
    kind[is_called & (of.died <= ends[call])] = KINDS.index("workspace")
    if not is_trained and (program.meta.get("exit_code") or refused(program)[0]):
        # It ended before the backward that its forward was for.
        kept = is_called & marks.learns()[of.born] & (of.died > np.minimum(ends[call], done - 1))
        kind[kept] = KINDS.index("activations")
    # Ends of backwards which leave what another, through their own graph, goes on with.
    ends = marks.at[marks.what == Mark.BACKWARD_END]
    graphs = ends[np.searchsorted(ends, marks.at[marks.what == Mark.GRAPH]) - 1]
    for made_in, mark, name in (
        (Phase.BACKWARD, Mark.BACKWARD_END, "gradients"),
        (Phase.OPTIMIZER, Mark.OPTIMIZER_END, "optimizer"),
    ):
        ends = marks.at[marks.what == mark]
        ends = np.append(ends, ends.max(initial=done - 1))
        over = ends[np.searchsorted(ends, of.born)]
        kind[(phase == made_in) & (of.died > over) & ~np.isin(over, graphs)] = KINDS.index(name)
    # What outlives a whole step after its own is kept for itself, and for no backward: caches.
    trained = np.array([step.end for step in steps if step.kind == "train"], np.int64)
    next_end = np.append(trained, (size + 1, size + 1))[np.searchsorted(trained, of.born, side="right") + 1]
    states, gradients, buckets, named, replaced = (
        np.isin(of.block, program.meta.get(name, []))
        for name in ("state_blocks", "gradient_blocks", "bucket_blocks", "parameter_blocks", "replaced_blocks")
    )
    kept = (phase == Phase.FORWARD) & (of.died >= next_end)
    kind[kept] = KINDS.index("other")
    kind[kept & buckets] = KINDS.index("gradients")
    early = (of.born < first_forward) & (of.died >= first_end)
    # The first batch outlives its step, until the second has come: what stays is there when that one's step ends, too.
    lasting = early & (of.died >= (steps[1].end if len(steps) > 1 else first_end))
    # Of one that ended before a module was called or an optimizer stepped nothing tells which are parameters; without either there
    # are none.
    has_model = marks.what.size or program.modules or program.meta.get("exit_code") or program.meta.get("interrupted")
    unnamed = "parameters" if has_model else "other"
    kind[lasting] = KINDS.index("buffers" if program.meta.get("parameter_blocks") else unnamed)
    kind[lasting & states] = KINDS.index("optimizer")
    kind[lasting & gradients | early & buckets] = KINDS.index("gradients")
    kind[named & (of.born < first_end) & (of.died >= first_end)] = KINDS.index("parameters")
    kind[replaced & (of.died <= first_forward)] = KINDS.index("parameters")
    return kind


def _begun(marks: Marks, default: int) -> int:
    """Where the first forward begins; where no module is called with gradients, the first thing that is done with them."""
    for first in ((Mark.FORWARD_BEGIN,), (Mark.INFER_BEGIN, Mark.BACKWARD_BEGIN)):
        found = marks.at[np.isin(marks.what, first)]
        if found.size:
            return int(found[0])
    return default
