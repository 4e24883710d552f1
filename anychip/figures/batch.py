"""Tokens and samples of a step: those that the model is given, by the shapes of what is first in each of its calls."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import prod

import numpy as np
import numpy.typing as npt

from anychip.cost.matrix import Sequences, sequences
from anychip.cost.work import PRODUCTS, packet, work
from anychip.record import Kind, Op, Program, TensorMeta
from anychip.record.steps import Marks, Step, is_drafted
from anychip.record.tape import Mark

TABLES = 3  # embeddings of a call without sequences that make a recommender's of it: of features, no texts of one word
CALLED = (Mark.FORWARD_BEGIN, Mark.INFER_BEGIN)


def batch_of(program: Program, steps: Sequence[Step], is_mean: bool = False) -> tuple[float | None, float | None]:
    """(tokens, samples) of the median step, or of the mean one, as its time is. Tokens: integer inputs of the first embedding after each outermost forward begins;
    one for each sample (a class, a user, a node) are none where nothing works on sequences. Samples: the leading dimension of what the first product, convolution, recurrent layer or embedding is given, in calls of
    the module that is called first, of those that share a backward (a pair's sides, views of a picture) in the largest; where several optimizers take turns, as a GAN's, in the largest call of each micro-batch of the first of them, by the steps in which it has fewest.
    Calls that nothing is learnt from are no batch: those of a step's trials, as sharpness-aware minimization and attacks on the input make,
    nor an agent's looks at its environment. Other modules, and where some forwards read tokens those that read none, go on with what
    was read: a decoder behind its encoder, a rank's later stages in a pipeline."""
    if not steps or any(is_drafted(program, one) for one in steps):
        return None, None  # what a round of drafts writes is as much as is accepted
    kinds, payloads = program.kinds, program.payloads
    marks = Marks(program)
    positions = np.flatnonzero((kinds == 0) & ~_by_others(program, marks) if steps[0].kind == "train" else kinds == 0)
    ops = payloads[positions]
    timed = {index: given for index, op in enumerate(program.ops) if (given := sequences(op)) is not None}
    unlearnt = _unlearnt(
        program,
        marks,
        lambda at, end: _fed(program.ops, timed, ops[slice(*np.searchsorted(positions, (at, end)))], True)[1],
    )
    again = set((marks.at[marks.what == Mark.AGAIN] + 1).tolist())  # forwards of the same samples
    tokens, samples, turned = [], [], []
    for step in steps:
        edges = np.searchsorted(positions, [*step.forwards, step.end]).tolist()
        ordered = any(_orders(program.ops[index]) for index in set(ops[edges[0] : edges[-1]].tolist()))
        uncounted = _tried(marks, step) | (again if step.kind == "train" else set())
        found = [
            _fed(program.ops, timed, ops[first:last], ordered) if at not in uncounted else (0, 0)
            for at, (first, last) in zip(step.forwards, pairwise(edges), strict=True)
        ]
        read = sum(one[0] for one in found)
        entered = [int(payloads[at + 1]) if kinds[at + 1] == Kind.ENTER else -1 for at in step.forwards]
        fed = [
            (at, module, one[1])
            for at, module, one in zip(step.forwards, entered, found, strict=True)
            if one[1] and (one[0] or not read) and (module, one[1]) not in unlearnt
        ]
        turns = [[size for at, _, size in fed if at in turn] for turn in turns_of(step, marks)]
        tokens.append(read)
        turned.append(len(turns))
        samples.append(
            sum(map(max, filter(None, turns)))
            or _of_backwards({at: size for at, module, size in fed if module == fed[0][1]}, step, marks)
        )
    # A turn that only some steps have, as of a GAN's regulariser, is no further batch.
    samples = [size for size, turns in zip(samples, turned, strict=True) if turns == min(turned)]
    return _usual(tokens, is_mean), _usual(samples, is_mean)


def _of_backwards(sizes: Mapping[int, int], step: Step, marks: Marks) -> int:
    """Samples of calls of so many each: every backward takes the largest that is left of those before it, as calls that share
    one are of the same samples. Of all calls where no backward follows any."""
    begins = marks.at[(marks.what == Mark.BACKWARD_BEGIN) & (marks.at >= step.begin) & (marks.at < step.end)].tolist()
    left: list[int] = []
    found = 0
    for at in sorted([*sizes, *begins]):
        if at in sizes:
            left.append(sizes[at])
        elif left:
            found += left.pop(left.index(max(left)))
    return found or sum(sizes.values())


def _tried(marks: Marks, step: Step) -> set[int]:
    """Forwards of a step that nothing is learnt from, as the recording knew; none where that is of all."""
    begins, ends, trials = (
        marks.at[marks.what == mark] for mark in (Mark.BACKWARD_BEGIN, Mark.BACKWARD_END, Mark.UNLEARNT)
    )
    found: set[int] = set()
    for at in trials[(trials >= step.begin) & (trials < step.end)].tolist():
        back = int(np.searchsorted(begins, at)) - 1  # the backward before it; of a second such mark the one before that
        back -= int(((trials > begins[back]) & (trials < at)).sum())
        after = int(ends[back - 1]) if back else 0
        found |= {one for one in step.forwards if after < one < begins[back]}
    return found if len(found) < len(step.forwards) else set()


def _by_others(program: Program, marks: Marks) -> npt.NDArray[np.bool_]:
    """For each word whether it is of a call without gradients: what a frozen encoder reads is no batch of the model that learns from it,
    and between two micro-batches was taken for the first one's."""
    opened = np.zeros(program.tape.size, np.int64)
    for mark, change in ((Mark.INFER_BEGIN, 1), (Mark.INFER_END, -1)):
        opened[marks.at[marks.what == mark]] = change
    return np.cumsum(opened) > 0


def _unlearnt(program: Program, marks: Marks, size_of: Callable[[int, int], int]) -> set[tuple[int, int]]:
    """(module, samples) of calls that the backward after them never goes through, though one does elsewhere: an agent's look at its
    environment by the network that it trains. size_of: samples of a call, by its begin and the next's. Only some backwards name modules."""
    kinds, payloads = program.kinds, program.payloads
    nodes = np.flatnonzero(kinds == Kind.NODE)
    edges = marks.at[marks.what == Mark.FORWARD_BEGIN].tolist()
    begins, ends = (marks.at[marks.what == mark] for mark in (Mark.BACKWARD_BEGIN, Mark.BACKWARD_END))
    learnt: dict[tuple[int, int], bool] = {}
    for at, end in pairwise([*edges, program.tape.size]):
        back = int(np.searchsorted(begins, at))
        if back >= min(begins.size, ends.size) or kinds[at + 1] != Kind.ENTER:
            continue
        through = {*payloads[nodes[slice(*np.searchsorted(nodes, (begins[back], ends[back])))]].tolist()}
        if through:
            call = int(payloads[at + 1]), size_of(at, end)
            learnt[call] = learnt.get(call, False) or call[0] in through
    trained = {module for (module, _), is_learnt in learnt.items() if is_learnt}
    return {call for call, is_learnt in learnt.items() if not is_learnt and call[0] in trained}


def turns_of(step: Step, marks: Marks) -> list[list[int]]:
    """Of a step in which several optimizers step with forwards in between, the forwards of each micro-batch in each turn of the one
    that steps first; else none."""
    found: dict[int, list[list[int]]] = {}
    begin = step.begin
    inside = (marks.what == Mark.OPTIMIZER_END) & (marks.at >= step.begin) & (marks.at < step.end)
    for at, optimizer in zip(marks.at[inside].tolist(), marks.optimizer[inside].tolist(), strict=True):
        if any(begin <= one < at for one in step.forwards):  # else it steps beside the one before it
            found.setdefault(optimizer, []).extend(_micro_batches(step, marks, begin, at))
            begin = at
    return next(iter(found.values())) if len(found) > 1 else []


def _micro_batches(step: Step, marks: Marks, begin: int, end: int) -> list[list[int]]:
    """The forwards of each time that between two places the same modules are called and a backward run; where one module alone is,
    as for what is real and what is not, of all of it."""
    kinds, payloads = marks.program.kinds, marks.program.payloads
    inside = np.isin(marks.what, (*CALLED, Mark.BACKWARD_BEGIN)) & (marks.at >= begin) & (marks.at < end)
    places, back = marks.at[inside].tolist(), -2
    order = [
        back if what == Mark.BACKWARD_BEGIN else int(payloads[at + 1]) if kinds[at + 1] == Kind.ENTER else -1
        for at, what in zip(places, marks.what[inside].tolist(), strict=True)
    ]
    size = next(size for size in range(1, len(order) + 1) if order == order[:size] * (len(order) // size))
    if back not in order[:size] or len({*order[:size]}) < 3:
        size = len(order)
    edges = [begin, *places[size::size], end]
    chunks = ([one for one in step.forwards if first <= one < last] for first, last in pairwise(edges))
    return [chunk for chunk in chunks if chunk]


def _usual(amounts: list[int], is_mean: bool) -> float | None:
    """The median, or where that is asked for or most steps have none the mean; None where no step has any."""
    return (0.0 if is_mean else float(np.median(amounts))) or float(np.mean(amounts)) or None


# Kinds of work on sequences: kernels that are known by their name alone may be.
ORDERED = frozenset({"attention", "rnn", "custom", "unknown"})


OF_VECTORS = ("aten.mv", "aten.dot", "aten.vdot")  # products


def _orders(op: Op) -> bool:
    """Whether it may work on sequences: attention, by itself or as the softmax of its scores, recurrent layers and their cells."""
    name = packet(op.name)
    is_of_scores = name in ("aten._softmax", "aten._safe_softmax") and len(op.outputs[0].shape) > 2
    return is_of_scores or name.endswith("_cell") or work(op).kind in ORDERED


def _fed(ops: list[Op], timed: dict[int, Sequences], called: npt.NDArray[np.int64], ordered: bool) -> tuple[int, int]:
    """(tokens, samples) of the ops called from a forward on. What the first recurrent layer or attention takes for time is no samples,
    neither where it is first nor where a product had it as one with them. Packed sequences are as many as there are lengths; of tokens
    that a program packs itself the rows are."""
    tokens, samples = _batch(ops, called, ordered)
    at = next((index for index in called.tolist() if index in timed), -1)
    given = timed.get(at)
    if given and given.number == tokens == samples and given.length > 1 and _of_itself(ops[at], given.length):
        return 0, samples  # one number for each, beside which the sequence is of something else: classes of pictures
    if given and given.packed and not tokens and samples in (1, given.packed):
        return tokens, given.number
    if given and samples and samples in (given.number * given.length, given.length if given.time_first else 0):
        return tokens, given.number
    return tokens, samples


def _of_itself(op: Op, length: int) -> bool:
    """Whether what attends to a sequence is the sequence: of a text that goes on the heads of one token stand for its length, which has
    longer keys."""
    return len(op.tensors) < 2 or length in op.tensors[1].shape[1:3]


def _batch(ops: list[Op], called: npt.NDArray[np.int64], ordered: bool) -> tuple[int, int]:
    """The same, by the shapes of what is first. A product gets all dimensions of its input but the last as one;
    how many of these are samples is seen of what is no product: the ops before it, else the next of as many rows. A product
    with a vector or a single row, or of two square matrices, counts where nothing else is there: most are of a weight, whose norm is estimated before it is
    used (spectral_norm), or which is made of its factors.
    Batches that are joined on the way, as pairs of pictures for one encoder, are one batch. Positions may be looked up before the texts
    that stand there."""
    tokens = samples = rows = 0
    joined: dict[tuple[int, ...], int] = {}  # shapes of what was joined of equal batches, and of how many
    leading: dict[int, int] = {}  # of inputs of more than two dimensions, by their rows
    flat = False
    line = 0  # length of an index of one dimension
    seen: set[int] = set()
    for index in called.tolist():
        if index in seen:
            continue
        seen.add(index)
        op = ops[index]
        name = packet(op.name)
        if name == "aten.embedding" and len(op.args) > 1:
            read = op.args[1]
            if ordered and len(read.shape) == 1 and not samples:
                line = line or read.numel  # a text, or where its words stand, which texts may follow
                continue
            samples = samples or (read.shape[0] if read.shape else 0)
            if ordered or (len(read.shape) > 1 and not _is_column(read, ops, called)):
                return read.numel, samples
            continue
        if samples and not flat:
            continue  # of what is left only an embedding counts
        kind = work(op).kind
        if line and kind in PRODUCTS:
            break
        # Or of a column: the gradient of what a row was multiplied with.
        of_row = name == "aten.mm" and 1 in op.tensors[0].shape
        if name in OF_VECTORS or of_row or (kind == "gemm" and _of_squares(op)):
            rows = rows or op.tensors[0 if of_row else -1].shape[0]
        elif kind not in PRODUCTS and not op.kwarg("reduced"):
            tensors = [tensor for tensor in (*op.tensors, *op.outputs) if len(tensor.shape) > 1]
            joined |= _joined(op, name)
            if not samples:
                for one in tensors:
                    if len(one.shape) > 2:
                        leading.setdefault(prod(one.shape[:-1]), _outermost(one))
            elif found := [_outermost(one) for one in tensors if prod(one.shape[:-1]) == samples]:
                samples, flat = found[0], False
        elif not samples:
            data = op.args[1] if name in ("aten.addmm", "aten.baddbmm") else op.args[0]
            samples = data.shape[0] // joined.get(data.shape, 1) if isinstance(data, TensorMeta) and data.shape else 0
            if kind in ("conv", "rnn"):
                # What begins with a convolution or a recurrent layer reads no tokens.
                return tokens, samples
            flat = isinstance(data, TensorMeta) and len(data.shape) == 2 and samples not in leading
            samples = leading.get(samples, samples)
    return (line, line) if line else (tokens, samples or rows)


def _is_column(read: TensorMeta, ops: list[Op], called: npt.NDArray[np.int64]) -> bool:
    """Whether what an embedding reads is a feature of each sample, one of several of a recommender's."""
    if prod(read.shape[1:]) != 1:
        return False
    return sum(packet(ops[index].name) == "aten.embedding" for index in called.tolist()) >= TABLES


def _of_squares(op: Op) -> bool:
    matrices = {tensor.shape for tensor in op.tensors if len(tensor.shape) > 1}
    return len(matrices) == 1 and all(len(shape) == 2 and shape[0] == shape[1] for shape in matrices)


def _joined(op: Op, name: str) -> dict[tuple[int, ...], int]:
    """The shape of a batch that is joined of equal ones, and of how many; of single samples that are put together it is the batch."""
    parts = op.tensors if name == "aten.cat" else ()
    if len({part.shape for part in parts}) != 1 or not parts[0].shape or parts[0].shape[0] == 1:
        return {}
    is_first = op.outputs[0].shape[1:] == parts[0].shape[1:]
    return {op.outputs[0].shape: len(parts)} if is_first and len(parts) > 1 else {}


def _outermost(tensor: TensorMeta) -> int:
    """The size of the dimension that is outermost in memory, but for the last: of a batch that was transposed still the batch."""
    return max(zip(tensor.stride[:-1], tensor.shape, strict=False), key=lambda one: one[0])[1]
