"""Errors that forecasts print come from data: what was compared, and how far off it was."""

import pytest

from anychip.spec import validated
from anychip.spec.validated import Like


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


def of_its_own(sigma, runs):
    """What a chip has that was compared itself, in dense runs alone."""
    return (pytest.approx(sigma, abs=1e-4), runs, "dense", 1.0, False, 0.0, 1, "train", "", runs, ())


def test_sources_weigh_by_their_runs(folder):
    # (10 * 0.04 + 30 * 0.08) / 40 = 0.07; as one sigma of a normal distribution: * sqrt(pi / 2) = 0.0877
    (folder / "validated.csv").write_text(TABLE, encoding="utf-8")
    assert validated.end_to_end("x") == of_its_own(0.0877, 40)
    # one source only: no level could be fitted without it, so its plain error
    assert validated.end_to_end("y") == of_its_own(0.1128, 10)


def test_layers_of_another_kind_have_their_own_error(folder):
    (folder / "validated.csv").write_text(TABLE, encoding="utf-8")
    assert validated.end_to_end("x", Like(validated.EXPERTS)) == (
        pytest.approx(0.1755, abs=1e-4),
        20,
        "experts",
        1.0,
        False,
        0.0,
        1,
        "train",
        "",
        20,
        (),
    )
    # never compared on this chip: the error of its other runs, times 0.14 / 0.07
    sigma, times = pytest.approx(0.2256, abs=1e-4), pytest.approx(2.0, abs=0.01)
    assert validated.end_to_end("y", Like(validated.EXPERTS)) == (
        sigma,
        10,
        "dense",
        times,
        False,
        0.0,
        1,
        "train",
        "",
        0,
        (),
    )
    # nor anywhere; and what is easier elsewhere makes no chip better than it was
    assert validated.end_to_end("x", Like(validated.OWN_PRODUCTS)).layers == "dense/experts"
    table = validated.rows("validated.csv")
    assert validated.worse(validated.OWN_PRODUCTS, table) == validated.worse(validated.DENSE, table) == 1.0


def test_a_source_that_is_left_out_of_a_table_is_in_no_part_of_its_bars(folder):
    """How much worse experts are was read from the whole file, the source that was to be judged without included."""
    (folder / "validated.csv").write_text(TABLE, encoding="utf-8")
    table = validated.rows("validated.csv")
    assert validated.compared(table, "y", Like(validated.EXPERTS)).times == pytest.approx(2.0, abs=0.01)
    without = [row for row in table if row["layers"] != validated.EXPERTS]
    assert validated.compared(without, "y", Like(validated.EXPERTS)).times == 1.0


def test_few_runs_make_no_chip_surer_than_all_chips(folder):
    """A router's program had 15% on MI300X, by ten dense runs, and 17% on H100, by 44 of its kind."""
    (folder / "validated.csv").write_text(TABLE, encoding="utf-8")
    # (10 * 0.04 + 30 * 0.08 + 10 * 0.09 + 5 * 0.01) / 55 = 0.0682 of all chips, against 0.01 of z's five
    assert validated.end_to_end("z") == (
        pytest.approx(0.0854, abs=1e-4),
        55,
        "dense",
        1.0,
        True,
        0.0,
        1,
        "train",
        "",
        5,
        (),
    )
    # 0.01 times 2 against 0.14
    assert validated.end_to_end("z", Like(validated.EXPERTS)) == (
        pytest.approx(0.1755, abs=1e-4),
        20,
        "experts",
        1.0,
        True,
        0.0,
        1,
        "train",
        "",
        0,
        (),
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
    assert validated.end_to_end("x").most_chips == validated.end_to_end("x", Like(validated.EXPERTS)).most_chips == 512


def test_what_no_published_run_is_like_has_no_error_of_runs(folder):
    (folder / "validated.csv").write_text(TABLE, encoding="utf-8")
    assert validated.end_to_end("x", Like(validated.OTHER)) is None


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
    # of one source: no surer than all chips are, (0.2 + 0.3) / 2
    assert (own.sigma, own.runs, own.most_chips, own.own) == (pytest.approx(0.3133, abs=1e-4), 40, 8, 20)
    # of y only training was compared: no surer than all chips are
    pooled = validated.end_to_end("y", does=validated.CALLS)
    assert (pooled.sigma, pooled.runs, pooled.own) == (pytest.approx(0.3133, abs=1e-4), 40, 0)
    # with experts, twice as far off as in training
    assert validated.end_to_end("y", Like(validated.EXPERTS), validated.CALLS).sigma == pytest.approx(0.6267, abs=1e-3)
    assert validated.end_to_end("nobody's", does=validated.CALLS) is None
    assert validated.end_to_end("x").sigma < own.sigma
    # A program in which no step was found is told of training runs, and that they are such.
    assert validated.end_to_end("x", does="run") == validated.end_to_end("x")


TRAITS = """chip,source,layers,weights,products,code,parameters,chips,n,mean_abs,bias,most_chips,left_out
m,a,dense,with frozen weights,in fp8,not compiled,with whole parameters,on several chips,10,0.04,,32,
h,a,dense,without frozen weights,in 16 bit,not compiled,with whole parameters,on several chips,20,0.05,,512,
h,b,dense,without frozen weights,in 16 bit,not compiled,with whole parameters,on several chips,20,0.07,,512,
h,c,dense,without frozen weights,in 16 bit,compiled,with sharded parameters,on several chips,3,0.2,,512,
"""


def like(frozen=False, dtype="bf16", compiled=False, sharded=False, chips=8):
    return Like.of(validated.DENSE, frozen, dtype, compiled, sharded, chips)


def test_a_bar_rests_on_what_is_asked_and_not_on_what_ran_on_the_chip_alone(folder):
    """Ten runs of adapters in FP8, all of one source, were the bar of a training in 16 bit: 5% where others miss by 7."""
    (folder / "validated.csv").write_text(TRAITS, encoding="utf-8")
    asked = validated.end_to_end("m", like())
    # of 16 bit on any chip: (20 * 0.05 + 20 * 0.07 + 3 * 0.2) / 43 = 0.0698, as one sigma 0.0874
    assert (asked.sigma, asked.runs, asked.all_chips) == (pytest.approx(0.0874, abs=1e-4), 43, True)
    assert (asked.own, asked.lacks) == (10, ("without frozen weights", "in 16 bit"))
    # runs of one source do not speak for a chip by themselves, not even for what is like them
    same = validated.end_to_end("m", like(frozen=True, dtype="fp8"))
    assert same.all_chips
    assert same.lacks == ()


def test_what_part_of_a_program_is_known_to_miss_by_its_bar_is_no_narrower_than(folder):
    """Compiled FSDP had the error of the chip's 43 runs, of which three were like it: 7 where those are 20% off."""
    (folder / "validated.csv").write_text(TRAITS, encoding="utf-8")
    asked = validated.end_to_end("h", like(compiled=True, sharded=True))
    assert (asked.sigma, asked.runs, asked.trait) == (pytest.approx(0.2507, abs=1e-4), 3, "compiled")
    usual = validated.end_to_end("h", like())
    # by 40 of two sources on the chip itself (0.06) for each trait but 16 bit and "on several chips", which the three share
    assert (usual.sigma, usual.runs, usual.all_chips) == (pytest.approx(0.0874, abs=1e-4), 43, False)
    assert validated.end_to_end("h", like(chips=1)).lacks == ("on one chip",)


READ = """chip,source,layers,calls,n,mean_abs,bias,most_chips,left_out
x,a,dense,,20,0.2,-0.1,8,
x,a,dense,of prompts alone,20,0.5,-0.5,8,
w,c,dense,of prompts alone,10,0.6,,8,
x,a,dense,of tokens alone,20,0.1,-0.1,8,
v,b,dense,,20,0.3,,8,
"""


def test_prompts_and_tokens_have_bars_of_their_own(folder):
    """Both had that of whole calls, where prompts were twice as far off as those and tokens half."""
    (folder / "validated.csv").write_text(TABLE, encoding="utf-8")
    (folder / "validated-calls.csv").write_text(READ, encoding="utf-8")
    read = {
        calls: validated.end_to_end("x", Like(calls=Like.reading(calls)), validated.CALLS)
        for calls in (None, True, False)
    }
    # of whole calls (0.2 + 0.3) / 2; of prompts alone (20 * 0.5 + 10 * 0.6) / 30; of tokens 0.1 and, where none were told apart, 0.3
    assert [one.sigma for one in read.values()] == pytest.approx([0.3133, 0.6684, 0.2507], abs=1e-4)
    assert [one.trait for one in read.values()] == ["", "of prompts alone", ""]  # the largest
    assert read[True].longer == pytest.approx(2.0)  # x's own alone


def test_chips_whose_runs_lie_to_one_side_are_no_measure_of_one_that_was_compared(folder):
    """One run on a chip that takes twice as long as forecast was half of the bar of every other chip's program on one chip."""
    (folder / "validated.csv").write_text(
        "chip,source,layers,chips,n,mean_abs,bias,left_out\n"
        "x,a,dense,on several chips,20,0.04,0.01,\n"
        "y,b,dense,on one chip,3,0.05,-0.05,\n"
        "z,c,dense,on one chip,1,0.50,-0.50,\n",
        encoding="utf-8",
    )
    alone = Like(chips="on one chip")
    assert validated.end_to_end("x", alone)[:2] == (pytest.approx(1.2533 * 0.05), 3)
    assert validated.end_to_end("z", alone)[:2] == (pytest.approx(1.2533 * 0.50), 1)  # of itself it is
