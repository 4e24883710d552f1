"""Of targets side by side: which of them a sentence holds for, and what only shows between them.

In: places, their recordings and forecasts. Out: sentences, none where nothing is to be told.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from anychip import units
from anychip.record.failure import failure_of
from anychip.record.program import Program
from anychip.spec import check
from anychip.spec.catalogue import is_standard
from anychip.spec.validated import CALLS, TRAINS

if TYPE_CHECKING:
    from anychip.forecast import Forecast
    from anychip.places import Place


def of_each(said: "Mapping[Place, Iterable[str]]") -> list[str]:
    """What is said of each target, once: with the names of those that it holds for where it does not for all, or where it names
    their chip for all that are asked for of that."""
    holds: dict[str, list[Place]] = {}
    for place, texts in said.items():
        for text in dict.fromkeys(texts):
            holds.setdefault(text, []).append(place)
    of_chip = Counter(place.chip.id for place in said)
    found = []
    for text, places in holds.items():
        chip = places[0].chip.id
        least = of_chip[chip] if text.startswith((f"{chip}: ", f"{chip} ")) else len(said)
        names = ", ".join(place.name for place in places)
        found.append(text if len(places) >= least else f"{names}: {text.removeprefix(f'{chip}: ')}")
    return found


def uneven(forecasts: "Mapping[Place, Forecast]") -> list[str]:
    """Told where steps of a target differ so much that one is not like the others, with what those of each take."""
    spreads = {place: one.uneven for place, one in forecasts.items()}
    if not any(spreads.values()):
        return []
    first = forecasts[next(place for place, spread in spreads.items() if spread)]
    steps, option = ("Calls", "--calls") if first.step_kind == CALLS else ("Steps", "--steps")
    took = [f"{spread or 'much the same'}, on {place.name}" for place, spread in spreads.items()]
    said = "; ".join(took) if len(set(spreads.values())) > 1 else first.uneven
    count = len(first.step_times_s[first.told]) if first.told is not None else 1
    which = "the median one" if count == 1 else f"the mean of the last {count}"
    which = "their mean" if len(first.step_times_s) == 2 else which
    return [
        f"{steps} took {said}; times are of {which}. Where something is done once in several {steps.lower()}, {option} takes in more of them, and of whole "
        "rounds the mean is told."
    ]


def fits_from(forecasts: "Mapping[Place, Forecast]") -> list[str]:
    """Of each chip that is asked for in several numbers and does not fit in all: in which it does."""
    counts: dict[str, dict[int, bool]] = {}
    for one in forecasts.values():
        fits = counts.setdefault(one.chip, {})
        fits[one.num_chips] = one.fits and fits.get(one.num_chips, True)
    found = []
    for chip, fits in counts.items():
        enough = sorted(count for count in fits if fits[count])
        if len(fits) > 1 and len(enough) < len(fits):
            is_all_above = len(enough) > 1 and enough == sorted(fits)[-len(enough) :]
            which = f"{enough[0]:,} or more" if is_all_above else " or ".join(f"{count:,}" for count in enough)
            said = f"fits on {which} chips" if enough else f"does not fit on {max(fits):,} chips either"
            found.append(f"{chip}: of the numbers asked for, the program {said}.")
    return found


def of_files(places: "Iterable[Place]") -> list[str]:
    """What `anychip chips check` says of chips whose files are not of the standard, where a test holds it to have nothing to say."""
    own = {place.chip.file for place in places if place.chip.file.is_file() and not is_standard(place.chip.file)}
    return [f"anychip chips check: {problem}" for problem in (check(sorted(own)) if own else ())]


def strangers(programs: list[Program], kinds: set[str]) -> list[str]:
    """Of jobs whose ranks have nothing to do with one another: the figures are of so many copies of the program. (One that uses
    several chips from one process is told of already.)"""
    sizes = {
        one.world_size for one in programs
        if one.world_size > 1 and one.meta.get("chips_used", 1) < 2
        and not any(op.name.startswith("c10d.") for rank in one.ranks for op in rank.ops)
    }  # fmt: skip
    return [
        f"The program's {size:,} ranks never communicate in what was recorded: the figures are of {size:,} copies of it, side "
        "by side. Does it join a process group (torch.distributed.init_process_group)?"
        + (" If its ranks meet every so many steps only: --steps records more." if TRAINS in kinds else "")
        for size in sorted(sizes)
    ]


def never_marked(programs: Iterable[Program], function: str | None) -> list[str]:
    from anychip.record import Kind, Mark, word

    mark = word(Kind.MARK, Mark.STEP)
    if function is None or all((rank.tape == mark).any() for one in programs for rank in one.ranks):
        return []
    return [f"No function called {function} returned while it was recorded, so steps are those of the optimizers."]


def scattered(place: "Place", forecast: "Forecast") -> str:
    setting = place.chip.platform.alloc_conf
    return (
        f"{place}: does not fit: tensors take {units.memory(forecast.peak_memory_bytes)} of {units.memory(forecast.memory_bytes)}, but PyTorch's "
        "allocator finds no room for one of them in a piece."
        + (f" {setting}=expandable_segments:True may help." if setting else "")
    )


TIGHT_BYTES = 1 << 30  # what a driver's context and buffers of collectives take, as far as is known: 0.3 to 2 GiB


def tight(forecasts: "Mapping[Place, Forecast]") -> list[str]:
    """A target on which a program fits by less than what is in no figure."""
    return [
        f"{place}: fits by {units.memory(left)}. The driver's context and the buffers of collectives, which are in no figure, take "
        "some 0.3 to 2 GiB: it may not."
        for place, one in forecasts.items()
        if one.fits
        and place.chip.execution == "kernel"
        and (left := one.memory_bytes - one.peak_memory_bytes) < TIGHT_BYTES
    ]


def of_failure(program: Program, among_others: bool) -> list[str]:
    """Told with the figures where the program failed after it had taken steps; among others with the target that it did on."""
    how = failure_of(program)
    if how is None:
        return []
    who = f"rank {how.rank}" if program.world_size > 1 else "the program"
    target = program.meta["chip"] + (f":{program.world_size}" if program.world_size > 1 else "")
    after = f"after {units.several(how.steps, 'step')}"
    held = f"; the figures hold for {'that' if how.steps == 1 else 'these'}."
    at = f" at {how.place}" if how.place else ""
    if how.refusal:
        return [f"{target}: does not fit: {who} was refused {how.refusal}{at and ','}{at}, {after}{held}"]
    why = f": {how.error.rstrip('.')}" if how.error else ""
    who = f"{target}: {who}" if among_others else f"{who[0].upper()}{who[1:]}"
    return [f"{who} ended with exit code {how.exit_code} {after}{at}{why}{held}"]
