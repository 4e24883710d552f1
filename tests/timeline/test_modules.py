"""Memory by module, on tapes made by hand."""

import numpy as np

from anychip.record import Kind, Mark, Place, Program, word
from anychip.record.reads import reads
from anychip.timeline.memory import memory
from anychip.timeline.modules import folded, module_at

MIB = 1 << 20
MODULES = ["Net", "layers.0.up", "layers.1.up"]


def mark(which: Mark) -> int:
    return word(Kind.MARK, which)


def program(tape: list[int], **fields: object) -> Program:
    sizes = np.array([1, 2, 4, 8, 16, 32], dtype=np.int64) * MIB
    return Program(tape=np.array(tape, dtype=np.int64), ops=[], block_bytes=sizes, modules=MODULES, **fields)


def test_words_belong_to_the_module_that_is_called_or_whose_backward_runs() -> None:
    tape = [
        word(Kind.ALLOC, 0), mark(Mark.FORWARD_BEGIN), word(Kind.ENTER, 0), word(Kind.ENTER, 1), word(Kind.ALLOC, 1),
        word(Kind.EXIT, 1), word(Kind.ALLOC, 2), word(Kind.EXIT, 0), mark(Mark.FORWARD_END), mark(Mark.BACKWARD_BEGIN),
        word(Kind.NODE, 0), word(Kind.ALLOC, 3), word(Kind.NODE, 1), word(Kind.ENTER, 2), word(Kind.ALLOC, 4),
        word(Kind.EXIT, 2), word(Kind.ALLOC, 5), mark(Mark.BACKWARD_END), word(Kind.FREE, 5),
    ]  # fmt: skip
    found = module_at(program(tape))
    allocates = [at for at, one in enumerate(tape) if one & 31 == Kind.ALLOC]
    # before all calls; in layers.0.up; in Net; backward of Net; called again inside a backward; backward of layers.0.up
    assert found[allocates].tolist() == [-1, 1, 0, 0, 2, 1]
    assert found[-1] == -1


def test_the_peak_by_module_adds_up_and_repeated_modules_are_one() -> None:
    tape = [
        word(Kind.ALLOC, 0), word(Kind.ALLOC, 1), mark(Mark.FORWARD_BEGIN), word(Kind.ENTER, 0),
        word(Kind.ENTER, 1), word(Kind.ALLOC, 2), word(Kind.EXIT, 1),
        word(Kind.ENTER, 2), word(Kind.ALLOC, 3), word(Kind.ALLOC, 4), word(Kind.FREE, 4), word(Kind.EXIT, 2),
        word(Kind.EXIT, 0), mark(Mark.FORWARD_END), mark(Mark.BACKWARD_BEGIN), mark(Mark.BACKWARD_END),
        word(Kind.FREE, 2), word(Kind.FREE, 3), word(Kind.OPTIMIZER, 0), mark(Mark.OPTIMIZER_BEGIN),
        mark(Mark.OPTIMIZER_END),
    ]  # fmt: skip
    held = memory(program(tape, meta={"held_by": [[0, 1], [1, 0]]}))
    # At the peak: parameters 1 (of layers.0.up) and 2 (of Net), activations 4 and 8, and 16 that are gone before the
    # forward ends.
    assert held.peak_bytes == 31 * MIB
    assert {name: nbytes // MIB for name, nbytes in held.by_kind.items() if nbytes} == {
        "parameters": 3, "activations": 12, "workspace": 16,
    }  # fmt: skip
    assert held.by_module == {"layers.*.up": 29 * MIB, "Net": 2 * MIB}


def test_paths_are_folded() -> None:
    assert folded("model.layers.11.mlp.up.weight") == "model.layers.*.mlp"
    assert folded("0.1.conv") == "*.*"
    assert folded("backbone.body.conv1.bias") == "backbone.body.conv1"


def test_reads_are_counted_by_line_and_step() -> None:
    places = [Place("a.py", 3, "f"), Place("b.py", 4, "g")]
    tape = [word(Kind.READ, 0), word(Kind.READ, 1), word(Kind.READ, 1), word(Kind.READ, 0), word(Kind.READ, 1)]
    found = reads(program(tape, places=places), 1, 5, 2)
    assert [(read.file, read.line, read.count) for read in found] == [("b.py", 4, 1.5), ("a.py", 3, 0.5)]
