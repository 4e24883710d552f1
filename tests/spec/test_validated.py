"""Errors that forecasts print come from data: what was compared, and how far off it was."""

import pytest

from anychip.spec import validated


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(validated.catalogue, "folders", lambda kind: [tmp_path])
    validated.end_to_end.cache_clear()
    validated.errors.cache_clear()
    yield tmp_path
    validated.end_to_end.cache_clear()
    validated.errors.cache_clear()


TABLE = """chip,source,layers,n,mean_abs,left_out
x,a,dense,10,0.02,0.04
x,b,dense,30,0.05,0.08
x,b,experts,20,0.14,0.14
y,a,dense,10,0.09,
z,a,dense,5,0.01,
"""


def test_sources_weigh_by_their_runs(folder):
    # (10 * 0.04 + 30 * 0.08) / 40 = 0.07; as one sigma of a normal distribution: * sqrt(pi / 2) = 0.0877
    (folder / "validated.csv").write_text(TABLE, encoding="utf-8")
    assert validated.end_to_end("x") == (pytest.approx(0.0877, abs=1e-4), 40, "dense", 1.0, False, 0.0, 1, "train")
    # one source only: no level could be fitted without it, so its plain error
    assert validated.end_to_end("y") == (pytest.approx(0.1128, abs=1e-4), 10, "dense", 1.0, False, 0.0, 1, "train")


def test_layers_of_another_kind_have_their_own_error(folder):
    (folder / "validated.csv").write_text(TABLE, encoding="utf-8")
    assert validated.end_to_end("x", validated.EXPERTS) == (
        pytest.approx(0.1755, abs=1e-4),
        20,
        "experts",
        1.0,
        False,
        0.0,
        1,
        "train",
    )
    # never compared on this chip: the error of its other runs, times 0.14 / 0.07
    sigma, times = pytest.approx(0.2256, abs=1e-4), pytest.approx(2.0, abs=0.01)
    assert validated.end_to_end("y", validated.EXPERTS) == (sigma, 10, "dense", times, False, 0.0, 1, "train")
    # nor anywhere; and what is easier elsewhere makes no chip better than it was
    assert validated.end_to_end("x", validated.OWN_PRODUCTS).layers == "dense/experts"
    assert validated.worse(validated.OWN_PRODUCTS) == validated.worse(validated.DENSE) == 1.0


def test_few_runs_make_no_chip_surer_than_all_chips(folder):
    """A router's program had 15% on MI300X, by ten dense runs, and 17% on H100, by 44 of its kind."""
    (folder / "validated.csv").write_text(TABLE, encoding="utf-8")
    # (10 * 0.04 + 30 * 0.08 + 10 * 0.09 + 5 * 0.01) / 55 = 0.0682 of all chips, against 0.01 of z's five
    assert validated.end_to_end("z") == (pytest.approx(0.0854, abs=1e-4), 55, "dense", 1.0, True, 0.0, 1, "train")
    # 0.01 times 2 against 0.14
    assert validated.end_to_end("z", validated.EXPERTS) == (
        pytest.approx(0.1755, abs=1e-4),
        20,
        "experts",
        1.0,
        True,
        0.0,
        1,
        "train",
    )


def test_runs_that_all_took_longer_are_told_as_such(folder):
    """Gaudi 3's four took twice as long as their forecasts, of which a spread to both sides was told."""
    table = "chip,source,layers,n,mean_abs,bias,left_out\nx,a,dense,4,0.5,-0.5,\nx,b,dense,4,0.1,+0.1,\ny,a,dense,40,0.6,-0.6,\n"
    (folder / "validated.csv").write_text(table, encoding="utf-8")
    found = validated.end_to_end("x")
    assert found.all_chips  # sigma is that of all chips, the bias its own
    assert found.bias == pytest.approx(-0.2)
    assert found.longer == pytest.approx(1.25)


def test_the_largest_job_of_a_chip_counts_whatever_its_layers(folder):
    table = "chip,source,layers,n,mean_abs,bias,most_chips,left_out\nx,a,dense,40,0.1,,512,\nx,b,experts,40,0.1,,64,\ny,a,dense,40,0.1,,4096,\n"
    (folder / "validated.csv").write_text(table, encoding="utf-8")
    assert validated.end_to_end("x").most_chips == validated.end_to_end("x", validated.EXPERTS).most_chips == 512


def test_what_no_published_run_is_like_has_no_error_of_runs(folder):
    (folder / "validated.csv").write_text(TABLE, encoding="utf-8")
    assert validated.end_to_end("x", validated.OTHER) is None


def test_a_chip_that_was_never_compared_has_no_error_of_its_own(folder):
    assert validated.end_to_end("x") is None


def test_every_kind_of_evidence_and_grade_has_an_error():
    known = validated.errors()
    assert {name for part, name in known if part == "evidence"} == {
        "measured",
        "interpolated",
        "modelled",
        "bytes_only",
    }
    assert [known["grade", grade] for grade in "ABCD"] == sorted(known["grade", grade] for grade in "ABCD")


CALLS = """chip,source,layers,n,mean_abs,bias,most_chips,left_out
x,a,dense,20,0.2,-0.1,8,
v,a,dense,20,0.3,-0.1,8,
"""


def test_calls_have_the_error_of_calls(folder):
    """A decode forecast had the bar of training runs: 14% where it was 23% off."""
    (folder / "validated.csv").write_text(TABLE, encoding="utf-8")
    (folder / "validated-calls.csv").write_text(CALLS, encoding="utf-8")
    own = validated.end_to_end("x", does=validated.CALLS)
    assert (own.sigma, own.runs, own.most_chips, own.all_chips) == (pytest.approx(0.2507, abs=1e-4), 20, 8, False)
    # of y only training was compared: no surer than all chips are
    pooled = validated.end_to_end("y", does=validated.CALLS)
    assert (pooled.sigma, pooled.runs, pooled.all_chips) == (pytest.approx(0.3133, abs=1e-4), 40, True)
    # with experts, twice as far off as in training
    assert validated.end_to_end("y", validated.EXPERTS, validated.CALLS).sigma == pytest.approx(0.6267, abs=1e-3)
    assert validated.end_to_end("nobody's", does=validated.CALLS) is None
    assert validated.end_to_end("x").sigma < own.sigma
    # A program in which no step was found is told of training runs, and that they are such.
    assert validated.end_to_end("x", does="run") == validated.end_to_end("x")
