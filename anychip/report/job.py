"""What the terminal says of a job of many ranks: which ranks ran, a table over numbers of chips, a table of ranks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from anychip import units

if TYPE_CHECKING:
    from anychip.cluster import Stragglers
    from anychip.figures import GoodputFigures, RankFigures
    from anychip.forecast import Forecast

MOST_RANKS = 24
NAMED = 8
MARK = " *"


def mark(forecast: "Forecast") -> str:
    """Behind the time of a step on a chip whose published runs lie to one side of their forecasts."""
    return MARK if forecast.compared is not None and forecast.compared.longer else ""


def ran_text(forecast: "Forecast") -> str:
    """ran: rank 0 for all 64; ran: rank 0, rank 1 for 63; and what was put together from those that ran."""
    ranks = [rank for rank in forecast.ranks if rank.ran]
    ran, taken = sum(rank.ran for rank in ranks), sum(rank.members for rank in forecast.ranks if not rank.ran)
    every = ran == forecast.num_chips
    if len(ranks) == 1:
        alike = f"ran every one of {ran:,} ranks: all do as rank {ranks[0].rank}"
        return alike if every else f"ran rank {ranks[0].rank}, which stands for all {forecast.num_chips:,}"
    if len(ranks) == forecast.num_chips:
        return f"ran every one of {ran:,} ranks"
    named = [f"{rank.rank}" + (f" (for {rank.members:,})" if rank.members > 1 else "") for rank in ranks[:NAMED]]
    more = f" and {len(ranks) - NAMED} more" if len(ranks) > NAMED else ""
    others = f"; {taken:,} put together from these" if taken else ""
    return f"ran {'every one' if every else ran} of {forecast.num_chips:,} ranks: {', '.join(named)}{more}{others}"


def unequal_text(stragglers: "Stragglers | None") -> str:
    """What was asked for that makes ranks unequal."""
    if stragglers is None:
        return ""
    said = (
        (stragglers.jitter > 0, f"jitter {stragglers.jitter:g}"),
        (stragglers.slow_node > 1, f"the last node's kernels x{stragglers.slow_node:g}"),
        (stragglers.degraded_link < 1, f"the last node's network at {stragglers.degraded_link:g} of its rate"),
    )
    texts = [text for asked, text in said if asked]
    return f"unequal ranks: {', '.join(texts)}" if texts else ""


def pace_text(paces: Sequence[float]) -> str:
    """By how much the slowest chip holds jobs up."""
    longer = dict.fromkeys(f"{pace - 1:.1%}" for pace in sorted(paces) if pace >= 1.0005)
    return (
        f"arithmetic as on the slowest chip that others wait for: {' to '.join([*longer][:: max(len(longer) - 1, 1)])} longer"
        if longer
        else ""
    )


def many_counts(forecasts: Sequence["Forecast"]) -> bool:
    """Is this a question of how a program scales?"""
    return len({forecast.num_chips for forecast in forecasts}) > 2


def peak_text(forecast: "Forecast") -> str:
    """What tensors take at most, or more than which."""
    return f"{'> ' * forecast.needs_more}{units.memory(forecast.peak_memory_bytes)}"


def usd_text(usd: float | None) -> str:
    return "-" if usd is None else units.figures(usd)


def counts_table(columns: Sequence[tuple[str, "Forecast"]], scaling: Sequence[float | None], wide: bool,
                 gap: int = 2) -> Table:  # fmt: skip
    """A row for each target: its step and the error of that, tokens/s (else samples/s) of one chip, and how that scales from the smallest job, shares of
    the step. The last one stands below in full. wide: with tokens/s of the whole job and what a million costs. gap:
    between columns."""
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    table.add_column("target", overflow="fold")
    more = ("in all", "USD/M") if wide else ()
    has_tokens = any(one.tokens_per_s_per_chip for _, one in columns)
    rate_of = "tokens/s" if has_tokens else "samples/s"
    for name in ("step", "+-", rate_of, "scaling", *more, "MFU", "network", "idle", "memory", "fits"):
        table.add_column(name, justify="right", no_wrap=True)
    for (name, one), share in zip(columns, scaling, strict=True):
        rate = one.rate_per_chip if has_tokens == (one.tokens_per_s_per_chip is not None) else None
        step = units.duration(one.step_time_s) + mark(one), units.share(one.step_time_error)
        in_all = units.rate(rate * one.num_chips if rate else None), usd_text(one.usd_per_million_tokens)
        alone = [
            one.breakdown_s[part] / one.step_time_s if one.step_time_s else 0.0 for part in ("exposed_comm", "bubble")
        ]
        table.add_row(
            name, *step, units.rate(rate), units.share(share), *(in_all if wide else ()), units.share(one.mfu),
            *map(units.share, alone), peak_text(one), "yes" if one.fits else Text("NO", style="bold red"),
        )  # fmt: skip
    return table


def ranks_table(name: str, forecast: "Forecast") -> Table:
    """A row for each distinct rank: place on the mesh, memory, what its step is made of, its share of the critical path."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(f"ranks of {name}" if name else "ranks", overflow="fold")
    for title in ("stands for", "memory", "fits", "busy", "network", "idle", "host", "critical path"):
        table.add_column(title, justify="right", no_wrap=True)
    critical = {part.rank: part.share for part in forecast.critical_path}
    for rank in forecast.ranks[:MOST_RANKS]:
        table.add_row(*_rank_row(rank, forecast.step_time_s, critical.get(rank.rank, 0.0)))
    if len(forecast.ranks) > MOST_RANKS:
        table.add_row(f"and {len(forecast.ranks) - MOST_RANKS} more")
    return table


def _rank_row(rank: "RankFigures", step_s: float, critical: float) -> list[str | Text]:
    place = ", ".join(f"{axis} {at}" for axis, at in rank.place.items())
    parts = rank.breakdown_s
    shares = [parts["compute"] + parts["memory_bound"], parts["exposed_comm"], parts["bubble"], parts["host"]]
    return [
        f"{rank.rank}" + (f" ({place})" if place else ""),
        f"{rank.members:,}",
        units.memory(rank.peak_memory_bytes),
        "yes" if rank.fits else Text("NO", style="bold red"),
        *(units.share(part / step_s if step_s else 0.0) for part in shares),
        units.share(critical),
    ]


def seconds(forecast: "Forecast", field: str) -> Mapping[str, float]:
    """Of each mesh axis one of its times."""
    return {name: getattr(axis, field) for name, axis in forecast.axes.items()}


def share_text(found: "GoodputFigures | None") -> str:
    """88-95%"""
    if found is None:
        return "-"
    low, _, high = found.share
    return f"{low * 100:.3g}-{high * 100:.3g}%"


def interval_text(found: "GoodputFigures | None") -> str:
    """4.1-4.5 min"""
    if found is None:
        return "-"
    low, _, high = found.interval_s
    scale, unit = (60, "min") if low >= 60 else (1, "s")
    return f"{low / scale:.3g}-{high / scale:.3g} {unit}"
