"""Builders of small tapes for tests."""

import numpy as np

from anychip.record import Kind, Mark, Program, word
from anychip.timeline import Engine
from tests.cost.ops import add, mm, op, t

OP, ALLOC, FREE = Kind.OP, Kind.ALLOC, Kind.FREE


def w(kind, payload=0):
    return word(kind, int(payload))


def mark(which):
    return word(Kind.MARK, int(which))


def program(words, ops=(), blocks=(), **rest):
    return Program(np.array(list(words), np.int64), list(ops), np.array(blocks, np.int64), **rest)


def whole_and_cut(chip, words, size, ops, blocks=()):
    """The clocks that have run the words at once, and so many at a time."""
    whole, parts = Engine(chip, ops, blocks), Engine(chip, ops, blocks)
    whole.run(np.array(words, np.int64))
    for at in range(0, len(words), size):
        parts.run(words[at : at + size])
    return whole, parts


__all__ = ["ALLOC", "FREE", "OP", "Kind", "Mark", "add", "mark", "mm", "op", "program", "t", "w", "whole_and_cut"]


FORWARD = [mark(Mark.FORWARD_BEGIN), w(Kind.OP, 0), mark(Mark.FORWARD_END)]
INFER = [mark(Mark.INFER_BEGIN), w(Kind.OP, 0), mark(Mark.INFER_END)]
BACKWARD = [mark(Mark.BACKWARD_BEGIN), w(Kind.OP, 1), mark(Mark.BACKWARD_END)]
OPS = [mm(512, 512, 512), mm(1024, 512, 512), add(4096)]


def optimizer(number=0):
    return [w(Kind.OPTIMIZER, number), mark(Mark.OPTIMIZER_BEGIN), w(Kind.OP, 2), mark(Mark.OPTIMIZER_END)]
