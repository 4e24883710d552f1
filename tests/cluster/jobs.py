"""Builders of small jobs for tests: ranks that compute for a while and call collectives, on a made-up network."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from anychip.record import Group, Kind, Mark, Place, Program
from tests.cost.ops import op, t
from tests.timeline.tapes import w

COMM = 1000


class Cost(NamedTuple):
    time_s: float
    evidence: str = "modelled"
    algorithm: str = "ring"
    limit: str = "bandwidth"
    tier: str = "network"
    memory_bytes: float = 0.0
    cores: int = 0
    carrying: float = 1.0


class Wire:
    """Every rank sends and receives `rate` bytes/s; a message takes `latency` more. Rings."""

    def __init__(self, rate=1e9, latency=0.0, memory=0.0, cores=0):
        self.rate, self.latency, self.asked, self.memory, self.cores = rate, latency, [], memory, cores

    tiers = (SimpleNamespace(name="network", role="scale_out"),)

    def degraded(self, tier, share):
        return Wire(self.rate * share, self.latency, self.memory, self.cores)

    def cost(self, kind, nbytes, ranks, dtype):
        self.asked.append((kind, nbytes, tuple(ranks), dtype))
        n = len(ranks)
        times = {
            "all_reduce": 2 * (n - 1) / n,
            "all_gather": (n - 1) / n,
            "reduce_scatter": (n - 1) / n,
            "all_to_all": (n - 1) / n,
        }
        steps = {"all_reduce": 2 * (n - 1), "send": 1, "recv": 1, "barrier": 1}.get(kind, n - 1)
        moving = times.get(kind, 1.0) * nbytes / self.rate
        time = moving + steps * self.latency
        return Cost(
            time,
            memory_bytes=self.memory * nbytes,
            cores=self.cores,
            carrying=min(2 * moving / time, 1.0) if time else 0.0,
        )


class Rank:
    """A tape in the making, in the words of a program: compute, collectives on a stream of their group, waits."""

    def __init__(self, rank, world, groups, members=None):
        self.rank, self.world, self.groups = rank, world, [Group(*group) for group in groups]
        self.members = tuple(members) if members is not None else (rank,)
        self.tape, self.ops, self.events, self.line = [], [], 0, 0
        self.places, self.blocks = [], []

    def op(self, found):
        if found not in self.ops:
            self.ops.append(found)
        return w(Kind.OP, self.ops.index(found))

    def add(self, *words):
        self.tape += words
        return self

    def compute(self, seconds):
        return self.add(self.op(op("anychip.sleep", seconds)))

    def at(self, line):
        self.places.append(Place("train.py", line, "main"))
        return self.add(w(Kind.AT, len(self.places) - 1))

    def mark(self, which):
        return self.add(w(Kind.MARK, int(which)))

    def call(self, name, group, elements, dtype="float32", **kwargs):
        """The word of a collective whose input and output have so many elements."""
        sizes = {
            "_allgather_base_": (1, len(self.groups[group].ranks)),
            "_reduce_scatter_base_": (len(self.groups[group].ranks), 1),
        }
        into, out = sizes.get(name, (1, 1))
        return self.op(
            op(
                f"c10d.{name}.default",
                (t(elements * out, dtype=dtype),),
                (t(elements * into, dtype=dtype),),
                group,
                **kwargs,
            )
        )

    def start(self, *words, stream=COMM):
        """Launch collectives on a communication stream; returns the event of their end."""
        begin, end = self.events, self.events + 1
        self.events += 2
        words = [w(Kind.BATCH, 1), *words, w(Kind.BATCH, 0)] if len(words) > 1 else words
        self.add(
            w(Kind.RECORD, begin),
            w(Kind.STREAM, stream),
            w(Kind.WAIT, begin),
            *words,
            w(Kind.RECORD, end),
            w(Kind.STREAM, 0),
        )
        return end

    def wait(self, event):
        return self.add(w(Kind.WAIT, event))

    def run(self, *words, **kwargs):
        """Launch collectives and let the default stream wait for them."""
        return self.wait(self.start(*words, **kwargs))

    def send(self, peer, elements, group=0):
        return self.call("send", group, elements, peer=peer)

    def recv(self, peer, elements, group=0):
        return self.call("recv_", group, elements, peer=peer)

    def program(self, **rest):
        return Program(np.array(self.tape, np.int64), self.ops, np.array(self.blocks, np.int64), places=self.places,
                       rank=self.rank, world_size=self.world, groups=self.groups, members=self.members, **rest)  # fmt: skip


def job(*ranks):
    programs = [rank.program() for rank in ranks]
    programs[0].others = programs[1:]
    return programs[0]


def one_f_one_b(stages, batches, forward_s, backward_s, elements=1, replicas=1, steps=0):
    """The 1F1B schedule as Megatron-LM runs it: sends and receives of neighbours in one batch.

    Narayanan et al., "Efficient large-scale language model training on GPU clusters", 2021, figure 4.
    steps: how many times, each as a training step; 0: once, without any marks.
    """
    ranks = []
    for stage in range(stages):
        group = tuple(range(0, stages * replicas, replicas))
        me = Rank(stage * replicas, stages * replicas, [(group, "pp")], range(stage * replicas, (stage + 1) * replicas))
        before, after = (stage - 1) * replicas, (stage + 1) * replicas
        first, last = stage == 0, stage == stages - 1
        warm = min(stages - stage - 1, batches)
        for _ in range(steps or 1):
            if steps:
                me.mark(Mark.FORWARD_BEGIN)
            for _ in range(warm):
                if not first:
                    me.run(me.recv(before, elements))
                me.compute(forward_s)
                me.run(me.send(after, elements))
            if batches > warm and not first:
                me.run(me.recv(before, elements))
            for batch in range(batches - warm):
                me.compute(forward_s)
                if not last:
                    me.run(me.send(after, elements), me.recv(after, elements))
                me.compute(backward_s)
                if batch == batches - warm - 1:
                    if not first:
                        me.run(me.send(before, elements))
                elif not first:
                    me.run(me.send(before, elements), me.recv(before, elements))
            for _ in range(warm):
                me.run(me.recv(after, elements))
                me.compute(backward_s)
                if not first:
                    me.run(me.send(before, elements))
            if steps:
                me.mark(Mark.OPTIMIZER_BEGIN).mark(Mark.OPTIMIZER_END)
        ranks.append(me)
    return job(*ranks)
