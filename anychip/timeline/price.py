"""`price(program, chip)`: a recorded program on a chip, as a `Timeline`."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anychip.cost.fusion import fuse
from anychip.cost.price import Prices
from anychip.record import Program
from anychip.spec import Chip
from anychip.timeline.engine import Engine
from anychip.timeline.pages import page_s

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Timeline:
    """When everything ran. One entry per launched op, in host order: position (its word on `program.tape`), op (index
    into `program.ops`), start_s, duration_s, stream. host_s: the host's clock after each word of the tape.
    program: the one that was priced, compiled regions fused. prices: its ops' prices, by op."""

    program: Program
    chip: Chip
    position: Ints
    op: Ints
    start_s: Floats
    duration_s: Floats
    stream: Ints
    host_s: Floats
    prices: Prices

    @property
    def end_s(self) -> Floats:
        return self.start_s + self.duration_s

    @property
    def total_s(self) -> float:
        """From the first word until the host and all streams are done."""
        ends = [float(self.host_s[-1]) if self.host_s.size else 0.0, float(self.end_s.max()) if self.op.size else 0.0]
        return max(ends)

    def done_s(self, positions: Ints) -> Floats:
        """When all that was issued before each tape position had ended, on the host and on the chip."""
        ends = np.maximum.accumulate(self.end_s) if self.op.size else np.zeros(0)
        launched = np.searchsorted(self.position, positions, side="right")
        device = np.where(launched > 0, ends[np.maximum(launched - 1, 0)] if ends.size else 0.0, 0.0)
        return np.maximum(device, self.host_s[positions] if self.host_s.size else 0.0)


def price(program: Program, chip: Chip) -> Timeline:
    """Fuse what was compiled, price every distinct op once, and walk the tape."""
    fused = fuse(program)
    engine = Engine(chip, fused.ops, fused.block_bytes, record=True, fused=True)
    engine.extra_s = page_s(fused, engine.on)
    engine.run(fused.tape)
    recorded = engine.recorded
    assert recorded is not None
    columns = [_join(column) for column in zip(*recorded.chunks, strict=True)] if recorded.chunks else [()] * 4
    sizes = [np.size(chunk[0]) for chunk in recorded.chunks]
    stream = np.repeat(np.asarray([chunk[4] for chunk in recorded.chunks], np.int64), sizes)
    return Timeline(fused, chip, np.asarray(columns[0], np.int64), np.asarray(columns[1], np.int64),
                    np.asarray(columns[2], np.float64), np.asarray(columns[3], np.float64), stream,
                    np.asarray(_join(recorded.host), np.float64), engine.prices)  # fmt: skip


def _join(parts: object) -> npt.NDArray[np.generic]:
    arrays = [np.atleast_1d(part) for part in parts]  # type: ignore[attr-defined]
    return np.concatenate(arrays) if arrays else np.zeros(0)
