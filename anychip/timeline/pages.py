"""Page faults: what an allocation costs where the chip's memory is the process's own.

The system hands out memory page by page when it is first written. The C library keeps what a program frees and hands it
out again, except that blocks from a size on go back whenever they are freed, and that the free end of the heap goes back
once it is long (mallopt(3): M_MMAP_THRESHOLD, which grows with the blocks that are freed up to 32 MiB, and
M_TRIM_THRESHOLD, twice that). So a training program touches much of its activations anew in every step.

In: a tape and a chip with a measured `page.rate`. Out: seconds for each word, beyond its op's price. Left out: holes in
the heap (a freed block is taken to leave room for any later one).
"""

import numpy as np
import numpy.typing as npt

from anychip.cost.machine import Machine
from anychip.record import Kind, Program

FIRST_THRESHOLD = 128 * 1024  # M_MMAP_THRESHOLD before anything was freed
TRIM = 2  # M_TRIM_THRESHOLD over M_MMAP_THRESHOLD


def page_s(program: Program, on: Machine) -> npt.NDArray[np.float64] | None:
    """Seconds by word that its op waits for new pages; None on a chip without such a thing."""
    row = on.rates.first("page.rate") if on.called else None
    if row is None:
        return None
    fresh = fresh_bytes(program, int(float(row.shape or 32 * 2**20)))
    return fresh / row.value


def fresh_bytes(program: Program, most: int) -> npt.NDArray[np.int64]:
    """For each word the bytes that its op writes on new pages: of the blocks allocated for it, after it on the tape. most:
    the largest block that the library keeps."""
    kinds, payloads = program.kinds, program.payloads
    found = np.zeros(program.tape.size, np.int64)
    threshold, live, top, op = FIRST_THRESHOLD, 0, 0, 0
    mapped: set[int] = set()
    wanted = np.flatnonzero(np.isin(kinds, (Kind.OP, Kind.ALLOC, Kind.FREE)))
    for at, kind, payload in zip(wanted.tolist(), kinds[wanted].tolist(), payloads[wanted].tolist(), strict=True):
        if kind == Kind.OP:
            op = at
            continue
        size = int(program.block_bytes[payload])
        if kind == Kind.ALLOC and size >= threshold:
            mapped.add(payload)
            found[op] += size
        elif kind == Kind.ALLOC:
            live += size
            found[op] += max(live - top, 0)
            top = max(live, top)
        elif payload in mapped:
            mapped.discard(payload)
            threshold = max(threshold, min(size + 1, most))
        else:
            live -= size
            top = live if top - live > TRIM * threshold else top
    return found
