"""Bad files: every problem at once, with its line and what to write; each lint rule; the fixers."""

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from anychip.errors import BadChipFile, BadUse
from anychip.spec import check, fix, json_schema, list_chips, load_chip
from anychip.spec.catalogue import STANDARD
from anychip.spec.checking import all_files, rules
from anychip.spec.toml import line_of, read
from tests.spec.conftest import ACME

Write = Callable[..., Path]


def messages(file: Path) -> str:
    return "\n".join(str(problem) for problem in check([file]))


def test_the_standard_itself_has_no_problem() -> None:
    assert [str(problem) for problem in check()] == []


def test_a_year_that_cannot_be_is_told_by_what_may(write: Write) -> None:
    """ "expected a date as text, got '2036-01-02'" did not say what was wrong with it."""
    assert "expected a date of 1990 to 2035, got '2036-01-02'" in messages(
        write(ACME.replace("2026-01-02", "2036-01-02"))
    )


def test_a_missing_word_is_told_with_those_that_may_stand_there(tmp_path: Path) -> None:
    """ "role: missing (Where it is used.)" left to guess what a link's file wants."""
    file = tmp_path / "my-link.toml"
    file.write_text('schema_version = 1\nid = "my-link"\n[wire]\n')
    assert "role: missing (Where it is used. One of scale_up, scale_out, host.)" in messages(file)


def test_a_folder_without_anything_to_check_has_not_passed(tmp_path: Path) -> None:
    """A folder that was mistaken for another had no problems."""
    with pytest.raises(BadUse, match=f"nothing to check in {tmp_path}: no .toml"):
        check([tmp_path])


def test_all_problems_of_a_file_at_once_with_their_lines(write: Write) -> None:
    text = ACME.replace("TFLOP/s", "TFLOPS").replace('unit = "TB/s"', 'unit = "TB"').replace("2026-01-02", "yesterday")
    write(text.replace('execution = "kernel"\n', ""))
    with pytest.raises(BadChipFile) as caught:
        load_chip("one")
    told = str(caught.value)
    assert "4 problems" in told
    assert "acme-one.toml:12: sources.sheet.date: expected a date" in told
    assert "acme-one.toml:15: peaks.matrix.bf16.unit: expected a unit of flop/s, got 'TFLOPS'" in told
    assert "acme-one.toml:21: memory.main.bandwidth.unit: expected a unit of byte/s, got 'TB'" in told
    assert "execution: missing" in told


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("value = 100,", 'value = "100",', "expected a number, got '100'"),
        ("value = 100,", "value = nan,", "expected a number"),
        ("value = 100,", "value = inf,", "expected a number"),
        ("value = 100,", "value = -100,", "cannot be"),
        ("value = 100,", "value = 1e99,", "cannot be"),
        ("value = 100,", "value = 0,", "cannot be"),
        ("value = 100,", "value = true,", "expected a number"),
        ("value = 100, ", "", "expected a number, got nothing"),
        (', src = "sheet" }\nfp8', " }\nfp8", "a figure without a source"),
        (', src = "sheet" }\nfp8', ', src = "shet" }\nfp8', "did you mean sheet?"),
        ("bf16", "bf61", "no such dtype (did you mean bf16?)"),
        ("bandwidth", "bandwith", "no such field (did you mean bandwidth?)"),
        ('fp8 = "none"', 'fp8 = "nothing"', "expected a figure"),
        ('kind = "derived"', 'kind = "guessed"', "expected one of datasheet"),
        ('id = "acme-one"', 'id = "acme-two"', "expected the file's name, acme-one"),
        ("schema_version = 1", "schema_version = 2", "this version reads schema_version = 1"),
        ('"kernel"', '"kernal"', "write kernel"),
        ('["one"]', '"one"', "expected a list of texts"),
        ('url = "https://acme.example/one"', 'url = "see the web"', "expected a web address"),
    ],
)
def test_each_mistake_says_what_to_write(write: Write, old: str, new: str, told: str) -> None:
    assert old in ACME
    assert told in messages(write(ACME.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\xff\xfe", "is not UTF-8"),
        (b"id = \n", "not TOML"),
        (b"[a]\n[a]\n", "not TOML"),
        (b'[a]\nb = 1\nc.d = 2\nb = "x"\n', "not TOML: b is given a second time"),
        (b"a = 1\na.b = 2\n", "not TOML: Cannot overwrite a value"),
        (b"a = 1\n[a]\n", "not TOML: Cannot overwrite a value"),
        (b"a = " + b"[" * 5000, "not TOML"),
        (b"a = 1" + b"0" * 5000, "not TOML"),
        (b"a = 9999-99-99", "not TOML"),
        (b"#" * 1_000_001, "at most"),
        (b"", "missing"),
    ],
)
def test_what_is_no_toml_is_told_in_one_line(write: Write, data: bytes, told: str) -> None:
    file = write()
    file.write_bytes(data)
    assert told in messages(file)
    with pytest.raises(BadChipFile):
        load_chip(file)


@pytest.mark.parametrize("look", [check, fix])
def test_files_that_are_not_there_are_wrong_use(look: Callable[..., object], write: Write) -> None:
    with pytest.raises(BadUse, match=r"no such file or folder: nowhere\.toml, no/folder\. "):
        look([write(), Path("nowhere.toml"), "no/folder"])


def test_line_of_finds_tables_keys_and_list_entries() -> None:
    text = 'a = 1\n[b]\nc = 2\n[b.d]\ne = { f = 1 }\n[[x]]\ny = 1\n[[x]]\ny = 2\n"q r" = 3\n'
    places = {
        "a": 1,
        "b": 2,
        "b.c": 3,
        "b.d": 4,
        "b.d.e.f": 5,
        "x.0.y": 7,
        "x.1": 8,
        "x.1.y": 9,
        "none": None,
        "": None,
    }
    assert {path: line_of(text, path) for path in places} == places


# rule -> (what to change in the good file, a word of the message)
LINT: dict[str, tuple[str, str, str]] = {
    "alias-clash": ('["one"]', '["h100"]', "also claimed by"),
    "datasheet-page": (
        'url = "https://acme.example/one"\nkind = "reported"',
        'url = "https://shop.example/acme"\nkind = "datasheet"',
        "not on a page of Acme",
    ),
    "no-page": ('url = "https://acme.example/one"\n', "", "reported without an address"),
    "sparse-in-dense": (
        "[memory.main]",
        '[peaks.matrix_sparse]\nbf16 = { value = 100, unit = "TFLOP/s", src = "sheet" }\n[memory.main]',
        "not below the sparse",
    ),
    "memory-physics": ('value = 1, unit = "TB/s"', 'value = 100, unit = "TB/s"', "are read in 0.00032 s"),
    "above-peak": (
        "[memory.main]",
        '[engine]\npeak_clock = { value = 1, unit = "GHz", src = "sheet" }\n'
        'sustained_clock = { value = 2, unit = "GHz", src = "sheet" }\n[memory.main]',
        "2 GHz is more than",
    ),
    "link-topology": (
        "[memory.main]",
        '[links.scale_up]\ntopology = "mesh"\none_way = { value = 400, unit = "GB/s", src = "sheet" }\n'
        'peer_one_way = { value = 400, unit = "GB/s", src = "sheet" }\n'
        'domain_chips = { value = 8, unit = "count", src = "sheet" }\n[memory.main]',
        "a full mesh of 8 chips",
    ),
    "odd-ratio": (
        'fp8 = "none"',
        'fp8 = { value = 3, unit = "TFLOP/s", src = "sheet" }',
        "0.03 times peaks.matrix.bf16",
    ),
    "never-built": (
        "[memory.main]",
        '[power]\nlimit = { value = 300, unit = "kW", src = "sheet" }\n[memory.main]',
        "300 kW is outside of what has been built",
    ),
    "half-a-variant": ("", "", "200 TOP/s is inherited from a chip with another 16-bit peak"),
    "name-known": ("nvidia-cuda", "nvidia-cudo", "did you mean nvidia-cuda?"),
    "dispute-used": (
        "[memory.main]",
        '[[disputed]]\nfigure = "peaks.matrix.bf16"\nvalues = ["100", "200"]\nused = "200 TFLOP/s"\nwhy = "x"\n[memory.main]',
        "used 200 TFLOP/s, but the figure is 100 TFLOP/s",
    ),
    "unused-source": (
        "[memory.main]",
        '[sources.lost]\ntitle = "x"\nkind = "estimated"\ndate = "2026"\n[memory.main]',
        "no figure names the source 'lost'",
    ),
    "same-as-parent": ("", "", "the same as in the chip that it extends"),
}


# rule -> a variant of the good file that breaks it
TWO = 'schema_version = 1\nid = "acme-two"\nextends = "acme-one"\nname = "Two"\n'
VARIANTS = {
    "same-as-parent": TWO + 'vendor = "Acme"\n',
    "half-a-variant": TWO + '[peaks.matrix]\nbf16 = { value = 150, unit = "TFLOP/s", src = "sheet" }\n',
}


@pytest.mark.parametrize("rule", sorted(LINT))
def test_each_lint_rule_finds_its_mistake(write: Write, rule: str) -> None:
    old, new, told = LINT[rule]
    file = write(ACME.replace(old, new, 1))
    if rule in VARIANTS:
        write(ACME.replace('int8 = "unknown"', 'int8 = { value = 200, unit = "TOP/s", src = "sheet" }'))
        file = write(VARIANTS[rule], "acme-two")
    found = [problem for problem in check([file]) if problem.rule == rule]
    assert [told in problem.message + str(problem.fix) for problem in found] == [True]
    assert found[0].line is not None or rule == "half-a-variant"


def test_what_the_schema_refuses_hides_nothing_else(write: Write) -> None:
    """A slipped unit, a rate that nobody builds and a wrong name, beside four things that the schema refuses."""
    text = ACME.replace("2026-01-02", "yesterday").replace("nvidia-cuda", "nvidia-cudo").replace('["one"]', '["h100"]')
    text = text.replace('value = 32, unit = "GB", src = "sheet"', 'value = 32, unit = "MB"')
    text = text.replace('kind = "derived"', 'kind = "guessed"').replace('execution = "kernel"\n', "")
    text += '[power]\nlimit = { value = 300, unit = "kW", src = "shet" }\n[links.host]\nwire = "pcie55"\n'
    told = messages(write(text))
    for schema in ("expected a date", "a figure without a source", "expected one of datasheet", "execution: missing"):
        assert schema in told
    for lint in (
        "no file platforms/nvidia-cudo.toml",
        "also claimed by",
        "3.2e+07 byte",
        "are read in 3.2e-05 s",
        "300 kW is outside",
    ):
        assert lint in told, lint
    assert "no file links/pcie55.toml (did you mean pcie5?)" in told
    assert told.count("no file links/pcie55.toml") == 1
    assert "no figure names" not in told  # its figure's source is what the schema refused


def test_what_is_near_to_no_name_is_told_where_to_look(write: Write) -> None:
    told = messages(write(ACME.replace("nvidia-cuda", "zebra") + '[links.host]\nwire = "zebra"\n'))
    assert "no file platforms/zebra.toml (one of amd-rocm, " in told
    assert "or a file of your own beside this one: zebra.toml)" in told
    assert (
        "no file links/zebra.toml (see: anychip chips links, or a file of your own beside this one: zebra.toml)" in told
    )


@pytest.mark.parametrize(("line", "told"), [
    ("extends = -1", "extends"), ('extends = "nvidia-h100-sxm"\nsources = 3', "sources"),
    ('extends = "nvidia-h100-sxm"\n[sources."a.b"]\nkind = "datasheet"', "sources"),
])  # fmt: skip
def test_a_variant_whose_links_to_others_are_no_such_is_told_without_a_traceback(
    write: Write, line: str, told: str
) -> None:
    text = f"""schema_version = 1
id = "acme-two"
name = "Two"
{line}
[power]
limit = {{ value = 300, unit = "W", src = "compute" }}
"""
    assert f": {told}" in messages(write(text, "acme-two"))


@pytest.mark.parametrize("extends", ["nvidia-h100-sxm", "nvidia-h100-sxmm", "acme-bad"])
def test_a_variant_is_checked_whole_whatever_is_wrong_with_what_it_extends(write: Write, extends: str) -> None:
    """Nothing else was told of a variant of a file that is not there or wrong, and what its figures name came in one line."""
    write(ACME.replace("2026-01-02", "yesterday").replace("acme-one", "acme-bad"), "acme-bad")
    text = f"""\
schema_version = 1
id = "acme-two"
extends = "{extends}"
name = "Two"
aliases = ["h200"]
[sources.lost]
title = "x"
kind = "reported"
date = "no day"
[power]
limit = {{ value = 300, unit = "kW", src = "nowhere" }}
"""
    told = messages(write(text, "acme-two"))
    for lint in (
        "also claimed by",
        "300 kW is outside",
        "no figure names the source 'lost'",
        "reported without an address",
        "expected a date",
    ):
        assert lint in told, lint
    own = "acme-two.toml:3: extends: "
    assert ("power.limit.src: no source 'nowhere'" in told) == (extends == "nvidia-h100-sxm")
    assert (own + "no chip file nvidia-h100-sxmm.toml (did you mean nvidia-h100-sxm?)" in told) == (
        extends == "nvidia-h100-sxmm"
    )
    assert (own in told) == (extends != "nvidia-h100-sxm")


@pytest.mark.parametrize(
    ("platform", "generation", "near"),
    [
        ("amd-rocm", "cdna33", "cdna3"),
        ("nvidia-cuda", "hoper", "hopper"),
        ("amd-rocm", "cdna3", None),
        ("nvidia-cuda", "a-new-one", None),
        ("opencl", "cdna33", None),
    ],
)
def test_a_generation_that_is_nearly_a_known_one_is_told(
    write: Write, platform: str, generation: str, near: str | None
) -> None:
    told = messages(write(ACME.replace('"nvidia-cuda"', f'"{platform}"\ngeneration = "{generation}"')))
    if near is None:
        assert told == ""
    else:
        assert f"acme-one.toml:7: generation: no generation of {platform} is called {generation}" in told
        assert f"did you mean {near}?" in told


def test_a_maker_of_its_own_on_the_platform_of_another_has_its_own_pages(write: Write) -> None:
    """The pages that a platform lists are those of its own maker."""
    assert messages(write(ACME.replace('"reported"', '"datasheet"'))) == ""
    theirs = ACME.replace('"reported"', '"datasheet"').replace('"Acme"', '"NVIDIA"')
    assert "not on a page of NVIDIA" in messages(write(theirs))


# Rules about other files than a chip's: their cases are in test_cluster.py.
OF_CLUSTERS = ["collective-above-wire", "tiers-nest"]


def test_each_lint_rule_has_its_case() -> None:
    assert sorted(rule.RULE for rule in rules()) == sorted([*LINT, *OF_CLUSTERS])


def test_the_good_file_has_no_problem(write: Write) -> None:
    assert messages(write()) == ""


@pytest.mark.parametrize("rule", ["datasheet-page", "no-page", "unused-source", "same-as-parent"])
def test_fixers_mend_in_place_and_only_once(write: Write, rule: str) -> None:
    old, new, _ = LINT[rule]
    file = write(ACME.replace(old, new, 1))
    if rule in VARIANTS:
        file = write(VARIANTS[rule], "acme-two")
    assert fix([file]) == [file.resolve()]
    assert messages(file) == ""
    assert fix([file]) == []


def test_fix_leaves_alone_what_it_cannot_mend(write: Write) -> None:
    broken = ACME.replace("TFLOP/s", "TFLOPS")
    file = write(broken)
    assert fix([file]) == []
    assert file.read_text() == broken


def test_json_schema_agrees_with_the_loader(write: Write) -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.check_schema(json_schema())
    for file in (STANDARD / "chips").glob("*.toml"):
        assert [error.message for error in validator.iter_errors(read(file).table)] == []
    for old, new in [("TFLOP/s", "TFLOPS"), ("bandwidth", "bandwith"), ('"kernel"', '"x"'), ("2026-01-02", "today")]:
        table = read(write(ACME.replace(old, new, 1))).table
        assert list(validator.iter_errors(table)), (old, new)


@pytest.mark.parametrize("kind", ["platforms", "links", "clusters"])
def test_json_schema_of_the_other_kinds(kind: str) -> None:
    validator = jsonschema.Draft202012Validator(json_schema(kind))
    for file in (STANDARD / kind).glob("*.toml"):
        assert [error.message for error in validator.iter_errors(read(file).table)] == []


def test_json_schema_describes_every_field() -> None:
    text = json.dumps(json_schema())
    assert "Dense peak of the matrix engine" in text
    assert text.count('"description"') > 50


def test_a_folder_is_checked_whole(write: Write) -> None:
    folder = write().parent
    write(ACME.replace('"acme-one"', '"acme-bad"').replace('["one"]', '["bad"]'), "acme-bad")
    assert check([folder]) == []
    assert len(all_files()) > 50


def test_the_packages_functions_stay_functions(write: Write) -> None:
    """A submodule of the same name would take the function's place once it is imported."""
    from anychip import spec

    file = write()
    assert spec.check([file]) == spec.check([file]) == []
    assert spec.fix([file]) == spec.fix([file]) == []


def test_the_limits_of_ratios_lie_around_what_has_been_built():
    """fp8 at ten times bf16 was let pass, though nobody has built more than four."""
    from anychip.spec.lint import odd_ratio

    built: dict[str, list[float]] = {}
    for entry in list_chips():
        known = {
            path: one.value for path, one in load_chip(entry.id).figures.items() if one.state == "known" and one.value
        }
        half = known.get("peaks.matrix.bf16") or known.get("peaks.matrix.fp16")
        for path in known if half else ():
            ratio = half / known[path] if path in odd_ratio._HALF else known[path] / half
            if path in odd_ratio._HALF or path in odd_ratio._TO_HALF:
                built.setdefault(path, []).append(ratio)
    assert len(built) >= 9
    for path, ratios in built.items():
        low, high = (odd_ratio._HALF | odd_ratio._TO_HALF)[path]
        assert low * 0.99 <= min(ratios) <= 4 * low or len(ratios) < 10, path
        assert high / 4 <= max(ratios) <= high * 1.01 or len(ratios) < 10, path
