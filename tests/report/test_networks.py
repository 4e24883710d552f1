"""`anychip chips clusters` and `anychip chips links`."""

import json

import pytest

from anychip import cli
from anychip.spec import list_clusters, list_wires


def ran(capsys, *argv):
    code = cli.main(["chips", *argv])
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.mark.parametrize(("kind", "found"), [("clusters", list_clusters), ("links", list_wires)])
def test_lists_name_every_one(capsys, kind, found):
    code, out, _ = ran(capsys, kind)
    assert code == 0
    for sheet in found():
        assert any(line.startswith(f"{sheet.id} ") for line in out.splitlines())
    data = json.loads(ran(capsys, kind, "--json")[1])
    assert data["schema"] == 1
    assert [entry["id"] for entry in data[kind]] == [sheet.id for sheet in found()]


def test_a_cluster_shows_its_tiers_sources_and_words(capsys):
    code, out, _ = ran(capsys, "clusters", "llama3")
    assert code == 0
    assert out.startswith("llama3 -> meta-24k-roce\n")
    assert "tiers.aggregation.oversubscription  7 to 1" in out
    assert "https://glennklockwood.com" in out
    assert "scale_out.shape: fat_tree" in out


def test_unknown_is_shown(capsys):
    assert "wire.per_link_one_way  unknown" in ran(capsys, "links", "dcn")[1]
    line = next(text for text in ran(capsys, "clusters")[1].splitlines() if text.startswith("google-tpu-v3-pod"))
    assert "unknown" in line


def test_names_that_nobody_has(capsys):
    code, out, err = ran(capsys, "clusters", "dgxh100")
    assert (code, out) == (2, "")
    assert "Did you mean 'dgx-h100'" in err
    code, _, err = ran(capsys, "show", "dgx-h100")
    assert code == 2
    assert "anychip chips clusters dgx-h100" in err
