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


def test_sources_weigh_by_their_runs(folder):
    # (10 * 0.04 + 30 * 0.08) / 40 = 0.07; as one sigma of a normal distribution: * sqrt(pi / 2) = 0.0877
    (folder / "validated.csv").write_text(
        "chip,source,n,mean_abs,left_out\nx,a,10,0.02,0.04\nx,b,30,0.05,0.08\ny,a,5,0.01,\n", encoding="utf-8"
    )
    assert validated.end_to_end("x") == pytest.approx(0.0877, abs=1e-4)
    # one source only: no level could be fitted without it, so its plain error
    assert validated.end_to_end("y") == pytest.approx(0.01253, abs=1e-5)


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
