"""Which chip of the standard a published run was on, how many, and which network joined them."""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache

from accuracy.reading.tables import Unable, regex, search, table
from accuracy.rows import Run
from anychip.errors import BadNetwork
from anychip.network import Fabric
from anychip.spec import Chip, list_chips, list_clusters, load_chip


def chip_entry(run: Run) -> Mapping[str, str]:
    """Of chips.toml; empty where the standard's own names tell."""
    return next((entry for entry in table("chips.toml")["chip"] if search(entry["name"], run["chip"])), {})


def chip_of(run: Run) -> str:
    if entry := chip_entry(run):
        if "unable" in entry:
            raise Unable(f"chip {run['chip']!r}: {entry['unable']}")
        return str(entry["id"])
    if not run["chip"]:
        raise Unable("the source does not say chip")
    named = {name: id for name, id in chip_names().items() if search(name, run["chip"])}
    if not named:
        raise Unable(f"chip {run['chip']!r}: no file in the standard")
    return named[max(named, key=len)]


def counted(run: Run) -> tuple[Run, list[str]]:
    """The run with a number of chips where its column is blank, and whether a rule filled it: by the name of a slice, by degrees of
    parallelism, else one."""
    if run["chips"]:
        return run, []
    found, filled = 0, []
    if "chip_hours" in run.metrics and not any(run[name] for name in ("tp", "pp", "cp", "dp")):
        told = any(search(entry["name"], run["chip"]) for entry in table("chips.toml")["slice"])
        if not told and not any(search(entry["text"], run.notes) for entry in table("words.toml")["tokens"]):
            raise Unable("the source does not say chips, and hours of all of them are not of one")
        found = 0 if told else math.gcd(int(table("chips.toml")["hours"]["chips"]), run.whole("global_batch") or 0)
        filled = ["chips"]
    for entry in table("chips.toml")["slice"]:
        if match := search(entry["name"], run["chip"]):
            found, filled = int(match[2]) // entry["cores"], []
    if not found:
        stage = math.prod(run.whole(name) or 1 for name in ("tp", "cp", "dp"))
        found = (run.whole("pp") or 1) * math.lcm(stage, max(run.whole("ep") or 1, 1))
        filled = ["chips"]
    return replace(run, columns={**run.columns, "chips": str(max(found, 1))}), filled


HALVES = ("tokens_per_s_per_chip", "tflops_per_chip")  # metrics of a chip, of which a die has half


def in_dies(run: Run) -> Run:
    """Counted by dies, where programs see two of each chip (`dies` of chips.toml) and the source's nodes or its layout show what it counts: four
    packages of MI250X are eight ranks."""
    with suppress(Unable):
        if not (die := table("chips.toml")["dies"].get(chip_of(run))):
            return run
        ranks = math.prod(run.whole(name) or 1 for name in ("tp", "pp", "cp", "dp"))
        node, chips = run.whole("chips_per_node"), run.whole("chips") or 1
        if node == 8:
            return replace(run, columns={**run.columns, "chip": die})
        if node == 4 or ranks == 2 * chips:
            metrics = {
                name: value / 2 if name in HALVES else value * 2 if name == "chip_hours" else value
                for name, value in run.metrics.items()
            }
            return replace(
                run,
                columns={**run.columns, "chip": die, "chips": str(2 * chips), "chips_per_node": "8"},
                metrics=metrics,
            )
    return run


def by_slice(run: Run) -> Run:
    """With a slice's name that stands in the column of chips where chips are named."""
    if any(regex(entry["name"]).fullmatch(run["chips"]) for entry in table("chips.toml")["slice"]):
        return replace(run, columns={**run.columns, "chip": f"{run['chip']} {run['chips']}", "chips": ""})
    return run


@cache
def chip_names() -> Mapping[str, str]:
    """Patterns of the ids and aliases of all chips."""
    return {pattern_of(name): chip.id for chip in list_chips() for name in (chip.id, *chip.aliases)}


def pattern_of(name: str) -> str:
    """A name whose parts stand together or with a space, dash or underscore between; of several, too (`A100s`)."""
    return rf"(?i)(?<![a-z0-9]){'[-_ ]?'.join(re.findall('[a-z]+|[0-9]+', name.lower()))}s?(?![a-z0-9])"


def cluster_of(run: Run, chip: str) -> str | None:
    """A cluster of the chip that the source names as its network and that is not the chip's usual one."""
    found = {
        name: cluster.id for cluster in list_clusters() if chip in cluster.chips
        for name in (cluster.id, *cluster.aliases, cluster.name.partition(",")[0])
        if search(pattern_of(name), f"{run['interconnect']} | {run['chip']}")
    }  # fmt: skip
    named = found[max(found, key=len)] if found else as_fast(run, chip)
    return None if named == load_chip(chip).raw.get("cluster") else named


ALIKE = 1.3  # rates of networks that are taken for one another, one over the other


def as_fast(run: Run, chip: str) -> str | None:
    """A cluster of the chip whose network is about as fast as the source says; its usual one where that is."""
    told, usual = network_rate(run), load_chip(chip).raw.get("cluster")
    apart = {
        cluster.id: abs(math.log(rate / told)) for cluster in list_clusters()
        if told and chip in cluster.chips and (rate := cluster.get("scale_out.one_way_per_chip"))
    }  # fmt: skip
    fit = [name for name, ratio in apart.items() if ratio <= math.log(ALIKE)]
    return usual if usual in fit or not fit else min(fit, key=lambda name: (apart[name], name))


def network_rate(run: Run) -> float | None:
    """Bytes a second, one way, of one chip's network, where the source says how many links of how many bits a node or a chip has."""
    text = run["interconnect"]
    link = search(r"(?:(\d+) ?[x\u00d7*] ?)?(\d+(?:\.\d+)?) ?(T|G)(?:bit|bE|bps|b)", text)
    of_chip = search(r"(?i)(per|/|a) ?(gpu|chip|device|card|npu|accelerator)", text)
    of_node = search(r"(?i)(per|/|a) ?(node|server|host|instance|machine)|\befa\b", text)
    if link is None or not (link[1] or of_chip or of_node):
        return None
    rate = int(link[1] or 1) * float(link[2]) * (1e12 if link[3] == "T" else 1e9) / 8
    return rate if of_chip and not of_node else rate / (run.whole("chips_per_node") or 8)


def network_of(run: Run, chip: str) -> tuple[str | None, list[str]]:
    """A cluster that knows what the chip's own file does not of a network for so many, and whether a rule chose it: one that the chip is
    known to stand in, else of `network` in chips.toml."""
    told = cluster_of(run, chip)
    count, loaded = run.whole("chips") or 1, load_chip(chip)
    if fits_together(loaded, count, told):
        return told, []
    usual = table("chips.toml")["network"]["usual"]
    own = [cluster.id for cluster in list_clusters() if chip in cluster.chips and cluster.id not in usual]
    named = {name: len(name) for name in usual if search(pattern_of(name), run["interconnect"])}
    for name in (*own, *sorted(usual, key=lambda name: -named.get(name, 0))):
        if fits_together(loaded, count, name):
            return str(name), ["interconnect"]
    return told, []


def fits_together(chip: Chip, count: int, cluster: str | None) -> bool:
    try:
        Fabric.of(chip, count, cluster)
    except BadNetwork:
        return False
    return True
