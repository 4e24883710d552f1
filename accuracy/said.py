"""What a reader of a run's forecast should know of how its row was read: what was taken for what, and where it disagrees with itself."""

from collections import Counter
from collections.abc import Sequence
from math import prod

from accuracy.plan import Plan
from accuracy.reading.machine import chip_entry
from accuracy.rows import Run
from accuracy.score import Result
from accuracy.truth_of_runs import direct, share_of_peak

APART = 0.05  # metrics of one run are rounded; further apart than this they are not of one


def said(result: Result) -> list[str]:
    """Remarks on one run."""
    run, found = result.run, result.plan
    remarks = list(run.spelled)
    if len(set(run.ids)) > 1:
        remarks.append(f"read as one run with {', '.join(dict.fromkeys(run.ids[1:]))}, whose rows agree in all else")
    if found is not None:
        texts = (
            unknown(run, found),
            other_form(run, found),
            network(found),
            apart(found),
            product(found),
            too_fast(result, found),
        )
        remarks += [text for text in texts if text]
    return remarks


def unknown(run: Run, found: Plan) -> str:
    if "framework" not in found.filled:
        return ""
    who = f"framework {run['framework']!r} is in no rule" if run["framework"] else "no framework is named"
    return f"{who}: taken for what most of them do (accuracy/defaults/other.toml)"


def other_form(run: Run, found: Plan) -> str:
    near = chip_entry(run).get("near")
    return f"chip {run['chip']!r} is forecast as {found.chip}: {near}" if near else ""


def network(found: Plan) -> str:
    if "interconnect" not in found.filled:
        return ""
    return f"what joins chips of {found.chip} is not known to the standard: taken for {found.cluster}"


def apart(found: Plan) -> str:
    """Where two of a run's metrics give other times of a step."""
    times = direct(found)
    if not times or max(times.values()) <= (1 + APART) * min(times.values()):
        return ""
    return (
        f"its metrics disagree: a step takes {', '.join(f'{time_s:.3g} s by {name}' for name, time_s in times.items())}"
    )


def product(found: Plan) -> str:
    """Where the degrees of parallelism that the source prints, all of them, do not multiply to its chips."""
    given = [found.run.whole(name) for name in ("tp", "pp", "dp")]
    o = found.options
    if None in given or o.get("sharding") == "fsdp" or o.get("compile") == "all":
        return ""
    ranks = prod(value or 1 for value in given) * (found.run.whole("cp") or 1)
    return "" if ranks == found.num_chips else f"tp x pp x cp x dp as printed are {ranks}, of {found.num_chips} chips"


def too_fast(result: Result, found: Plan) -> str:
    """Where what was measured is more than the chip can do: of another unit, or of another run than the row says."""
    share = share_of_peak(found, result.measured_s)
    return f"as printed its products would run at {share:.0%} of the chip's peak" if share > 1 else ""


def repeated(runs: Sequence[Run]) -> list[str]:
    """Ids that several runs bear, for their rows differ in more than a metric."""
    by_id = Counter(run.id for run in runs)
    found = []
    for name, count in by_id.items():
        if count > 1:
            own = [run for run in runs if run.id == name]
            columns = [key for key in own[0].columns if len({run[key] for run in own}) > 1]
            differ = f"they differ in {', '.join(columns)}" if columns else "a metric comes twice"
            found.append(f"{name}: {count} runs bear this id: {differ}")
    return found
