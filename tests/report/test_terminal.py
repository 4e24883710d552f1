"""The answer on the terminal: what it says, and that it fits."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest

from anychip import api, units
from anychip.forecast import TOP_OPS
from anychip.record import Kind, Op, Program, TensorMeta, word
from anychip.report import as_json, terminal
from anychip.spec.validated import CALLS, end_to_end

FOUR = ["h100", "mi300x", "tpu-v5p", "ascend-910b"]


def shown(answer, width=80):
    file = io.StringIO()
    terminal.show(answer, file=file, width=width)
    return file.getvalue()


@pytest.fixture
def answer(program):
    return api.forecast(program, on=FOUR)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_screen(answer, width):
    assert max(map(len, shown(answer, width).splitlines())) <= width


def test_operations_stand_beside_their_figures_on_a_wide_screen(answer):
    """Names to the left and times to the right of 200 columns are read with a ruler."""
    text = shown(answer, 200)
    ops = text[text.index("top operations") :].split("\n\n")[0]
    assert max(map(len, ops.splitlines())) < 100


def test_four_targets_stand_side_by_side_in_80_columns(answer):
    (heading,) = [line for line in shown(answer).splitlines() if line.split() == FOUR]
    (step,) = [line for line in shown(answer).splitlines() if line.startswith("step time")]
    assert len(heading) <= 80
    assert step.count("us") + step.count("ms") == 4


def test_an_alias_is_shown_with_what_it_means(answer):
    assert "ascend-910b -> huawei-ascend-910b2" in shown(answer)


def test_no_colour_outside_a_terminal(answer):
    assert "\x1b" not in shown(answer)


def test_what_does_not_fit_says_so(answer):
    forecasts = tuple(replace(forecast, fits=False) for forecast in answer.forecasts)
    (line,) = [x for x in shown(replace(answer, forecasts=forecasts)).splitlines() if x.split()[:1] == ["fits"]]
    assert line.split() == ["fits"] + ["NO"] * 4


def test_steps_that_count_are_those_that_times_are_of(answer):
    assert "steps: 3 were recorded, all but the first count" in shown(answer, 200)
    first = replace(
        answer.forecasts[0], steps=5, step_times_s=(0.1, 0.1, 0.1)
    )  # the second took longer and is left out, too
    assert "steps: 5 were recorded, the last 3 count" in shown(
        replace(answer, forecasts=(first, *answer.forecasts[1:])), 200
    )


def test_one_target_says_why_each_operation_takes_its_time(program):
    text = shown(api.forecast(program, on="h100"))
    (line,) = [line for line in text.splitlines() if line.startswith("mystery.fuse")]
    assert "bytes alone" in line
    for part in ("time limited by", "memory at peak", "activations", "evidence", "one sigma", "MFU"):
        assert part in text


def test_warnings_and_limits_are_at_the_end(answer):
    text = shown(answer)
    assert text.index("top operations") < text.index("h100: ") < text.index("warning: Priced by bytes alone")
    assert text.splitlines()[-1].startswith("A forecast for virtual chips")


def test_an_unknown_figure_is_a_dash_never_zero(answer):
    forecasts = tuple(replace(forecast, power_w=None) for forecast in answer.forecasts)
    (line,) = [x for x in shown(replace(answer, forecasts=forecasts)).splitlines() if x.startswith("energy")]
    assert line.split()[2:] == ["-"] * 4


def test_operations_have_one_name_in_the_table_and_below_it():
    """One large product with its own name in both places, without torch's prefix."""
    x = TensorMeta((4096, 4096), (4096, 1), "bfloat16")
    big = Program(
        tape=np.array([word(Kind.OP, 0)] * 3, dtype=np.int64), ops=[Op("aten.mm.default", (x, x), outputs=(x,))],
        block_bytes=np.array([1], dtype=np.int64), meta={"argv": ["t.py"]},
    )  # fmt: skip
    text = shown(api.forecast(big, on="h100"))
    assert "aten." not in text
    assert "h100: Compute: " in text
    assert "mm 4096x4096x4096 bf16 alone takes" in " ".join(text.split())


def test_operations_and_all_others_add_up_to_the_time_on_the_chip(program):
    (forecast,) = (answer := api.forecast(program, on="h100")).forecasts
    first, *_ = forecast.top_ops
    busy_s = sum(forecast.time_by_phase_s.values())
    text = shown(replace(answer, forecasts=(replace(forecast, all_ops=(first,)),)))
    (line,) = [line.split() for line in text.splitlines() if line.startswith("all others")]
    assert line[2:4] == units.duration(busy_s - first.time_s).split()
    assert line[4] == units.share((busy_s - first.time_s) / forecast.step_time_s)
    assert "all others" not in shown(answer)  # there are none


@pytest.mark.parametrize(("kind", "one"), [("train", "step"), ("call", "call"), ("run", "run")])
def test_figures_say_what_they_are_of(answer, kind, one):
    forecasts = tuple(replace(f, step_kind=kind, tokens_per_step=4096.0) for f in answer.forecasts)
    lines = shown(replace(answer, forecasts=forecasts)).splitlines()
    assert [line.split()[3:] for line in lines if line.startswith(f"tokens per {one}")] == [["4,096"] * 4]
    for begin in (
        f"energy/{one}, max",
        f"USD/1000 {one}s",
        f"top operations, per {one}",
        "values read from the chip: 1 per " + one,
    ):
        assert [begin for line in lines if line.startswith(begin)] == [begin]


def test_what_an_hour_costs_stands_below_what_steps_do(answer):
    """Prices decide a ranking as much as times: H100's hour was 1.99 and MI300X's 3.00, and nothing said so."""
    (line,) = [line for line in shown(answer).splitlines() if line.startswith("  at USD/hour")]
    prices = [chip.price_usd_per_hour for chip in answer.chips]
    assert line.split()[2:] == ["-" if price is None else f"{price:.2f}" for price in prices]
    assert any(prices)
    assert None in prices


def test_whose_price_is_listed_and_who_has_none_is_told(answer):
    """Where no chip had a price, or one of several was given, nothing said where the others' come from, nor how to give one."""
    how = "--price CHIP=USD for what an hour costs you"
    (line,) = [line for line in shown(answer, 200).splitlines() if line.startswith("prices: ")]
    assert line == f"prices: the lowest that each chip's file lists; none is listed of tpu-v5p, ascend-910b; {how}"
    given = shown(replace(answer, prices={"nvidia-h100-sxm": 2.0, "huawei-ascend-910b2": 1.0}), 200)
    assert f"prices: the lowest that each chip's file lists (mi300x); none is listed of tpu-v5p; {how}" in given
    assert "prices: " not in shown(replace(answer, prices={chip.id: 1.0 for chip in answer.chips}), 200)


def test_crumbs_of_memory_are_not_shown(answer):
    """4 bytes of gradients at the peak of 8 MiB: true, and no news."""
    forecasts = tuple(
        replace(f, peak_memory_bytes=8 << 20, memory_by_kind={"gradients": 4, "activations": (8 << 20) - 4})
        for f in answer.forecasts
    )
    text = shown(replace(answer, forecasts=forecasts))
    assert "activations" in text
    assert "gradients" not in text


def test_what_the_allocator_reserves_is_shown_where_there_is_one(answer):
    """3 MiB and 5 MiB live at once, each below 10 MiB: both come from one segment of 20 MiB."""
    (line,) = [x for x in shown(answer).splitlines() if x.split()[:1] == ["reserved"]]
    # the TPU compiles whole steps: there is no such allocator
    assert line.split() == ["reserved", "20.0", "MiB", "20.0", "MiB", "-", "20.0", "MiB"]


def test_a_chip_with_its_own_recording_says_why(answer):
    text = shown(replace(answer, own_recordings=((), ("name", "compiles_whole", "supports.float64.matmul"), (), ())))
    lines = text.splitlines()
    (at,) = [i for i, line in enumerate(lines) if "run again for it" in line]
    assert any("mi300x -> amd-mi300x" in line for line in lines[at - 3 : at])
    assert "(name, whether steps are compiled whole, float64 matmul)" in " ".join(text.split())


def test_the_legend_says_which_runs_the_error_is_of_and_what_none_of_the_chip_s_are_like(answer):
    text = " ".join(shown(answer).split())
    of_all = r"error of \d+ published runs \(dense in 16 bit\) on chips of every kind; of the \d+ on this chip none is in 16 bit, none on one chip"
    assert re.search(rf"mi300x -> amd-mi300x \(AMD Instinct MI300X, grade B\) {of_all}", text)
    called = tuple(
        replace(one, step_kind="call", compared=end_to_end(one.chip, does=CALLS)) for one in answer.forecasts
    )
    text = " ".join(shown(replace(answer, forecasts=called)).split())
    # none such on H100, whose A comes of training alone
    assert (
        "(NVIDIA H100 SXM5 80GB, grade A by training) error of 149 published runs that generate text (dense) on chips of every kind; none that generate text on this"
        in text
    )
    # all of Gaudi 3's took longer
    beside = tuple(replace(one, compared=end_to_end("intel-gaudi3", does=CALLS)) for one in called)
    assert "; those of this chip took 1.2 times as long" in " ".join(shown(replace(answer, forecasts=beside)).split())


def test_an_error_bar_says_why_it_is_as_wide_the_most_first():
    """A bar of 63% said nothing of whether the runs, the host, the chip's file or the program made it so."""
    x = TensorMeta((4, 64), (64, 1), "bfloat16")
    small = Program(
        tape=np.array([word(Kind.OP, 0)] * 200, dtype=np.int64), ops=[Op("aten.relu.default", (x,), outputs=(x,))],
        block_bytes=np.array([1], dtype=np.int64), meta={"argv": ["t.py"]},
    )  # fmt: skip
    paced = api.forecast(small, on=["h100", "hygon-k100-ai"])
    h100, k100 = paced.forecasts
    for one in paced.forecasts:
        parts = list(one.error_parts.values())
        assert parts == sorted(parts, reverse=True)
        assert sum(part**2 for part in parts) == pytest.approx(one.step_time_error**2)
    # runs of other programs raised its grade: "grade C" beside "grade A" was of no help
    assert not [reason for reason in h100.error_parts if "grade" in reason]
    assert next(iter(h100.error_parts)) == "its host's time"
    assert "a data sheet alone (grade D)" in k100.error_parts
    assert "a data sheet alone (grade D)" not in h100.error_parts
    text = " ".join(shown(paced, 100).split())
    assert f"h100: +-{units.share(h100.step_time_error)}: its host's time" in text
    assert as_json.to_json(paced)["targets"][0]["error_parts"][0]["reason"] == "its host's time"


def test_a_peak_that_nobody_states_is_named_where_its_share_would_stand(answer):
    """A dash stood there: of products in fp32 on a chip whose maker states bf16 alone."""
    h100 = replace(answer.forecasts[0], peak_flop_per_s=None)
    text = shown(replace(answer, forecasts=(h100, *answer.forecasts[1:])))
    assert f"no {h100.matrix_dtype} peak" in text


def test_figures_that_rest_on_a_marked_time_are_marked(answer):
    """The step's time alone was, and tokens/s, MFU and energy of the same chip were not."""
    gaudi3, *_ = api.forecast(answer.programs[0], on="gaudi3").forecasts
    known = replace(gaudi3, tokens_per_step=8192.0, usd_per_hour=2.0)
    text = shown(replace(answer, forecasts=(answer.forecasts[0], known, *answer.forecasts[2:])))
    marked = {line.strip().split("  ")[0] for line in text.splitlines() if line.count(" *") == 1}
    assert marked >= {"step time", "tokens/s", "MFU", "energy/step, max", "USD/1000 steps", "/million tokens"}


def test_several_numbers_of_a_chip_show_all_tokens_what_a_million_costs_and_how_it_scales(answer):
    small, large = (
        replace(answer.forecasts[0], num_chips=chips, step_time_s=1.0, tokens_per_step=tokens, usd_per_hour=9.0)
        for chips, tokens in ((8, 8000.0), (64, 51200.0))
    )
    several = replace(answer, forecasts=(small, large, *answer.forecasts[2:]), names=("h100:8", "h100:64", *FOUR[2:]))
    # 51200 / 64 = 800 against 8000 / 8 = 1000 of each chip; 8 x 9 / 3600 / 8000 = 2.5e-6 and 64 x 9 / 3600 / 51200 = 3.125e-6 USD
    assert several.scaling == (1.0, 0.8, None, None)
    rows = {line.strip().split("  ")[0]: line.split() for line in shown(several, width=100).splitlines()}
    assert rows["scaling"][1:] == ["100%", "80%", "-", "-"]
    assert rows["tokens/s"][1:3] == ["8,000", "51,200"]
    assert rows["tokens/s a chip"][3:5] == ["1,000", "800"]
    assert rows["/million tokens"][2:4] == ["2.50", "3.12"]
    first, second, *_ = as_json.to_json(several)["targets"]
    assert (second["scaling"], second["tokens_per_s"]) == (0.8, 51200.0)
    assert (first["usd_per_million_tokens"], second["usd_per_million_tokens"]) == pytest.approx((2.5, 3.125))
    assert "scaling" not in shown(answer)  # one number of each


def test_a_job_scales_from_the_smallest_of_its_own_cluster(answer):
    """The second of two clusters of eight chips was shown as 80% of the first, and a larger one in it, too."""
    jobs = [("a", 8, 8000.0), ("b", 8, 6400.0), ("b", 64, 40960.0), ("c", 64, 40000.0)]
    forecasts = [
        replace(answer.forecasts[0], cluster=cluster, num_chips=chips, step_time_s=1.0, tokens_per_step=tokens)
        for cluster, chips, tokens in jobs
    ]
    # 40960 / 64 = 640 of 6400 / 8 = 800; in c there is no smaller one: 625 of the first's 1000
    assert replace(answer, forecasts=tuple(forecasts)).scaling == (1.0, 1.0, 0.8, 0.625)


def test_an_operation_that_is_not_among_a_target_s_top_ones_is_shown_there_too(answer):
    """It stood there as "-", as if it did not run."""
    first, second, *others = answer.forecasts
    one, *late = second.all_ops
    own = [replace(one, name=f"aten.own{number}.default", time_s=0.0, share=0.0) for number in range(TOP_OPS)]
    few = replace(second, all_ops=(one, *own, *late))
    assert {op.name for op in few.top_ops}.isdisjoint(op.name for op in late)
    text = shown(replace(answer, forecasts=(first, few, *others)))
    table = text[text.index("top operations") :].split("\n\n")[0]
    rows = [line.split() for line in table.splitlines() if late[0].name.removeprefix("aten.").split(".")[0] in line]
    assert len(rows) == 1
    assert "-" not in rows[0]


def test_shapes_that_each_call_has_of_its_own_are_one_row_where_targets_are_told_by_other_calls(answer):
    """One chip's `cat` was that of the call which is told, another's a thirtieth of it: a mean over calls, of which each has another shape."""
    first, second, *_ = answer.forecasts
    one = first.all_ops[0]

    def ops(*counts):
        cats = [
            replace(one, name="aten.cat", shape=f"4x{5 + i}", count=n, time_s=n * 1e-3, share=n / 100)
            for i, n in enumerate(counts)
        ]
        return (replace(one, name="aten.own", shape="8x8", count=16, time_s=1e-3, share=0.3), *cats)

    told = replace(first, all_ops=ops(32), told=slice(3, 4))
    mean = replace(second, all_ops=ops(16, 8, 8))
    table = shown(replace(answer, forecasts=(told, mean, *answer.forecasts[2:]))).split("top operations")[1]
    rows = [" ".join(line.split()) for line in table.splitlines() if line.startswith(("cat", "own 8x8"))]
    assert [row.removesuffix(" - -") for row in rows] == [
        "cat of several shapes 32 32.0 ms 32.0 ms",
        "own 8x8 16 1.00 ms 1.00 ms",
    ]


def test_values_that_the_program_read_are_counted_with_their_lines(answer):
    # one READ word in each step of the recording, at train.py:12
    assert "values read from the chip: 1 per step, at train.py:12 (1)" in shown(answer, width=200)
    none = replace(answer, forecasts=tuple(replace(f, values_read=()) for f in answer.forecasts))
    assert "values read" not in shown(none)


def test_memory_by_module_names_the_largest(answer):
    first = replace(
        answer.forecasts[0], peak_memory_bytes=4 << 20, memory_by_module={"h.*.mlp": 3 << 20, "head": 1 << 20}
    )
    text = shown(replace(answer, forecasts=(first, *answer.forecasts[1:])), width=200)
    assert "memory at peak by module, h100: h.*.mlp 3.00 MiB, head 1.00 MiB" in text


@pytest.mark.parametrize(
    ("target", "shown_as"),
    [
        ("h100:8", "h100:8"),
        ("my/acme-one.toml", "acme-one"),
        ("../acme.toml:8@dgx-h100", "acme:8@dgx-h100"),
        ("acme.toml:8@my/rack.toml", "acme:8@rack"),
    ],
)
def test_a_chip_file_is_named_without_its_folder(target, shown_as):
    assert terminal.short_name(target) == shown_as


def test_a_chip_and_ones_own_copy_of_its_file_are_not_called_alike():
    """Both columns were headed nvidia-h100-sxm, and the lines of each rank and of memory by module named it."""
    own = ("nvidia-h100-sxm:8", "my/nvidia-h100-sxm.toml:8", "my/acme.toml:8")
    assert terminal.short_names(own) == (*own[:2], "acme:8")


def test_a_long_name_heads_its_column_broken_at_its_dashes(answer):
    """The path of a chip file was broken in the middle of words, and over more lines than the first figures."""
    names = ("/home/me/chips/acme-first-generation-pod.toml", *FOUR[1:])
    lines = shown(replace(answer, names=names)).splitlines()
    at = next(number for number, line in enumerate(lines) if line.split() == ["acme-first-"])
    assert lines[at + 1].split() == ["generation-pod", *FOUR[1:]]
    assert any(line.startswith("acme-first-generation-pod: ") for line in lines)
    assert any("/home/me/chips/acme-first-generation-pod.toml" in line for line in lines)


def test_a_time_that_compared_runs_did_not_reach_is_marked_beside_it(program):
    """It was told in the legend alone; the number stood there like any other."""
    found = api.forecast(program, on=["gaudi3", "h100"])
    text = shown(found).splitlines()
    (step,) = [line for line in text if line.startswith("step time")]
    (took,) = [line for line in text if line.startswith("  * runs took")]
    assert step.count("*") == 1
    assert step.split()[4] == "*"
    longer = found.forecasts[0].compared.longer
    assert took.split()[3:] == [f"{longer:.1f}", "x", "as", "long", "-"]
    first, second = as_json.to_json(found)["targets"]
    assert (first["runs_took"], second["runs_took"]) == (longer, None)
    assert "runs took" not in shown(api.forecast(program, on="h100"))


def test_targets_whose_rates_rest_on_unlike_evidence_say_on_what():
    """MI300X and MI325X are one silicon; the backward of attention took 135 ms on one and 79 on the other, and nothing said why."""
    q = TensorMeta((8, 32, 4096, 128), (32 * 4096 * 128, 4096 * 128, 128, 1), "bfloat16")
    attention = Op("aten._scaled_dot_product_flash_attention_backward.default", (q, q, q, q, q), outputs=(q, q, q))
    program = Program(
        tape=np.array([word(Kind.OP, 0)] * 3, dtype=np.int64), ops=[attention],
        block_bytes=np.array([1], dtype=np.int64), meta={"argv": ["t.py"]},
    )  # fmt: skip
    text = shown(api.forecast(program, on=["h100", "mi300x", "mi325x"]), 200)
    assert (
        "- attention's backward: its own curve (h100); a rate from measurements along nvidia-h100-sxm's curve (mi300x); "
        "no measurement (mi325x)"
    ) in [line.strip() for line in text.splitlines()]
    assert "rates rest on" not in shown(api.forecast(program, on=["h100", "nvidia-h100-sxm"]), 200)


def test_a_step_that_the_host_holds_up_says_whose_host_that_is():
    """Decoding took 7 or 30 ms, by --host alone, and nothing said that it was a matter of the CPU. h100: 8 us an op and 4 a launch,
    1.5 more a product; GB200's Grace takes 22, 11 and 4.1."""
    x = TensorMeta((4, 64), (64, 1), "bfloat16")
    small = Program(
        tape=np.array([word(Kind.OP, 0)] * 200, dtype=np.int64), ops=[Op("aten.relu.default", (x,), outputs=(x,))],
        block_bytes=np.array([1], dtype=np.int64), meta={"argv": ["t.py"], "host": "modelled"},
    )  # fmt: skip
    answer = api.forecast(small, on=["h100", "gb200", "tpu-v5p"])
    (line,) = [line for line in shown(answer, 400).splitlines() if line.startswith("bound by the host")]
    assert "h100: 12.0 us an operation with its launch, 1.50 us more a product, as a Xeon 8480C;" in line
    assert "gb200: 33.0 us an operation with its launch, 4.10 us more a product, as a Grace. " in line
    assert "tpu-v5p" not in line  # it compiles the whole step
    small.meta["host"] = "measured"
    assert "h100, gb200: as it passed on this machine" in shown(api.forecast(small, on=["h100", "gb200"]), 400)


def test_a_step_that_the_chip_takes_says_nothing_of_the_hosts_cpu():
    x = TensorMeta((4096, 4096), (4096, 1), "bfloat16")
    big = Program(
        tape=np.array([word(Kind.OP, 0)] * 3, dtype=np.int64), ops=[Op("aten.mm.default", (x, x), outputs=(x,))],
        block_bytes=np.array([1], dtype=np.int64), meta={"argv": ["t.py"]},
    )  # fmt: skip
    assert "bound by the host" not in shown(api.forecast(big, on="h100"))


def test_costs_of_generated_text_say_whether_of_output_or_prompt(answer):
    """4096 tokens of a prompt in 1 ms at 1.99 an hour: 1.99 / 3600 * 1e-3 / 4096 * 1e6 = 0.000135 a million."""
    forecasts = tuple(
        replace(f, step_kind="call", tokens_per_step=4.0, samples_per_step=4.0, first_step_s=1e-3, prompt_tokens=4096.0)
        for f in answer.forecasts
    )  # fmt: skip
    lines = shown(replace(answer, forecasts=forecasts)).splitlines()
    assert [line.split()[2] for line in lines if line.startswith("  /million output")]
    assert [line.split()[2] for line in lines if line.startswith("  /million prompt")] == ["0.000135"]
    assert any("prompt of the first call and the 4,096 that it reads" in line for line in " ".join(lines).split("  "))
    assert "/million tokens" not in "".join(lines)
    unlike = (replace(forecasts[0], prompt_tokens=8192.0), *forecasts[1:])
    assert "prompt of the first call and those that it reads" in " ".join(
        shown(replace(answer, forecasts=unlike)).split()
    )


def test_crumbs_of_time_are_not_shown(answer):
    """Copies of 6 us in a step of 37 ms on one of four chips were a row."""
    phases = {
        "other": 0.0,
        "forward": 1.0,
        "backward": 2e-3,
        "optimizer": 0.0,
        "no_gradients": 0.5,
        "host_copies": 5e-4,
    }
    forecasts = tuple(replace(f, step_time_s=1.0, time_by_phase_s=phases) for f in answer.forecasts)
    text = shown(replace(answer, forecasts=forecasts))
    assert "no-grad calls" in text
    assert "  backward" in text
    assert "host copies" not in text
    # Of a step that sleeps for an hour the chip's second and a half is as much news: all of it was gone.
    slow = tuple(replace(f, step_time_s=3600.0) for f in forecasts)
    assert "  backward" in shown(replace(answer, forecasts=slow))


def test_a_part_that_shows_as_nothing_has_no_row(answer):
    """What sums of floats left was a row of "0 ns" on every target, under a heading of its own."""
    (first, *others) = answer.forecasts
    crumb = replace(first, breakdown_s={**first.breakdown_s, "bubble": 1e-13})
    text = shown(replace(answer, forecasts=(crumb, *others)))
    assert "other ranks" not in text
    assert "other ranks" in shown(
        replace(answer, forecasts=(replace(crumb, breakdown_s={**first.breakdown_s, "bubble": 1e-3}), *others))
    )
