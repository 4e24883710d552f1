"""Sums over errors, by hand."""

from dataclasses import replace

import pytest

from accuracy.page import page
from accuracy.plan import Plan
from accuracy.plot import scatter
from accuracy.rows import Run
from accuracy.score import Result, Summary, grouped, layouts, left_out, low_ratios, noise, spearman
from accuracy.validated import held_by, trained


def result(id, measured, forecast, chip="c", **columns):
    run = Run(
        id,
        (id,),
        {"chip": chip, "chips": "8", "layers": "2", "hidden": "4", "model": "m", **columns},
        {"step_time_s": measured},
    )
    options = {"dtype": columns.get("dtype", "bf16"), "sharding": "ddp", "recompute": "none"}
    return Result(run, Plan(run, chip, 8, options, ()), measured, forecast)


def test_errors_of_a_group():
    found, total = grouped([result("a-1", 1.0, 1.1), result("a-2", 2.0, 1.6)], lambda r: r.run.source)["a"]
    # +10% and -20%
    assert total == 2
    assert found == Summary(2, pytest.approx(0.15), pytest.approx(0.15), pytest.approx(-0.2), pytest.approx(-0.05))


def test_a_run_that_constants_were_fitted_to_is_in_no_figure():
    fitted = Result(result("a-1", 1.0, 1.1).run, None, 1.0, 1.1, fitted=True)
    assert fitted.error is None
    assert grouped([fitted], lambda r: "x")["x"] == (None, 1)


def test_a_source_left_out_is_judged_by_the_level_of_the_others():
    # source b is forecast at 0.8 of the measured time, so the level is 1.25, and a's exact forecast becomes 25% too slow
    results = [result("a-1", 1.0, 1.0), *(result(f"b-{i}", 1.0, 0.8) for i in range(10))]
    plain, blind = left_out(results, lambda r: "c")["c: a"]
    assert (plain.mean_abs, blind.bias) == (0.0, pytest.approx(0.25))


def test_a_bar_is_judged_by_runs_of_a_source_that_it_does_not_know():
    # for a the bar is all chips' without a, (3 * 0.1 + 4 * 0.5) / 7, as one sigma 0.4118, and as one source of the chip is left, 5% on top:
    # 0.4148; for b (3 * 0.2 + 4 * 0.5) / 7, so 0.4682
    h100 = {"chip": "nvidia-h100-sxm"}
    results = [
        *(result(f"a-{i}", 1.0, 0.8, **h100) for i in range(3)),
        *(result(f"b-{i}", 1.0, 0.9, **h100) for i in range(3)),
        *(
            result(f"c-{i}", 1.0, 0.5 + i % 2, chip="amd-mi300x") for i in range(4)
        ),  # no other source there: in no figure
    ]
    assert [off for *_, off in held_by(results)] == pytest.approx([0.2 / 0.4148] * 3 + [0.1 / 0.4682] * 3, rel=1e-3)
    rows = trained(results)
    assert [(row["chip"], row["source"], row["n"]) for row in rows][1:] == [
        (h100["chip"], "a", "3"),
        (h100["chip"], "b", "3"),
    ]
    assert "| all | 6 | 100% | 100% |" in page(results, None)
    # A rate of which nobody says the batch stands in the table, and says nothing of how well forecasts hold.
    unsaid = [replace(one, plan=replace(one.plan, filled=("global_batch", "micro_batch"))) for one in results]
    assert trained(unsaid) == []


def test_rank_correlation():
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == 1
    assert spearman([1, 2, 3], [3, 2, 1]) == -1
    # ranks 1 2 3 4 against 2 1 4 3: 1 - 6 * 4 / (4 * 15) = 0.6
    assert spearman([1, 2, 3, 4], [20, 10, 40, 30]) == pytest.approx(0.6)
    assert spearman([1, 2], [1, 2]) is None
    assert spearman([1, 1, 1], [1, 2, 3]) is None


def test_layouts_are_ranked_within_one_source():
    results = [result(f"a-{n}", float(n), n * 1.1, tp=str(n)) for n in (1, 2, 4, 8)]
    ((_, (n, value, best)),) = layouts(results).items()
    assert (n, value, best) == (4, 1.0, True)


def test_noise_is_the_distance_of_equal_runs_from_their_median():
    results = [
        result("a-1", 1.0, 1.0),
        result("a-2", 1.1, 1.0),
        result("a-3", 1.2, 1.0),
        result("a-4", 5.0, 1.0, tp="2"),
    ]
    # (0.1 + 0 + 0.1) / 1.1 / 3 = 0.0606
    assert noise(results) == {"a": (3, pytest.approx(0.0606, abs=1e-4))}


def test_ratios_of_dtypes():
    ((low, wide, error),) = low_ratios([result("a-1", 1.0, 1.1, dtype="fp8"), result("a-2", 2.0, 2.0, dtype="bf16")])
    assert (low.run.id, wide.run.id, error) == ("a-1", "a-2", pytest.approx(0.1))


def test_the_page_lists_every_run_once():
    unable = Result(Run("z-9", ("z-9",), {"chip": "c", "model": "m"}, {}), reason="no | shape")
    text = page([result("a-1", 1.0, 1.3), unable], "x.svg")
    assert "| a-1 | c | 8 | m | bf16 |" in text
    assert "| no / shape | 1 | z-9 |" in text
    assert "+30.0%" in text


def test_the_plot_is_one_svg():
    text = scatter([(0.1, 0.11, "c", "a-1 <+10%>")], "t")
    assert text.startswith("<svg")
    assert "&lt;+10%&gt;" in text
