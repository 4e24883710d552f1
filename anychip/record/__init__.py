"""What a program did, free of any chip: the only hand-over between recording and pricing."""

from anychip.record.op import Op, TensorMeta
from anychip.record.program import Group, Place, Program, Question
from anychip.record.tape import Kind, Mark, word

__all__ = ["Group", "Kind", "Mark", "Op", "Place", "Program", "Question", "TensorMeta", "word"]
