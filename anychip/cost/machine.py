"""What pricing needs of a chip, worked out once: `machine(chip)` from its figures and its rates.

In: a `spec.Chip` and `cost.rates`. Out: `Machine`, plain numbers in SI. Left out: ops (`cost.price`).
"""

from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import inf
from typing import NamedTuple

from anychip.cost.attention import rate as attention_rate
from anychip.cost.attention import rests_on as attention_rests_on
from anychip.cost.gemm import POINTS_OF_A_CURVE, TWINS, GemmCurve, gemm_points, how_of, rate_by_points
from anychip.cost.points import OpRates, SizeCurve, size_curve
from anychip.cost.rates import NOTHING, Level, Rate, Rates, rates_of_chip
from anychip.cost.work import Work
from anychip.spec import Chip
from anychip.spec.chip import A_PEAK
from anychip.spec.cluster import Wire, load_wire

# Which other dtype's peak holds where a chip has none of its own: it computes the dtype in the first of these that it has.
RUNS_AS = {
    "tf32": ("tf32", "fp32"), "fp16": ("fp16", "bf16", "fp32"), "bf16": ("bf16", "fp32", "fp16"),
    "fp8": ("fp8", "bf16", "fp16", "fp32"), "fp6": ("fp6", "fp8", "bf16", "fp32"), "fp4": ("fp4", "fp8", "bf16", "fp32"),
    "int8": ("int8", "bf16", "fp16", "fp32"), "int4": ("int4", "int8", "bf16", "fp32"), "fp64": ("fp64",), "fp32": ("fp32",),
}  # fmt: skip

WIDE = ("fp64", "fp32", "tf32")  # than what the published runs multiply
KNOWN = ("measured", "published", "assumed")  # of the rate of products

# What a platform that casts a dtype's operands casts them to, and the torch dtype by which its file tells.
CASTS = {"fp64": ("float64", "fp32"), "fp32": ("float32", "bf16"), "tf32": ("float32", "bf16")}

# A number as the sum of two of half its width: 17 operations for a product, 20 for a sum, against one each (T. J. Dekker,
# "A floating-point technique for extending the available precision", 1971).
DOUBLE_WORD_FLOP = 18.5

# Of the peak of its matrix engine, where a chip publishes no vector peak: below every chip that publishes both.
VECTOR_SHARE = 1 / 32


class Products(NamedTuple):
    """How a chip multiplies matrices of a dtype. dtype: that it computes in. peak: flop/s that no product exceeds. published: its peak
    where somebody states one. known: its rate was "measured", or follows from a peak that is "published" or "assumed"; why: the
    assumption, in words."""

    dtype: str
    peak: float
    published: float | None
    known: str
    why: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Machine:
    """A chip as pricing sees it. Seconds and bytes/s; `gemm(dtype)` and `attention_rate` are looked up when needed."""

    chip: Chip
    rates: Rates
    memory_bytes_per_s: float
    memory_peak_bytes_per_s: float
    memory_measured: bool
    vector_share: float
    kernel_floor_s: float
    graph_floor_s: float
    host_op_s: float
    host_empty_s: float
    host_launch_s: float
    host_product_s: float
    host_replay_s: float
    host_read_s: float
    host_link_bytes_per_s: float
    host_staging_bytes_per_s: float
    host_link_assumed: str  # the link that was taken, where the chip's file does not say which it has
    graph: bool
    called: bool  # ops run in the thread that calls them: no launch, no stream, no link
    launch_queue: int  # launches that a stream's queue holds; 0: nobody says, or there is none

    def products(self, dtype: str) -> Products:
        """In what, how fast and on what evidence products of a dtype are computed."""
        return _products(self, dtype)

    def peak(self, dtype: str) -> float:
        """Dense peak in flop/s of products of the dtype, in whichever the chip computes it."""
        return self.products(dtype).peak

    @property
    def half_peak(self) -> float:
        """Dense matrix peak in flop/s of 16 bit: of bf16, or of fp16 on chips that have no bf16 to multiply."""
        return max(self.peak("bf16"), self.peak("fp16"))

    def vector_peak(self, dtype: str = "fp32") -> float:
        """Peak of point-wise arithmetic: 16-bit types compute in fp32."""
        peak = self.chip.peak_flop_per_s
        return peak(dtype, "vector") or peak("fp32", "vector") or self.peak("bf16") * VECTOR_SHARE

    def lowest_peak(self) -> float:
        return min(known_peaks(self.chip), default=0.0) or self.chip.need(A_PEAK)

    def gemm(self, dtype: str, how: str = "") -> GemmCurve:
        return _gemm(self, dtype, how)

    def share(self, row: str) -> float:
        """What the chip's rates, or any chip's, say of a kind of kernel: a ratio of the rate that others reach."""
        return _share(self, row)

    @cached_property
    def ragged_share(self) -> float:
        """Of its rate that a product of ragged matrices reaches: the chip's own, else its generation's; 1 where nothing is known."""
        own = self.rates.first("gemm.ragged")
        alike = self.rates.default.all("gemm.ragged") if self.rates.default else ()
        return own.value if own else next((row.value for row in alike if row.shape == self.chip.generation), 1.0)

    def memory_s(self, nbytes: float) -> float:
        """Seconds to read and write so many bytes: at the rate that a copy of this size was measured with, where caches
        are seen; else at main memory's."""
        return nbytes / (self.memory_curve.at(nbytes) if self.memory_curve else self.memory_bytes_per_s)

    def rests_on(self, task: Work, limit: str) -> tuple[str, str]:
        """(Which part of a step some work is, what its rate comes from in words); empty for what has no rate of that kind."""
        if task.attention is not None:
            name = "attention's backward" if task.attention.backward else "attention"
            return name, attention_rests_on(self.rates, task.attention.backward)
        if limit == "compute" and task.unit == "matrix" and task.kind in ("gemm", "grouped"):
            return "products", self.gemm(task.dtype).rests_on
        if limit == "memory":
            return "memory", "a measured bandwidth" if self.memory_measured else NOTHING
        return "", ""

    @cached_property
    def memory_curve(self) -> SizeCurve | None:
        return size_curve(self.rates.all("memory.copy"))

    @cached_property
    def op_rates(self) -> OpRates:
        return OpRates(self.rates)

    def vector_flop_per_s(self, dtype: str) -> float:
        """Rate of point-wise arithmetic."""
        return self.vector_peak(dtype) * self.vector_share

    def attention_rate(self, implementation: str, backward: bool, causal: bool, head_dim: int, length: int,
                       dtype: str = "") -> Level:  # fmt: skip
        return attention_rate(self.rates, self.half_peak, implementation, backward, causal, head_dim, length, dtype)


def _level(row: Rate, peak: float) -> float:
    return row.value * peak if row.is_share else row.value


def known_peaks(chip: Chip) -> list[float]:
    found = [chip.peak_flop_per_s(dtype, engine) for dtype in RUNS_AS for engine in ("matrix", "vector")]
    return [value for value in found if value]


@cache
def machine(chip: Chip) -> Machine:
    """The chip's figures and rates as one value."""
    return build(chip, rates_of_chip(chip))


def build(chip: Chip, rates: Rates) -> Machine:
    """A chip with these rates instead of the ones in its file (the accuracy tables hold some back)."""
    peak_bandwidth = chip.memory_bandwidth_bytes_per_s
    memory = rates.need("memory.rate")
    link, assumed = host_link(chip, rates)
    floor_s = rates.need("kernel.floor").value
    # A host that was measured by whole steps has it in its ops.
    product = rates.first("host.product") or (None if rates.first("host.op") else rates.need("host.product"))
    called = chip.execution == "host"
    return Machine(
        chip=chip,
        rates=rates,
        memory_bytes_per_s=min(_level(memory, peak_bandwidth), peak_bandwidth),
        memory_peak_bytes_per_s=peak_bandwidth,
        memory_measured=memory.kind == "measured",
        vector_share=rates.need("vector.rate").value,
        kernel_floor_s=floor_s,
        graph_floor_s=min(rates.need("kernel.floor_graph").value, floor_s),
        host_op_s=rates.need("host.op").value,
        host_empty_s=rates.need("host.op").value * rates.need("host.empty").value,
        host_launch_s=rates.need("host.launch").value,
        host_product_s=product.value if product else 0.0,
        host_replay_s=rates.need("host.replay").value,
        host_read_s=0.0 if called else rates.need("host.read").value,
        host_link_bytes_per_s=_level(rates.need("host_link.rate"), link),
        host_staging_bytes_per_s=host_staging(chip, rates),
        host_link_assumed=assumed,
        graph=chip.execution == "graph",
        called=called,
        launch_queue=(chip.platform.launch_queue or 0) if chip.execution not in ("graph", "host") else 0,
    )


def host_link(chip: Chip, rates: Rates) -> tuple[float, str]:
    """(Bytes/s between host and chip, what was assumed of them.) Without a link the host is the chip: a copy reads and writes its one
    memory. A link whose rate the file does not say has that of its wire, or of the slowest."""
    stated, figure = chip.host_link_bandwidth_bytes_per_s, chip.figures.get("links.host.one_way")
    if stated is not None:
        return stated, ""
    if chip.execution == "host" or (figure is not None and figure.state == "none"):
        return chip.memory_bandwidth_bytes_per_s / 2, ""
    wire = host_wire(chip)
    if wire is not None and wire.link_bytes_per_s:
        return wire.link_bytes_per_s, wire.name
    row = rates.need("host_link.unknown")
    return row.value, row.note


def host_staging(chip: Chip, rates: Rates) -> float:
    """Bytes/s at which host memory that is not pinned is copied before or after the link; no time where chip and host read the same memory."""
    figure, wire = chip.figures.get("links.host.one_way"), host_wire(chip)
    is_one = chip.execution == "host" or (figure is not None and figure.state == "none")
    return inf if is_one or (wire is not None and wire.coherent) else rates.need("host_link.staging").value


def host_wire(chip: Chip) -> Wire | None:
    link = chip.links.get("host")
    return load_wire(link.wire) if link is not None and link.wire else None


@cache
def _products(owner: Machine, dtype: str) -> Products:
    """The first of RUNS_AS of which a product was measured or a peak is published; else what the platform casts it to; else what is
    plausible: single precision at a share of the 16-bit peak (`gemm.peak`), double precision as two single ones."""
    chip, rates = owner.chip, owner.rates
    for name in RUNS_AS.get(dtype, (dtype, "fp32")):
        published = chip.peak_flop_per_s(name, "matrix") or chip.peak_flop_per_s(name, "vector")
        measured = fastest(rates, name)
        if peak := published or measured:
            return Products(name, peak, published, "measured" if measured else "published")
    torch_dtype, narrower = CASTS.get(dtype, ("", ""))
    if narrower and chip.platform.supports(torch_dtype, "matmul") == "cast":
        return owner.products(narrower)
    if dtype == "fp64":
        why = f"each number is two of fp32 on the vector engine, {DOUBLE_WORD_FLOP} operations for one"
        return Products(dtype, owner.vector_peak() / DOUBLE_WORD_FLOP, None, "assumed", why)
    if dtype in CASTS:
        share, like = peak_share(owner)
        return Products("fp32", owner.half_peak * share, None, "assumed", f"{share:.0%} of its 16-bit peak, as {like}")
    return Products(dtype, owner.lowest_peak(), None, "assumed", "the lowest peak that is known of it")


def fastest(rates: Rates, dtype: str) -> float | None:
    """The rate of the fastest product that was measured of this dtype."""
    stated = [
        row.value
        for row in rates.all("gemm.rate")
        if row.dtype == dtype and row.kind == "measured" and not row.is_share
    ]
    return max((*stated, *(rate for _, rate in gemm_points(rates, dtype))), default=None)


def peak_share(owner: Machine) -> tuple[float, str]:
    """(Share of its 16-bit peak that fp32 has on a chip of which nothing is stated, which chips have it): the chip's own row, else
    that of its generation, else that of all."""
    alike = (
        [row for row in owner.rates.default.all("gemm.peak") if row.shape in (owner.chip.generation, "")]
        if owner.rates.default
        else []
    )
    row = owner.rates.first("gemm.peak") or max(alike, key=lambda one: one.shape != "")
    return row.value, row.note


@cache
def _share(owner: Machine, row: str) -> float:
    return owner.rates.need(row).value


@cache
def _gemm(owner: Machine, dtype: str, how: str) -> GemmCurve:
    return gemm_curve(owner, dtype, how)


def gemm_curve(owner: Machine, dtype: str, asked: str = "") -> GemmCurve:
    """The chip's curve for one dtype: its level from measured points, else from a stated rate, else from the share of
    peak that another dtype of the same chip reaches, else from the default share."""
    chip, rates = owner.chip, owner.rates
    how = how_of(rates, dtype, asked)
    peak = owner.peak(dtype)
    sustained = rates.need("gemm.sustained", dtype).value
    points = gemm_points(rates, dtype, how)
    tile = chip.matrix_tile or (128, 128, 32)
    overhead = rates.first("gemm.overhead")
    if overhead is None and not owner.graph:
        overhead = rates.need("gemm.overhead")
    curve = GemmCurve(
        rate=peak, peak=peak, k0=_k0(owner, dtype), wave=rates.need("gemm.wave", dtype).value,
        overhead_s=overhead.value if overhead else owner.kernel_floor_s,
        sustained=sustained, cores=chip.cores or 1, tile=(tile[0], tile[1]),
        padding=(chip.matrix_unit or (1, 1)) if owner.graph else (1, 1), measured=bool(points), how=how,
    )  # fmt: skip
    stated = next((r for r in rates.all("gemm.rate") if r.dtype == dtype), None)
    computed = owner.products(dtype).dtype
    if not points and not stated and computed != dtype:
        return gemm_curve(owner, computed, how_of(rates, computed, asked))
    twin = TWINS.get(dtype)
    if twin and len(points) < POINTS_OF_A_CURVE and chip.peak_flop_per_s(twin) == chip.peak_flop_per_s(dtype):
        others = gemm_points(rates, twin)
        points, curve = points + others, _with(curve, twins=len(others))
    if points:
        return _with(curve, rate=min(rate_by_points(curve, points), peak), points=points)
    if stated:
        rate = _level(stated, peak)
        return _with(curve, rate=rate, peak=max(peak, rate) if not chip.peak_flop_per_s(dtype) else peak,
                     measured=stated.kind == "measured")  # fmt: skip
    for other in ("bf16", "fp16", "tf32", "fp32", "fp8", "int8"):
        known = gemm_points(rates, other) or any(row.dtype == other for row in rates.all("gemm.rate"))
        if other != dtype and known and owner.products(other).published:
            like = gemm_curve(owner, other)
            return _with(curve, rate=peak * min(like.rate / like.peak, 1.0))
    return _with(curve, rate=_level(rates.need("gemm.rate", dtype), peak))


def _k0(owner: Machine, dtype: str) -> float:
    """The inner dimension at which a product's rate halves. What a tile takes before and after its products is time, found on
    16-bit products: in a dtype of a lower rate fewer elements go by in it."""
    found = owner.rates.need("gemm.k0", dtype)
    wide = max(owner.chip.peak_flop_per_s(name) or 0.0 for name in TWINS)
    return found.value if found.dtype or not wide else found.value * min(owner.peak(dtype) / wide, 1.0)


def _with(curve: GemmCurve, **changes: object) -> GemmCurve:
    return replace(curve, **changes)  # type: ignore[arg-type]
