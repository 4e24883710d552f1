"""Pages made from the standard: one per chip, and one of the whole field, with what is not known of whom.

In: nothing but the files. Out: Markdown; `make docs` writes it to docs/chips.md, docs/chips/ and the README's table.
`python -m anychip.spec.pages` prints the counts alone.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anychip.spec import catalogue
from anychip.spec.checking import rules
from anychip.spec.chip import Chip, Figure
from anychip.spec.fields import SCHEMAS
from anychip.spec.load import list_chips, load_chip, load_platform, without_maker
from anychip.spec.software import coverage, load_apis, load_ops
from anychip.spec.toml import read
from anychip.spec.units import show

# What a forecast of one chip, and of many, rests on. A gap in these is named on the field's page.
NEEDED = {
    "memory": "memory.main.capacity",
    "usable memory": "memory.main.usable",
    "bandwidth": "memory.main.bandwidth",
    "cores": "engine.cores",
    "scale-up": "links.scale_up.one_way",
    "scale-out": "links.scale_out.one_way",
    "power": "power.limit",
    "price": "price.per_hour_low",
}


@dataclass(frozen=True)
class Counts:
    """How much is known. sourced: figures with an address; kinds: of the known figures; grades: of the chips."""

    chips: int
    figures: int
    known: int
    sourced: int
    unknown: int
    none: int
    kinds: Counter[str]
    grades: Counter[str]


def counts(chips: Sequence[Chip]) -> Counts:
    figures = [figure for chip in chips for figure in chip.figures.values()]
    known = [figure for figure in figures if figure.state == "known"]
    return Counts(
        chips=len(chips),
        figures=len(figures),
        known=len(known),
        sourced=sum(figure.source.startswith("http") for figure in known),
        unknown=sum(figure.state == "unknown" for figure in figures),
        none=sum(figure.state == "none" for figure in figures),
        kinds=Counter(figure.kind for figure in known),
        grades=Counter(chip.grade for chip in chips),
    )


def all_chips() -> list[Chip]:
    return [load_chip(entry.file) for entry in list_chips()]


def gaps(chip: Chip) -> list[str]:
    """The short names of what is needed and not known."""
    lacking = [] if _half(chip) else ["16-bit peak"]
    return lacking + [name for name, path in NEEDED.items() if chip.get(path) is None]


def _half(chip: Chip) -> float | None:
    return chip.peak_flop_per_s("bf16") or chip.peak_flop_per_s("fp16")


def totals(chips: Sequence[Chip]) -> str:
    """The counts in one paragraph."""
    total = counts(chips)
    kinds = ", ".join(f"{number} {kind}" for kind, number in total.kinds.most_common())
    grades = ", ".join(f"{total.grades[grade]} {grade}" for grade in "ABCD")
    return (
        f"{total.chips} chips (by grade: {grades}) with {total.figures} figures: {total.known} known, of which "
        f"{total.sourced} have an address and the others are marked as remembered or summed; {total.unknown} "
        f"unknown; {total.none} of things that the chip has not. By kind: {kinds}."
    )


def field_page(chips: Sequence[Chip] | None = None, links: str = "") -> str:
    """The whole field: totals, every chip with its gaps, every platform with its coverage. links: as of chip_table."""
    chips = all_chips() if chips is None else chips
    return "\n".join([totals(chips), "", *chip_table(chips, links), "", *platform_table()])


def chip_table(chips: Sequence[Chip], links: str = "") -> list[str]:
    """One row a chip, as Markdown lines. links: the folder of the chips' pages, as seen from the table's page."""
    head = ("chip", "maker", "grade", "16-bit peak", "memory", "bandwidth", "to its peers", "figures", "gaps")
    return _table(head, (_chip_row(chip, links) for chip in chips))


# What a grade is, in short -> its letters.
GRADES = {"validated": "AB", "kernels measured": "C", "datasheet alone": "D"}


def maker_table(chips: Sequence[Chip], links: str) -> list[str]:
    """One row a maker, as Markdown lines: its chips by how well they are known. links: as of chip_table."""
    by_maker: dict[str, list[Chip]] = {}
    for chip in chips:
        by_maker.setdefault(chip.vendor, []).append(chip)
    rows = (
        (
            maker,
            *(
                ", ".join(_short(chip, links) for chip in own if chip.grade in grades) or "-"
                for grades in GRADES.values()
            ),
        )
        for maker, own in sorted(by_maker.items(), key=lambda one: one[0].casefold())
    )
    return _table(("maker", *(f"{name} ({', '.join(letters)})" for name, letters in GRADES.items())), rows)


def _short(chip: Chip, links: str) -> str:
    """Without the maker, which the row names."""
    return f"[{without_maker(chip.id)}]({links}/{chip.id}.md)"


def _chip_row(chip: Chip, links: str) -> tuple[str, ...]:
    figures = chip.figures.values()
    known = sum(figure.state == "known" for figure in figures)
    return (
        f"[`{chip.id}`]({links}/{chip.id}.md)" if links else f"`{chip.id}`",
        chip.vendor,
        chip.grade,
        _shown(_half(chip), "flop/s"),
        _shown(chip.get("memory.main.capacity"), "byte"),
        _shown(chip.get("memory.main.bandwidth"), "byte/s"),
        _shown(chip.get("links.scale_up.one_way"), "byte/s"),
        f"{known} of {sum(figure.state != 'none' for figure in figures)}",
        ", ".join(gaps(chip)) or "-",
    )


def _shown(value: float | None, unit: str) -> str:
    return "unknown" if value is None else show(value, unit)


def platform_table() -> list[str]:
    """One row a platform: what became of torch.cuda and of the operators that have a CUDA kernel."""
    head = (
        "platform",
        "device",
        "torch.cuda: match",
        "modified",
        "missing",
        "unknown",
        "operators listed",
        "of CUDA's",
    )
    return _table(head, (_platform_row(file.stem) for file in catalogue.files("platforms")))


def _platform_row(name: str) -> tuple[str, ...]:
    platform, _ = load_platform(name)
    statuses = Counter(api.status for api in load_apis(name).values())
    share, rows = coverage(name), len(load_ops(name).rows)
    return (
        f"`{name}`",
        platform.device_type,
        *(str(statuses[status]) for status in ("match", "modified", "missing", "unknown")),
        str(rows or "-"),
        "unknown" if share is None else f"{share:.0%}",
    )


def rule_table() -> list[str]:
    """One row a lint rule."""
    rows = ((f"`{rule.RULE}`", rule.ABOUT, "yes" if hasattr(rule, "fix") else "") for rule in rules())
    return _table(("rule", "what holds", "mended"), rows)


def field_tables() -> list[str]:
    """Every field of every kind of file: a row each, tables of several fields with a line for each of theirs."""
    lines: list[str] = []
    for kind, fields in SCHEMAS.items():
        rows = [
            (f"`{one.path.replace('*', 'NAME')}`{' (required)' if one.required else ''}", one.about) for one in fields
        ]
        lines += ["", f"### {kind}", "", *_table(("field", "what it holds"), rows)]
    return lines[1:]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def chip_page(chip: Chip) -> str:
    """One chip: what it is, its gaps, every figure with its source, disputes, notes and its software."""
    parent, own = _parent(chip)
    about = [f"aliases {', '.join(f'`{alias}`' for alias in chip.aliases)}"] if chip.aliases else []
    about += [f"a variant of `{parent}`"] if parent else []
    about += [f"platform `{chip.platform.id}`", f"grade {chip.grade}", f"executes by {chip.execution}"]
    remarks = [f"{path}: {figure.note}" for path, figure in chip.figures.items() if figure.note]
    remarks += [f"{path} is disputed: {'; '.join(f.disputed)}" for path, f in chip.figures.items() if f.disputed]
    remarks += [*chip.notes, *([f"Export: {chip.export_status}"] if chip.export_status else [])]
    rows = (_figure_row(path, figure, "" if path in own else parent) for path, figure in chip.figures.items())
    return "\n".join(
        [
            f"# {chip.vendor} {chip.name}",
            "",
            f"`{chip.id}`: {', '.join(about)}. Gaps: {', '.join(gaps(chip)) or 'none'}.",
            "",
            *_table(("figure", "value", "as printed", "kind", "date", "source"), rows),
            *(["", *(f"- {remark}" for remark in remarks)] if remarks else []),
        ]
    )


def _parent(chip: Chip) -> tuple[str, set[str]]:
    """The chip that this one extends, "" where none, and the paths of the figures that its own file writes."""
    table = read(chip.file).table
    own = {path for path in chip.figures if _written(table, path)}
    return table.get("extends", ""), own


def _written(table: Mapping[str, Any], path: str) -> bool:
    first, _, rest = path.partition(".")
    return first in table and (not rest or _written(table[first], rest))


def _figure_row(path: str, figure: Figure, parent: str) -> tuple[str, ...]:
    """parent: the chip whose figure this is, where it is inherited."""
    if figure.state != "known":
        return (path, figure.state, "", "", "", "")
    source = _cell(figure.source) + (f" (as {parent})" if parent else "")
    return (path, str(figure).removesuffix(" count"), figure.printed, figure.kind, figure.date, source)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def other_files() -> str:
    """How much of the standard there is beside the chips, in one sentence."""
    named = [f"{len(catalogue.files(kind))} {kind}" for kind in ("platforms", "links", "clusters")]
    points = {
        file.stem: len(file.read_text(encoding="utf-8").splitlines()) - 1 for file in catalogue.files("rates", ".csv")
    }
    own = {name: number for name, number in points.items() if catalogue.find("chips", name)}
    return f"Beside them {', '.join(named)}; {sum(own.values())} rates of {len(own)} chips."


if __name__ == "__main__":
    print(totals(all_chips()))
    print(other_files())
