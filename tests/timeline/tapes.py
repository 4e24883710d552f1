"""Builders of small tapes for tests."""

import numpy as np

from anychip.record import Kind, Mark, Program, word
from tests.cost.ops import add, mm, op, t

OP, ALLOC, FREE = Kind.OP, Kind.ALLOC, Kind.FREE


def w(kind, payload=0):
    return word(kind, int(payload))


def mark(which):
    return word(Kind.MARK, int(which))


def program(words, ops=(), blocks=(), **rest):
    return Program(np.array(list(words), np.int64), list(ops), np.array(blocks, np.int64), **rest)


__all__ = ["ALLOC", "FREE", "OP", "Kind", "Mark", "add", "mark", "mm", "op", "program", "t", "w"]
