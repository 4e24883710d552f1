"""The pages of `anychip chips`, through the command line."""

import json

import pytest

from anychip import cli
from anychip.spec import list_chips


def ran(capsys, *argv):
    code = cli.main(["chips", *argv])
    return code, capsys.readouterr().out


def test_list_names_every_chip_in_narrow_screens_too(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out = ran(capsys)
    assert code == 0
    for entry in list_chips():
        assert any(line.startswith(f"{entry.id} ") for line in out.splitlines())
    assert max(map(len, out.splitlines())) <= 110  # ids and platforms are never cut


@pytest.mark.parametrize("page", [(), ("clusters",), ("links",)])
def test_a_list_that_a_filter_reads_is_whole(capsys, monkeypatch, page):
    monkeypatch.setenv("COLUMNS", "80")
    assert ".. " in ran(capsys, *page)[1]
    monkeypatch.delenv("COLUMNS")
    assert ".. " not in ran(capsys, *page)[1]  # stdout is no terminal: `anychip chips clusters | grep h100`


def test_json_has_every_figure_with_its_source(capsys):
    code, out = ran(capsys, "--json")
    data = json.loads(out)
    assert (code, data["schema"]) == (0, 1)
    assert len(data["chips"]) == len(list_chips())
    h100 = next(chip for chip in data["chips"] if "h100" in chip["aliases"])
    assert set(h100) >= {"id", "aliases", "vendor", "platform", "grade", "figures"}
    bf16 = h100["figures"]["peaks.matrix.bf16"]
    assert bf16["value"] == 989.4e12
    assert bf16["source"].startswith("https://")
    assert h100["figures"]["peaks.matrix.fp4"]["value"] is None
    assert h100["figures"]["peaks.matrix.fp4"]["state"] == "none"


def test_json_goes_to_a_file(capsys, tmp_path):
    code, out = ran(capsys, "show", "h100", "--json", str(tmp_path / "x.json"))
    assert (code, out) == (0, "")
    assert json.loads((tmp_path / "x.json").read_text())["chips"][0]["id"] == "nvidia-h100-sxm"


def test_a_folder_of_the_path_that_is_not_there_is_told(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ANYCHIP_PATH", f"{tmp_path}:{tmp_path}/mistyped")
    assert cli.main(["chips", "show", "h100"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"anychip: $ANYCHIP_PATH names {tmp_path}/mistyped, which is no folder: nothing is read from it."
    ]


def test_show_resolves_the_alias_and_numbers_the_sources(capsys):
    code, out = ran(capsys, "show", "ascend-910b")
    assert code == 0
    assert out.splitlines()[0] == "ascend-910b -> huawei-ascend-910b2"
    assert "[1] http" in out
    assert "unknown" in out


def test_show_with_the_platform(capsys):
    _, out = ran(capsys, "show", "ascend-910b", "--platform")
    assert "device type npu" in out


def test_markdown(capsys):
    code, out = ran(capsys, "--markdown")
    assert code == 0
    assert len([line for line in out.splitlines() if line.startswith("|")]) == len(list_chips()) + 2
    code, out = ran(capsys, "show", "h100", "--markdown")
    assert out.startswith("# NVIDIA H100")


def test_an_unknown_chip_is_exit_2_with_the_nearest(capsys):
    assert cli.main(["chips", "show", "h10O"]) == 2
    assert "Did you mean" in capsys.readouterr().err


def test_check_reports_all_problems_and_exits_1(capsys, tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text('schema_version = 1\nid = "bad"\nvendor = 3\n')
    code, out = ran(capsys, "check", str(bad))
    assert code == 1
    assert "bad.toml:3" in out
    assert out.count("\n") > 3
    code, out = ran(capsys, "check", str(bad), "--json")
    assert code == 1
    assert len(json.loads(out)["problems"]) > 2


def test_the_standard_has_no_problems(capsys):
    assert ran(capsys, "check") == (0, "no problems\n")


@pytest.mark.parametrize("kind", ["chips", "platforms", "links", "clusters"])
def test_schema(capsys, kind):
    code, out = ran(capsys, "schema", kind)
    assert code == 0
    assert json.loads(out)["$schema"].startswith("https://json-schema.org/")


@pytest.mark.parametrize("like", ["h100", "tpu-v5p", "ascend-910b", "cpu"])
def test_a_new_chip_has_no_figure_of_the_other_and_is_well_formed(capsys, tmp_path, like):
    code, out = ran(capsys, "new", "--like", like, "acme-one")
    assert code == 0
    path = tmp_path / "acme-one.toml"
    path.write_text(out)
    code, out = ran(capsys, "show", str(path), "--json")
    assert code == 0, out
    (chip,) = json.loads(out)["chips"]
    assert all(figure["value"] is None for figure in chip["figures"].values())
    code, out = ran(capsys, "check", str(path))
    assert code == 0, out


def test_a_new_chip_with_a_figure_of_its_own_source_is_well_formed(capsys, tmp_path):
    """The source stands in the file as comments: what is filled in as they say is accepted."""
    _, out = ran(capsys, "new", "--like", "mi300x", "amd-one")
    lines = (
        line[2:] if line.startswith(("# [", "# title", "# url", "# kind", "# date")) else line
        for line in out.splitlines()
    )
    text = (
        "\n".join(lines).replace("https://", "https://www.amd.com/one.pdf").replace('vendor = "Amd"', 'vendor = "AMD"')
    )
    fresh, given = '\nbf16 = "unknown"', '\nbf16 = { value = 989.4, unit = "TFLOP/s", src = "ds" }'
    assert fresh in text
    path = tmp_path / "amd-one.toml"
    path.write_text(text.replace(fresh, given, 1))
    code, out = ran(capsys, "check", str(path))
    assert code == 0, out


def test_what_a_forecast_lacks_is_told_and_no_problem(capsys, tmp_path):
    _, out = ran(capsys, "new", "--like", "h100", "acme-one")
    path = tmp_path / "acme-one.toml"
    path.write_text(out)
    code, out = ran(capsys, "check", str(path))
    assert code == 0
    told = "no forecast yet: acme-one: memory.main.capacity, memory.main.bandwidth, peaks.matrix.bf16 are unknown"
    assert out.startswith(f"no problems\n{told}")
    code, out = ran(capsys, "check", str(path), "--json")
    needed = ["memory.main.capacity", "memory.main.bandwidth", "peaks.matrix.bf16"]
    assert json.loads(out)["no_forecast"] == [{"file": str(path), "unknown": needed}]


def test_a_new_chip_needs_an_id(capsys):
    assert cli.main(["chips", "new", "--like", "h100", "Acme One"]) == 2
    assert "no chip id" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("chip", "said"),
    [("910c", "--device npu --out huawei-ascend-910c.csv"), ("mi300x", "a second make the grade A"), ("h100", None)],
)
def test_it_says_what_would_make_forecasts_surer(capsys, chip, said):
    """Who wrote a file of figures was not told what to do next."""
    text = " ".join(ran(capsys, "show", chip)[1].split())
    assert said in text if said else "make the grade" not in text
