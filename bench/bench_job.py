"""How long it takes to price a job of 1,024 chips recorded as 16 distinct ranks of 100,000 words each: at most 5 s.

A 1F1B pipeline of 16 stages with tensor-parallel all-reduces and asynchronous all-gathers, on a chip and a network that
nothing was priced on before; and the same with compiled layers, which are fused first.
"""

import sys
import time
from functools import partial

import numpy as np
from base import report

from anychip.cluster import simulate
from anychip.network import Fabric
from anychip.record import Group, Kind, Op, Program, TensorMeta, word
from anychip.spec import load_chip

STAGES, REPLICAS, BATCHES, LAYERS, WORDS, LIMIT_S, COMPILED_LIMIT_S = 16, 64, 32, 8, 100_000, 5.0, 10.0
TENSOR, DATA, PIPELINE = 0, 1, 2
PIECE = TensorMeta((4 * 2**20,), (1,), "bfloat16")
SHARD = TensorMeta((2**20 // 8,), (1,), "bfloat16")
WHOLE = TensorMeta((2**20,), (1,), "bfloat16")


def matrix(m: int, n: int) -> TensorMeta:
    return TensorMeta((m, n), (n, 1), "bfloat16")


PRODUCT = Op("aten.mm.default", (matrix(4096, 4096), matrix(4096, 1024)), (), (matrix(4096, 1024),))
POINTWISE = Op("aten.gelu.default", (matrix(4096, 1024),), (), (matrix(4096, 1024),))


class Stage:
    """The tape of one stage in the making."""

    def __init__(self, stage: int, is_compiled: bool) -> None:
        self.stage, self.rank, self.is_compiled = stage, stage * REPLICAS, is_compiled
        self.blocks = 1
        self.ops: list[Op] = [PRODUCT, POINTWISE]
        self.tape: list[int] = []
        self.events = 0

    def call(self, name: str, out: TensorMeta, source: TensorMeta, group: int, **kwargs: int) -> int:
        op = Op(f"c10d.{name}.default", ((out,), (source,), group), tuple(kwargs.items()))
        if op not in self.ops:
            self.ops.append(op)
        return word(Kind.OP, self.ops.index(op))

    def start(self, group: int, *words: int) -> int:
        begin, end = self.events, self.events + 1
        self.events += 2
        if len(words) > 1:
            words = (word(Kind.BATCH, 1), *words, word(Kind.BATCH, 0))
        self.tape += [word(Kind.RECORD, begin), word(Kind.STREAM, 1000 + group), word(Kind.WAIT, begin), *words,
                      word(Kind.RECORD, end), word(Kind.STREAM, 0)]  # fmt: skip
        return end

    def run(self, group: int, *words: int) -> None:
        if words:
            self.tape.append(word(Kind.WAIT, self.start(group, *words)))

    def compute(self, passes: int) -> None:
        for _ in range(LAYERS):
            event = self.start(DATA, self.call("_allgather_base_", WHOLE, SHARD, DATA))
            for _ in range(passes):
                if self.is_compiled:
                    self.region()
                else:
                    self.tape += 8 * [word(Kind.ALLOC, 0), word(Kind.OP, 0), word(Kind.NODE, 1), word(Kind.OP, 1), word(Kind.FREE, 0),
                                      word(Kind.OP, 1), word(Kind.ENTER, 0), word(Kind.EXIT, 0)]  # fmt: skip
                self.run(TENSOR, self.call("allreduce_", PIECE, PIECE, TENSOR))
            self.tape.append(word(Kind.WAIT, event))

    def region(self) -> None:
        """Eight products, each with two point-wise ops, on blocks of their own."""
        self.tape.append(word(Kind.COMPILED, 1))
        for _ in range(8):
            x, y, z, t = range(self.blocks, self.blocks + 4)
            self.blocks += 3  # the last block is the next product's input
            self.tape += [word(Kind.OP, 0), word(Kind.USE, x), word(Kind.DEF, y), word(Kind.OP, 1), word(Kind.USE, y), word(Kind.DEF, z),
                          word(Kind.OP, 1), word(Kind.USE, z), word(Kind.DEF, t), word(Kind.FREE, y), word(Kind.FREE, z)]  # fmt: skip
        self.tape.append(word(Kind.COMPILED, 0))

    def exchange(self, *ways: str) -> None:
        """Send to, or receive from, the stage before ("<") or after (">"), where there is one."""
        words = []
        for way in ways:
            peer = self.stage + (1 if way.endswith(">") else -1)
            if 0 <= peer < STAGES:
                name = "send" if way.startswith("send") else "recv_"
                words.append(self.call(name, PIECE, PIECE, PIPELINE, peer=peer * REPLICAS))
        self.run(PIPELINE, *words)

    def program(self) -> Program:
        """One step of 1F1B (Narayanan et al., 2021, figure 4)."""
        warm = min(STAGES - self.stage - 1, BATCHES)
        for _ in range(warm):
            self.exchange("recv<")
            self.compute(1)
            self.exchange("send>")
        self.exchange("recv<")
        for batch in range(BATCHES - warm):
            self.compute(1)
            self.exchange("send>", "recv>")
            self.compute(2)
            self.exchange("send<", *(["recv<"] if batch < BATCHES - warm - 1 else []))
        for _ in range(warm):
            self.exchange("recv>")
            self.compute(2)
            self.exchange("send<")
        inside = self.rank % REPLICAS
        groups = [Group(tuple(range(self.rank, self.rank + 8)), "tp"), Group(tuple(range(self.rank, self.rank + REPLICAS, 8)), "dp"),
                  Group(tuple(range(inside, STAGES * REPLICAS, REPLICAS)), "pp")]  # fmt: skip
        block_bytes = np.full(self.blocks + 1, 8 * 2**20)
        return Program(np.array(self.tape, np.int64), self.ops, block_bytes, [""], rank=self.rank,
                       world_size=STAGES * REPLICAS, groups=groups,
                       members=tuple(range(self.rank, self.rank + REPLICAS)))  # fmt: skip


def job(is_compiled: bool) -> Program:
    first, *others = [Stage(stage, is_compiled).program() for stage in range(STAGES)]
    first.others = others
    return first


def seconds(is_compiled: bool) -> float:
    """For ranks of WORDS words each."""
    best = float("inf")
    program = job(is_compiled)
    words = sum(rank.tape.size for rank in program.ranks) / STAGES
    for repeat in range(3):
        chip = load_chip("h100").with_figures({"power.limit": 700.0 + repeat})
        run = partial(simulate, program, chip, Fabric.of(chip, program.world_size))
        began = time.process_time()
        run()
        best = min(best, time.process_time() - began)
    print(f"{STAGES} distinct ranks, {words:,.0f} words each", file=sys.stderr)
    return best * WORDS / words


def main() -> int:
    good = report("price.job_16_ranks", seconds(False), "s", LIMIT_S)
    good &= report("price.compiled_job_16_ranks", seconds(True), "s", COMPILED_LIMIT_S)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
