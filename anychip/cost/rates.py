"""The measured rates of a chip: `standard/rates/<chip>.csv`, read into rows and looked up by name.

Columns: op, dtype, shape, value, unit, kind (measured | derived | assumed), stack, date, source, note. The words in `op`:

  gemm                      a measured product; shape MxNxK, value as a rate; "MxNxK nt" where the chip's rates tell apart how
                            the operands lie (n: rows in one piece, t: columns)
  gemm.warm                 the same in a long run (thousands of iterations): `gemm.sustained` is in it already
  gemm.warm.sustained       rate in a step of training over that in such a long run of one product alone
  gemm.rate                 the rate of a large product, where no point was measured (or a ratio of the peak)
  gemm.peak                 peak of fp32 as a share of the 16-bit one, for a chip of which nobody states one or measured a product; in
                            default.csv shape says for which generation of chips, and note which chips have that share
  gemm.k0, gemm.wave        shape of the curve: inner dimension at which the rate halves, exponent of wave filling
  gemm.overhead             fixed time of a product
  gemm.sustained            rate in a long run over rate in a benchmark (clocks, power)
  gemm.ragged               share of its rate that a product reaches of 16-bit operands whose rows are no multiple of 16 bytes; in default.csv
                            shape says for which generation of chips
  conv, conv.data, conv.weight    a measured convolution and its two gradients, as a row of its implicit product: MxNxK, then
                            "channels_last" where its maps lie so
  attention.forward, attention.backward      a measured fused attention; shape "flash d128 causal s2048"
  attention.forward.rate, attention.backward.rate      its asymptote, where no curve was measured
  attention.half_length     length at which the rate is half of that
  attention.narrow          ratio of it that heads half as wide as 128 reach, and of that those of a quarter
  attention.rows            queries that a block works on at least, where they are fewer than keys (decoding)
  attention.efficient       ratio of it that torch's memory-efficient kernels reach (and FlashAttention's first release);
                            attention.efficient.backward: of the backward's
  attention.sustained       as gemm.sustained
  attention.forward.low, attention.backward.low      speed of FP8 attention over that of 16 bit
  aten.NAME                 a measured op that is limited by memory; shape: the bytes that anychip counts for it, "strided" after
                            them where the source is read across its rows; value: those bytes over the time beyond kernel.floor
  memory.copy               bandwidth of a copy that reads and writes as many bytes as shape says: what caches do
  page.rate                 bandwidth of the first write to memory that is new to the process (execution "host"); shape: blocks
                            from so many bytes on go back to the system whenever they are freed
  memory.rate               main-memory bandwidth of a large copy (or a ratio of the peak)
  memory.scattered          ratio of memory.rate that point-wise ops of 16 bit reach whose operands do not lie alike
  memory.cast               ratio of memory.rate that casts to 8 bit reach which leave rows and columns at once
  vector.rate               ratio of the vector peak that point-wise code reaches
  kernel.floor, kernel.floor_graph           device time of an empty kernel, launched by the host or replayed in a graph
  host.op, host.launch, host.product     host time: of an eager op, per kernel launched, per unlike product of it beyond that
  host.empty                host time of an op that launches nothing, a ratio of host.op
  host.replay, host.read    host time: of a replay, of a read
  host_link.rate            bandwidth between host and chip, or a ratio of the link's
  host_link.staging         the host's copy of memory that is not pinned into some that is, before or after the link's
  host_link.unknown         the link's, where the chip's file names no wire and no rate; note says which that is
  borrow                    note begins with the chip (then a colon) whose *curve shape* (never level) stands in; shape says for what
  gemm.grouped              share of that rate that grouped products (mixtures of experts) reach
  gemm.custom               share of that rate that products inside of a kernel of its own reach, as those of a scan in chunks;
                            gemm.custom.backward: of a backward's
  collective.efficiency     share of a wire that large collectives reach; shape scale_up, host or scale_out (over the link's file)
  collective.exchange       share of that which all-to-all through a switch reaches; collective.latency: one step of a message
  same_die                  note begins with a chip of the same die, clocks and power (then a colon): its rows of products and
                            attention come after this file's own

A chip without a row takes the one of `default.csv`, which holds shares of peak and overheads that belong to no chip and
are all `assumed`. Another chip's level is never used, but of a chip that this one extends without changing what the level depends on
(`spec.inherited`).
"""

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from anychip.errors import BadChipFile
from anychip.spec import Chip
from anychip.spec.inherited import rates_file
from anychip.spec.measured import RATE_KINDS, RATE_UNITS, RATES_HEADER, WITHOUT_VALUE

COLUMNS, UNITS, KINDS = RATES_HEADER, RATE_UNITS, RATE_KINDS
DIRECTORY = Path(__file__).parents[1] / "standard" / "rates"


class Rate(NamedTuple):
    """One row; value in SI (or a ratio of the chip's peak where unit is "ratio")."""

    op: str
    dtype: str
    shape: str
    value: float
    unit: str
    kind: str
    stack: str
    date: str
    source: str
    note: str

    @property
    def is_share(self) -> bool:
        return self.unit == "ratio"


@dataclass(frozen=True)
class Rates:
    """All rows of one chip, over those of `default.csv`."""

    rows: tuple[Rate, ...]
    default: "Rates | None" = None

    def all(self, op: str, dtype: str | None = None) -> tuple[Rate, ...]:
        """The chip's own rows of `op`, in file order; `dtype` "" in a row means any."""
        return tuple(row for row in self.rows if row.op == op and (dtype is None or row.dtype in (dtype, "")))

    def first(self, op: str, dtype: str | None = None) -> Rate | None:
        """The chip's own row, the one that names the dtype before one for any; None without."""
        rows = self.all(op, dtype)
        return max(rows, key=lambda row: row.dtype != "", default=None)

    def need(self, op: str, dtype: str | None = None) -> Rate:
        """The chip's own row, else the default's."""
        row = self.first(op, dtype)
        if row is None:
            assert self.default is not None, f"default.csv has no row {op!r}"
            return self.default.need(op, dtype)
        return row

    def borrowed(self, what: str) -> str | None:
        """The id of the chip whose curve shape stands in for `what`."""
        return next(
            (row.note.split(":")[0].strip() for row in self.rows if row.op == "borrow" and row.shape == what), None
        )


def parse(text: str, name: str) -> tuple[Rate, ...]:
    """Rows of a rates file. Raises BadChipFile with all problems at once, each with its line."""
    problems: list[str] = []
    rows: list[Rate] = []
    reader = csv.reader(text.splitlines())
    head = next(reader, [])
    if tuple(head) != COLUMNS:
        raise BadChipFile(f"{name}:1: the first line must be {','.join(COLUMNS)}")
    for cells in reader:
        if not cells or cells[0].startswith("#"):
            continue
        row = _row(cells, f"{name}:{reader.line_num}", problems)
        rows += [row] if row else []
    if problems:
        raise BadChipFile("\n".join(problems))
    return tuple(rows)


def _row(cells: list[str], place: str, problems: list[str]) -> Rate | None:
    if len(cells) != len(COLUMNS):
        problems.append(f"{place}: {len(cells)} cells, expected {len(COLUMNS)}. Quote a cell that holds a comma.")
        return None
    fields = dict(zip(COLUMNS, (cell.strip() for cell in cells), strict=True))
    if fields["unit"] not in UNITS:
        problems.append(f"{place}: unit {fields['unit']!r}; one of {', '.join(filter(None, UNITS))}.")
        return None
    if fields["kind"] not in KINDS:
        problems.append(f"{place}: kind {fields['kind']!r}; one of {', '.join(KINDS)}.")
    try:
        value = float(fields.pop("value") or 0) * UNITS[fields["unit"]]
    except ValueError:
        problems.append(f"{place}: value {cells[3]!r} is not a number.")
        return None
    if not 0 <= value < 1e21 or (value == 0 and fields["op"] not in WITHOUT_VALUE):
        problems.append(f"{place}: value {cells[3]!r} must be above zero.")
    if not fields["source"]:
        problems.append(f"{place}: a rate needs a source.")
    return Rate(value=value, **fields)


@cache
def load_file(path: Path) -> tuple[Rate, ...]:
    if not path.is_file():
        return ()
    try:
        return parse(path.read_text(encoding="utf-8"), path.name)
    except UnicodeDecodeError as error:
        raise BadChipFile(f"{path.name}: byte {error.start} is not UTF-8 text") from error


@cache
def defaults() -> Rates:
    return Rates(load_file(DIRECTORY / "default.csv"))


def rates_of(chip_id: str, chip_file: Path | None = None) -> Rates:
    """A chip's own rates, of the file that `spec.inherited.rates_file` finds."""
    file = rates_file(chip_id, chip_file)
    rows = load_file(file) if file is not None else ()
    return Rates(rows + same_die(rows), defaults())


def rates_of_chip(chip: Chip) -> Rates:
    """Its own rates, and what it inherits of those of the chips that it extends."""
    own = rates_of(chip.id, chip.file)
    lent = tuple(row for one in chip.inherits for row in rates_of(one.chip, one.file).rows if one.has(row.op))
    return Rates(own.rows + lent, defaults()) if lent else own


def same_die(rows: tuple[Rate, ...]) -> tuple[Rate, ...]:
    """The rows that a chip shares with one of the same die: what its matrix engine does, not what its memory does. Products of
    long runs come as they would be in a benchmark: how far a rate sustains is each chip's own, as its power is."""
    names = [row.note.split(":")[0].strip() for row in rows if row.op == "same_die"]
    dies = [Rates(load_file(DIRECTORY / f"{name}.csv"), defaults()) for name in names]
    return tuple(in_benchmark(row, die) for die in dies for row in die.rows
                 if row.op.startswith(("gemm", "attention", "borrow")))  # fmt: skip


def in_benchmark(row: Rate, rates: Rates) -> Rate:
    """A product of a long run as it would be in a benchmark; another row as it is."""
    return row._replace(op="gemm", value=row.value / warmth(rates, row.dtype)) if row.op == "gemm.warm" else row


def warmth(rates: Rates, dtype: str) -> float:
    """The rate of a product in a long run of it alone over that in a benchmark."""
    return rates.need("gemm.sustained", dtype).value / rates.need("gemm.warm.sustained", dtype).value


SHAPE = re.compile(r"^(\d+)x(\d+)x(\d+)(?: ([a-z_]+))?$")
ATTENTION = re.compile(r"^(\w+)(?: d(\d+))?(?: (causal|full))?(?: s(\d+))?$")


class Level(NamedTuple):
    """A rate in flop/s, and on what it rests: "measured", "interpolated" or "modelled". dtype: of the curve, where it is
    of that dtype alone."""

    value: float
    evidence: str
    dtype: str = ""


NOTHING = "no measurement"  # what a rate rests on that comes of a usual share of a peak


def borrowed_rows(rates: Rates, what: str) -> Rates:
    """The rates of the chip whose curve shape stands in; the chip's own where none is named."""
    name = rates.borrowed(what)
    return Rates(load_file(DIRECTORY / f"{name}.csv"), rates.default) if name else rates
