"""`new_chip("acme-one", like="h100")`: a chip file to start from, with the other chip's fields and none of its figures.

Every figure is "unknown" until its own source is at hand; what the other chip's file says stands beside it as a comment, to
show the unit and the order of magnitude. Out: TOML text that the schema accepts.
"""

from contextlib import suppress
from typing import Any

from anychip.errors import BadUse, UnknownChip
from anychip.spec.load import load_chip

HEAD = """\
# A chip begun from {like}: its fields, none of its figures. Replace each "unknown" by
#     {{ value = 989.4, unit = "TFLOP/s", src = "ds" }}
# as its source prints it; leave it "unknown" where nobody says, "none" where the chip has no such thing. Dense and
# sparse peaks, per die and per card are different fields. Check with: anychip chips check FILE
# Of a variant, which differs from {like} in some figures, write extends = "{like}" and these alone: what was measured
# there then holds for it, as far as it does not depend on them.
schema_version = 1
id = "{id}"
aliases = []
vendor = "{vendor}"
name = "{name}"
platform = "{platform}"  # as there, as are these; replace where its software or its kernels are others
{generation}execution = "{execution}"

# Where figures come from: one such table for each source, its name in src. Uncomment it with the first figure.
# [sources.ds]
# title = "{vendor} {name} data sheet"
# url = "https://"  # a page of the maker's; somebody else's is kind = "reported"
# kind = "datasheet"
# date = "{date}"
"""
TABLES = ("peaks", "memory", "engine", "links", "power", "price")


def new_chip(chip_id: str, like: str, date: str) -> str:
    """Text of a file for `chip_id` with the platform and the fields of `like`; date: ISO date of today.

    Raises BadUse for an id that is no file name or a chip's already, UnknownChip for `like`.
    """
    if not chip_id.replace("-", "").isalnum() or chip_id != chip_id.lower() or not chip_id.isascii():
        raise BadUse(f"{chip_id!r} is no chip id: lower-case letters, digits and hyphens, vendor-product[-variant]")
    with suppress(UnknownChip):
        raise BadUse(f"{chip_id} is {load_chip(chip_id).id} already: a chip of your own has a name of its own.")
    chip = load_chip(like)
    vendor, _, product = chip_id.partition("-")
    head = HEAD.format(
        id=chip_id,
        like=chip.id,
        vendor=vendor.title(),
        name=product or vendor,
        platform=chip.platform.id,
        generation=f'generation = "{chip.generation}"\n' if chip.generation else "",
        execution=chip.execution,
        date=date,
    )
    lines: list[str] = []
    for name in TABLES:
        _table(name, chip.raw.get(name, {}), lines)
    return head + "\n".join(lines) + "\n"


def _table(path: str, table: dict[str, Any], lines: list[str]) -> None:
    """[path] with its figures as unknowns, then its subtables. Words are kept: they say what kind of thing it is."""
    inner = {key: value for key, value in table.items() if isinstance(value, dict) and "value" not in value}
    own = {key: value for key, value in table.items() if key not in inner}
    if own:
        lines += ["", f"[{path}]"]
    for key, value in own.items():
        if isinstance(value, dict):
            lines.append(f'{key} = "unknown"  # there {value["value"]} {value.get("unit", "")}'.rstrip())
        elif value in ("unknown", "none"):
            lines.append(f'{key} = "unknown"')
        elif isinstance(value, str):
            lines.append(f'{key} = "{value}"  # as there; replace')
        else:
            lines.append(f"{key} = {value}  # as there; replace")
    for key, value in inner.items():
        _table(f"{path}.{key}", value, lines)
