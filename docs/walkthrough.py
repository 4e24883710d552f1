"""anychip in one file: read it from top to bottom, or run it. What it prints is in walkthrough.out, and a test compares.

The question: how would a CUDA-bound PyTorch program run on a chip that is not here? The answer is made in five steps,
each a plain function from value to value:

    program --run it on a virtual device--> tape --work()--> flop, bytes --price()--> seconds --timeline()--> the answer
                                              ^                              ^
                                     free of any chip                   a chip is data

Everything below is a small copy, made to be read. Each section ends with where the real thing is. The last section runs
the real thing on the same program, so that you can see how far the small copy carries.
"""

import tomllib
import weakref
from collections import Counter
from dataclasses import dataclass, field
from math import ceil, prod

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


def section(title: str) -> None:
    print(f"\n== {title}")


# ---------------------------------------------------------------------------------------------------------------------
# 1. The program. It says "cuda", it reads the loss on every step, and it asks the chip a question. None of this may be
#    changed: what people have is programs like this one, not programs written for a simulator.

PROGRAM = """
import torch
from torch import nn

if torch.cuda.get_device_capability() >= (8, 0):
    dtype = torch.bfloat16
else:
    dtype = torch.float32
model = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)).to("cuda", dtype)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
for step in range(3):
    x = torch.randn(BATCH, WIDTH, device="cuda", dtype=dtype)
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if loss.item() != loss.item():
        raise SystemExit("diverged")
"""

# ---------------------------------------------------------------------------------------------------------------------
# 2. A chip is data. This is one, made up; the real ones have some thirty figures, each with its kind, source and date.
#    Nothing in the code knows a chip's name: a new chip is a new file.   Real: anychip/standard/chips/*.toml, spec/

CHIPS = """
[big]
matrix = { bfloat16 = 800e12, float32 = 50e12 }   # FLOP/s, dense
vector = 60e12                                    # FLOP/s, float32
bandwidth = 3.0e12                                # bytes/s
cores = 128
tile = [128, 256]                                 # the part of a product that one core makes at a time
launch_s = 4e-6                                   # what the host spends to start one kernel
memory_bytes = 80e9
capability = [9, 0]

[wide]                                            # more memory bandwidth, less arithmetic
matrix = { bfloat16 = 300e12, float32 = 75e12 }
vector = 40e12
bandwidth = 4.0e12
cores = 24
tile = [128, 128]
launch_s = 8e-6
memory_bytes = 64e9
capability = [8, 0]

[old]                                             # it has no bfloat16, and says so when it is asked
matrix = { float32 = 15e12 }
vector = 15e12
bandwidth = 0.9e12
cores = 80
tile = [128, 128]
launch_s = 4e-6
memory_bytes = 16e9
capability = [7, 0]
"""


@dataclass(frozen=True)
class Chip:
    name: str
    matrix: dict[str, float]
    vector: float
    bandwidth: float
    cores: int
    tile: list[int]
    launch_s: float
    memory_bytes: float
    capability: list[int]


chips = {name: Chip(name, **table) for name, table in tomllib.loads(CHIPS).items()}

section("chips are data")
for chip in chips.values():
    peak = max(chip.matrix.values()) / 1e12
    print(f"{chip.name:5} {peak:4.0f} TFLOP/s, {chip.bandwidth / 1e12:.1f} TB/s, capability {tuple(chip.capability)}")

# ---------------------------------------------------------------------------------------------------------------------
# 3. A virtual device. The program runs for real: its Python, its loop, its optimizer, autograd. Only the numbers are
#    missing: tensors on the chip have a shape, strides and a dtype, but no memory. Every operation is written to a
#    tape, free of any chip, because shapes do not depend on how fast a chip is.
#
#    Here torch's meta device plays the chip, and two of torch's own hooks carry it: one replaces the word "cuda", the
#    other sees each operation, forward and backward. That is enough for this program, but not for others: one
#    look at `x.device` and it falls apart. The real device uses torch's real CUDA key: to a program it *is* cuda.
#    Real: anychip/device/, drivers/null


@dataclass(frozen=True)
class Meta:
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * {"bfloat16": 2, "float32": 4}.get(self.dtype, 8)


@dataclass(frozen=True)
class Op:
    name: str
    inputs: tuple[Meta, ...]
    outputs: tuple[Meta, ...]


@dataclass
class Tape:
    """What happened, in order: ("op", Op), ("alloc", bytes), ("free", bytes), ("read", None). And what was asked."""

    words: list[tuple[str, object]] = field(default_factory=list)
    answers: dict[str, object] = field(default_factory=dict)


def meta(tensor: torch.Tensor) -> Meta:
    return Meta(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


class SayMeta(TorchFunctionMode):
    """Wherever the program says "cuda", torch hears "meta"."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        args = tuple(self.heard(value) for value in args)
        return function(*args, **{name: self.heard(value) for name, value in (kwargs or {}).items()})

    @staticmethod
    def heard(value):
        is_cuda = isinstance(value, str | torch.device) and str(value).startswith("cuda")
        return torch.device("meta") if is_cuda else value


class Record(TorchDispatchMode):
    """Write every operation on a tensor of the chip to the tape, and every block of memory that comes and goes."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        if name == "aten::_local_scalar_dense":
            # .item(): the program waits for the chip and reads a number. There is none, so it gets a plausible one.
            self.tape.words.append(("read", None))
            return 1.0
        result = function(*args, **(kwargs or {}))
        outputs = [t for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, torch.Tensor) and t.is_meta]
        if outputs and not function.is_view:
            inputs = [t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
            self.tape.words.append(("op", Op(name, tuple(map(meta, inputs)), tuple(map(meta, outputs)))))
            for tensor in outputs:
                self.note(tensor)
        return result

    def note(self, tensor: torch.Tensor) -> None:
        """A block lives as long as its storage: a new storage is an allocation, its end a free."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.tape.words.append(("alloc", storage.nbytes()))
            weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())

    def forget(self, storage: int, nbytes: int) -> None:
        self.known.discard(storage)
        self.tape.words.append(("free", nbytes))


def record(source: str, chip: Chip, **sizes: int) -> Tape:
    """Run a program on a virtual chip. The chip answers its questions, and each answer that was read is kept."""
    tape = Tape()

    def capability(device: object = None) -> tuple[int, ...]:
        tape.answers["capability"] = tuple(chip.capability)
        return tuple(chip.capability)

    real, torch.cuda.get_device_capability = torch.cuda.get_device_capability, capability
    try:
        with SayMeta(), Record(tape):
            exec(compile(source, "program.py", "exec"), dict(sizes))
    finally:
        torch.cuda.get_device_capability = real
    return tape


section("a program is recorded once, as shapes")
tape = record(PROGRAM, chips["big"], WIDTH=4096, BATCH=8192)
kinds = Counter(kind for kind, _ in tape.words)
ops = Counter(word.name for kind, word in tape.words if kind == "op")
print(f"{kinds['op']} operations, {kinds['alloc']} allocations, {kinds['read']} values read; asked: {tape.answers}")
print("most frequent:", ", ".join(f"{name.removeprefix('aten::')} x{n}" for name, n in ops.most_common(4)))

# ---------------------------------------------------------------------------------------------------------------------
# 4. Work: what an operation asks of any chip. One small pure function per operation; what has none is priced by
#    the bytes that it touches. It is never free and never an error, and the answer says how much of it there is.
#    Real: anychip/cost/


@dataclass(frozen=True)
class Work:
    flop: int
    nbytes: int
    shape: tuple[int, int, int] | None = None  # m, n, k of a matrix product
    dtype: str = "float32"


FORMULAS = {}


def work_of(*names):
    """One decorated function adds an operation."""

    def register(function):
        for name in names:
            assert name not in FORMULAS, name
            FORMULAS[name] = function
        return function

    return register


def all_bytes(op: Op) -> int:
    return sum(t.nbytes for t in (*op.inputs, *op.outputs))


@work_of("aten::mm", "aten::addmm")
def product(op: Op) -> Work:
    """[m, k] @ [k, n] -> [m, n], with or without an added bias: a multiply and an add per term."""
    (m, k), (_, n) = (t.shape for t in op.inputs[-2:])
    return Work(2 * m * n * k, all_bytes(op), (m, n, k), op.outputs[0].dtype)


@work_of("aten::gelu", "aten::gelu_backward")
def gelu(op: Op) -> Work:
    return Work(10 * prod(op.outputs[0].shape), all_bytes(op))


def work(op: Op) -> Work:
    return FORMULAS.get(op.name, lambda op: Work(0, all_bytes(op)))(op)


section("work is arithmetic on shapes, and can be checked by hand")
first = next(word for kind, word in tape.words if kind == "op" and word.name == "aten::addmm")
todo = work(first)
# x is [8192, 4096] and the weight [4096, 16384]: 2 * 8192 * 4096 * 16384 = 1.0995e12 flop. Bytes in bfloat16:
# 2 * (bias 16384 + x 8192 * 4096 + weight 4096 * 16384 + result 8192 * 16384) = 469.8e6.
print(f"first product: {todo.flop / 1e12:.4f} TFLOP, {todo.nbytes / 1e6:.1f} MB")
assert todo.flop == 2 * 8192 * 4096 * 16384
assert todo.nbytes == 2 * (16384 + 8192 * 4096 + 4096 * 16384 + 8192 * 16384)

# ---------------------------------------------------------------------------------------------------------------------
# 5. Price: work becomes seconds on one chip. An operation takes as long as its arithmetic or as its bytes, whichever is
#    more. A matrix product is made in tiles, one per core at a time: with 129 tiles on 128 cores the last one costs a
#    whole round. The real model starts from measured points where there are any, and says for each price whether it
#    was measured, interpolated, modelled, or from bytes alone.   Real: anychip/cost/price.py, standard/rates/


def price(todo: Work, chip: Chip) -> tuple[float, str]:
    """Seconds, and what limits them."""
    memory_s = todo.nbytes / chip.bandwidth
    if todo.shape is None:
        compute_s = todo.flop / chip.vector
    else:
        m, n, _ = todo.shape
        tiles = ceil(m / chip.tile[0]) * ceil(n / chip.tile[1])
        rounds = ceil(tiles / chip.cores)
        full = tiles / (rounds * chip.cores)  # the share of the cores that has something to do
        compute_s = todo.flop / (chip.matrix[todo.dtype] * full)
    return max((compute_s, "compute"), (memory_s, "memory"))


section("the same work has another price on another chip")
for chip in (chips["big"], chips["wide"]):
    seconds, limit = price(todo, chip)
    print(f"first product on {chip.name:5} {seconds * 1e3:6.3f} ms, limited by {limit}")
relu = Work(flop=8192 * 16384, nbytes=2 * 2 * 8192 * 16384)
for chip in (chips["big"], chips["wide"]):
    seconds, limit = price(relu, chip)
    print(f"a ReLU on        {chip.name:5} {seconds * 1e3:6.3f} ms, limited by {limit}")

# ---------------------------------------------------------------------------------------------------------------------
# 6. The timeline. The host is a timeline too: it launches operations one after the other and runs ahead of the chip,
#    until it reads a value and has to wait. An operation starts when the host has launched it and the one before it is
#    done. Nothing else is assumed, and yet a small model comes out bound by the host, a large one by the chip.
#    Real: anychip/timeline/, with streams, events, graphs; a hundred thousand operations in 50 ms, by numpy


@dataclass(frozen=True)
class Forecast:
    time_s: float
    busy_s: float
    peak_bytes: int
    limits: dict[str, float]

    @property
    def idle(self) -> float:
        return 1 - self.busy_s / self.time_s


def forecast(tape: Tape, chip: Chip) -> Forecast:
    host = stream = busy = 0.0
    live = peak = 0
    limits: Counter[str] = Counter()
    for kind, word in tape.words:
        if kind == "op":
            host += chip.launch_s
            seconds, limit = price(work(word), chip)
            stream = max(stream, host) + seconds
            busy += seconds
            limits[limit] += seconds
        elif kind == "read":
            host = stream = max(host, stream)
        elif kind == "alloc":
            live += word
            peak = max(peak, live)
        elif kind == "free":
            live -= word
    return Forecast(max(host, stream), busy, peak, limits)


section("large or small: the host decides")
for width, batch in ((4096, 8192), (256, 64)):
    small_tape = record(PROGRAM, chips["big"], WIDTH=width, BATCH=batch)
    for chip in (chips["big"], chips["wide"]):
        answer = forecast(small_tape, chip)
        print(f"width {width:4}, batch {batch:4} on {chip.name:5} "
              f"{answer.time_s * 1e3 / 3:8.3f} ms a step, chip idle {answer.idle:4.0%}, "
              f"peak {answer.peak_bytes / 2**20:7.1f} MiB")  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------
# 7. Honesty. The tape was recorded on a chip that said "capability 9.0", and the program chose bfloat16 because of it.
#    A chip that would have said otherwise might have seen another program: its price must not come from this
#    tape. So every answer that was read is kept with the tape, and where one differs, the program is run again.
#    Real: Program.questions, device/cuda/answers.py; `anychip forecast --load` warns and names the line


def answers(chip: Chip) -> dict[str, object]:
    return {"capability": tuple(chip.capability)}


def recording_for(chip: Chip, tape: Tape) -> tuple[Tape, str]:
    # The program asked "is it at least 8.0?", but what it was told is a number, and only that can be compared.
    unlike = [name for name, answer in tape.answers.items() if answers(chip)[name] != answer]
    if not unlike:
        return tape, "the same recording"
    return record(PROGRAM, chip, WIDTH=4096, BATCH=8192), f"recorded again: {', '.join(unlike)} differs"


section("where an answer that was read differs, the program is recorded again")
for chip in chips.values():
    used, why = recording_for(chip, tape)
    answer = forecast(used, chip)
    products = {word.outputs[0].dtype for kind, word in used.words if kind == "op" and word.name == "aten::mm"}
    fits = "fits" if answer.peak_bytes <= chip.memory_bytes else "does not fit"
    print(f"{chip.name:5} {answer.time_s * 1e3 / 3:8.2f} ms a step in {', '.join(products)}, {fits} ({why})")

# ---------------------------------------------------------------------------------------------------------------------
# 8. The real thing, on the same question. It has the same five steps. What it adds: torch's real CUDA key, so
#    that any program runs; formulas for what programs use; measured rates; streams and events; memory by kind; an error
#    bound that comes from a table of published measurements; and chips that exist.
