"""Clusters, links and measured collectives: loading, listing, bad files."""

import pytest

from anychip.errors import BadChipFile, UnknownChip, UnknownCluster
from anychip.spec import check, list_clusters, list_wires, load_chip, load_cluster, load_wire
from anychip.spec.catalogue import STANDARD
from anychip.spec.tables import check_table

ISLANDS = """\
schema_version = 1
id = "two-islands"
aliases = ["islands"]
name = "Two islands"
chips = ["nvidia-h100-sxm"]

[sources.page]
title = "a page"
url = "https://example.org"
kind = "estimated"
date = "2026-11-26"

[tiers.between]
chips = "none"
one_way_per_chip = { value = 1, unit = "Gbit/s", src = "page" }

[tiers.island]
chips = { value = 64, unit = "count", src = "page" }
oversubscription = { value = 2, unit = "to 1", src = "page" }
"""
HEADER = "collective,algorithm,chips,nodes,cluster,dtype,bytes,value,unit,use,stack,date,source,note\n"


def test_by_id_alias_and_path(tmp_path):
    assert load_cluster("dgx-h100") is load_cluster("NVIDIA-DGX-H100-superpod")
    file = tmp_path / "two-islands.toml"
    file.write_text(ISLANDS)
    assert load_cluster(file) == load_cluster(str(file))
    assert load_cluster(file).chips == ("nvidia-h100-sxm",)


def test_tiers_are_ordered_by_their_size(tmp_path):
    file = tmp_path / "two-islands.toml"
    file.write_text(ISLANDS)
    island, between = load_cluster(file).tiers
    assert (island.name, island.chips, island.oversubscription) == ("island", 64, 2.0)
    assert (between.name, between.chips, between.one_way_bytes_per_s) == ("between", None, 1e9 / 8)


def test_a_changed_file_is_read_again(tmp_path):
    import os

    file = tmp_path / "two-islands.toml"
    file.write_text(ISLANDS)
    assert load_cluster(file).tiers[0].chips == 64
    file.write_text(ISLANDS.replace("value = 64", "value = 32"))
    os.utime(file, ns=(1, 1))
    assert load_cluster(file).tiers[0].chips == 32


def test_unknown_figures_are_none():
    dcn = load_wire("dcn")
    assert (dcn.link_bytes_per_s, dcn.latency_s, dcn.efficiency) == (None, None, None)
    assert load_wire("nvlink4").in_network_reduction
    assert load_cluster("amd-mi300x-platform").max_chips is None


def test_names_that_nobody_has():
    with pytest.raises(UnknownCluster, match=r"no cluster is called 'dgxh100'\. Did you mean 'dgx-h100'"):
        load_cluster("dgxh100")
    with pytest.raises(UnknownCluster, match="no such cluster file"):
        load_cluster("nowhere.toml")
    with pytest.raises(UnknownCluster, match=r"no link is called 'nvlink9'\. Did you mean 'nvlink"):
        load_wire("nvlink9")
    with pytest.raises(UnknownCluster, match="'mi300x' is a chip, not a cluster; clusters of it: amd-mi300x-platform"):
        load_cluster("mi300x")
    with pytest.raises(UnknownChip, match="'dgx-h100' is a cluster, not a chip"):
        load_chip("dgx-h100")


def test_a_wrong_file_is_refused_with_all_its_problems(tmp_path):
    file = tmp_path / "two-islands.toml"
    file.write_text(ISLANDS.replace('unit = "to 1"', 'unit = "GB/s"').replace('chips = "none"', "chips = 8"))
    with pytest.raises(BadChipFile) as error:
        load_cluster(file)
    assert "2 problems" in str(error.value)
    assert "tiers.island.oversubscription.unit" in str(error.value)
    assert "tiers.between.chips: expected a figure" in str(error.value)


def test_every_chip_names_a_cluster_that_exists():
    names = {cluster.id for cluster in list_clusters()}
    from anychip.spec import list_chips

    usual = {load_chip(entry.id).raw.get("cluster") for entry in list_chips()} - {None}
    assert usual <= names
    assert len(usual) > 20


def test_lists():
    assert len(list_clusters()) >= 42
    assert len(list_wires()) >= 47
    wires = {wire.id for wire in list_wires()}
    assert {tier.wire for cluster in list_clusters() for tier in cluster.tiers} - {None} <= wires


def problems(tmp_path, rows):
    folder = tmp_path / "collectives"
    folder.mkdir()
    file = folder / "x.csv"
    file.write_text(HEADER + rows)
    return [str(problem) for problem in check_table(file)]


def test_measured_collectives_that_are_as_they_should_be(tmp_path):
    row = "all_reduce,ring,8,1,,float32,1024,12.5,us,curve,nccl-tests,,https://example.org,\n"
    assert problems(tmp_path, row) == []


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("allreduce,ring,8,1,,f,1024,12.5,us,curve,s,,u,", "'allreduce' is none of all_reduce"),
        ("all_reduce,rung,8,1,,f,1024,12.5,us,curve,s,,u,", "'rung' is none of ring"),
        ("all_reduce,ring,1,1,,f,1024,12.5,us,curve,s,,u,", "'1' is not a whole number from 2"),
        ("all_reduce,ring,8,1,,f,1e6,12.5,us,curve,s,,u,", "'1e6' is not a whole number"),
        ("all_reduce,ring,8,1,,f,1024,-3,us,curve,s,,u,", "'-3' is not a number above 0"),
        ("all_reduce,ring,8,1,,f,1024,nan,us,curve,s,,u,", "'nan' is not a number above 0"),
        ("all_reduce,ring,8,1,,f,1024,3,GB/s,curve,s,,u,", "'GB/s' is none of us, GB/s busbw, GB/s algbw"),
        ("all_reduce,ring,8,1,,f,1024,3,us,fit,s,,u,", "'fit' is none of curve, level, check"),
        ("all_reduce,ring,8,1,,f,1024,3,us,curve,s,,,", "without a source"),
        ("all_reduce,ring,16,2,,f,1024,3,us,curve,s,,u,", "not in which cluster"),
        ("all_reduce,ring,8,1,,f,1024,3,us,curve,s,,u", "13 columns instead of 14"),
    ],
)
def test_measured_collectives_that_are_wrong(tmp_path, row, said):
    (problem,) = problems(tmp_path, row + "\n")
    assert ":2:" in problem
    assert said in problem


def test_the_tables_of_the_standard_are_checked_with_everything_else(tmp_path):
    folder = tmp_path / "collectives"
    folder.mkdir()
    (folder / "x.csv").write_text("a,b\n")
    (problem,) = check([folder])
    assert "the columns are not those of this table" in str(problem)


GOOD = (
    ISLANDS
    + """
[scale_up]
domain_chips = { value = 8, unit = "count", src = "page" }
topology = "switch"

[scale_out]
one_way_per_chip = { value = 400, unit = "Gbit/s", src = "page" }
"""
)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "", ""),
        ("value = 64", "value = 60", "tiers.island.chips: 60 chips are no whole number of scale_up.domain_chips, 8"),
        ("value = 1, unit", "value = 800, unit", "more than a chip can send into the tier inside it"),
        ('chips = "none"', 'chips = "none"\nwire = "roce-401"', "no file links/roce-401.toml (did you mean roce-400?)"),
        ("nvidia-h100-sxm", "nvidia-h100-sxn", "no file chips/nvidia-h100-sxn.toml"),
        ('topology = "switch"', 'topology = "torus2d"\nshape = [4, 4]', "4x4 are 16 chips, the domain has 8"),
        ('topology = "switch"', 'topology = "torus2d"\nshape = [8]', "1 lengths for a torus2d"),
        ('topology = "switch"', 'topology = "torus2d"\nshape = [4, 2]', ""),
        ("[scale_up]", "[size]\nmax_chips = { value = 99, unit = \"count\", src = \"page\" }\n\n[scale_up]", ""),
        ("[scale_up]", "[size]\nmax_chips = { value = 4, unit = \"count\", src = \"page\" }\n\n[scale_up]",
         "scale_up.domain_chips: 8 chips of a cluster of 4"),
        ("value = 400, unit", "value = 400000, unit", "is outside of what has been built"),
    ],
)  # fmt: skip
def test_lint_rules_of_clusters(tmp_path, old, new, said):
    folder = tmp_path / "clusters"
    folder.mkdir()
    file = folder / "two-islands.toml"
    file.write_text(GOOD.replace(old, new, 1))
    found = "\n".join(map(str, check([file])))
    assert (said in found) if said else not found


def test_a_link_of_ones_own_lies_beside_the_chip_that_names_it(tmp_path):
    """It was found in a folder of $ANYCHIP_PATH alone, though a platform is found beside."""
    (tmp_path / "acme-link.toml").write_text(
        (STANDARD / "links" / "roce-400.toml").read_text().replace('"roce-400"', '"acme-link"')
    )
    chip = tmp_path / "acme-x.toml"
    chip.write_text(
        'schema_version = 1\nid = "acme-x"\nextends = "nvidia-h100-sxm"\n[links.scale_out]\nwire = "acme-link"\n'
    )
    assert "acme-link" not in "\n".join(map(str, check([chip])))
    assert load_wire(load_chip(chip).scale_out.wire).id == "acme-link"
    assert load_chip(chip).scale_up.wire == load_chip("h100").scale_up.wire


def test_a_chip_names_a_cluster_that_has_a_file(tmp_path):
    file = tmp_path / "acme-x.toml"
    file.write_text(
        'schema_version = 1\nid = "acme-x"\nextends = "nvidia-h100-sxm"\ncluster = "nvidia-dgx-h200-superpod"\n'
    )
    found = "\n".join(map(str, check([file])))
    assert "cluster: no file clusters/nvidia-dgx-h200-superpod.toml (did you mean nvidia-dgx-h100-superpod?)" in found


def test_a_collective_faster_than_its_wires(tmp_path, monkeypatch):
    for folder in ("chips", "collectives"):
        (tmp_path / folder).mkdir()
    chip = tmp_path / "chips" / "acme-y.toml"
    chip.write_text('schema_version = 1\nid = "acme-y"\nextends = "nvidia-h100-sxm"\n')
    rows = ("all_reduce,ring,8,1,,f,1024,500,GB/s busbw,check,s,,u,\n"  # 500 on wires of 450
            "all_reduce,in_switch,8,1,,f,1024,500,GB/s busbw,check,s,,u,\n"
            "all_gather,ring,8,1,,f,1024,600,GB/s algbw,check,s,,u,\n"  # 7/8 * 600 = 525
            "all_gather,ring,8,1,,f,1024,500,GB/s algbw,check,s,,v,\n")  # fmt: skip
    (tmp_path / "collectives" / "acme-y.csv").write_text(HEADER + rows)
    monkeypatch.setenv("ANYCHIP_PATH", str(tmp_path))
    found = [str(problem) for problem in check([chip]) if problem.rule == "collective-above-wire"]
    assert [text.split(":")[1] for text in found] == ["2", "4"]
    assert "500 GB/s of bus bandwidth on wires of 450 GB/s" in found[0]
