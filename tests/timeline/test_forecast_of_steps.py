"""What a forecast says of steps: their time, its error, what limits it and what is told beside it, on tapes written by hand."""

from dataclasses import replace
from itertools import chain

import pytest

from anychip.caveats.targets import uneven
from anychip.cost.machine import machine
from anychip.cost.rates import defaults
from anychip.figures import Window, has_frozen_weights, is_compiled, issued_s, limit_of, shape_text
from anychip.figures.error import of_size, of_waiting
from anychip.forecast import forecast
from anychip.places import places_of
from anychip.spec import load_chip
from anychip.spec.cluster import list_wires
from anychip.spec.validated import errors
from anychip.timeline.price import price
from tests.timeline.tapes import BACKWARD, FORWARD, INFER, OPS, Kind, Mark, add, mark, mm, optimizer, program, t, w
from tests.timeline.tapes import op as made

M = Mark


def test_a_forecast_of_steps_by_hand():
    """Two steps of three ops on an A100, launch-bound: 12 us of host time an op, 1.5 more for each of two products, 39 us a step; the
    first step is left out."""
    tape = program(chain.from_iterable([FORWARD, BACKWARD, optimizer()] * 3), OPS)
    result = forecast(tape, load_chip("a100"))
    assert (result.steps, result.step_kind, len(result.step_times_s)) == (3, "train", 2)
    assert result.step_time_s == pytest.approx(39e-6, rel=0.02)
    # 2 * 512^3 + 2 * 1024 * 512^2
    assert result.model_flop_per_step == 2 * 512**3 + 2 * 1024 * 512**2
    assert result.mfu == pytest.approx(result.model_flop_per_step / result.step_time_s / 312e12)
    assert sum(result.breakdown_s.values()) == pytest.approx(result.step_time_s)
    assert sum(result.evidence.values()) == pytest.approx(1.0)
    assert result.limit.startswith("The host")


def test_what_is_done_once_after_the_first_step_is_in_none():
    """A sample of twenty calls, as programs take it at the first step and then once in hundreds; it is told."""
    step = [*FORWARD, *BACKWARD, *optimizer()]
    plain, sampled = (
        forecast(program([*step, *between, *step * 3], OPS), load_chip("a100")) for between in ([], INFER * 20)
    )
    assert sampled.step_times_s == pytest.approx(plain.step_times_s[1:])
    for figure in ("step_time_s", "model_flop_per_step", "kernels_per_step", "time_by_phase_s"):
        assert getattr(sampled, figure) == pytest.approx(getattr(plain, figure)), figure
    assert [op.count for op in sampled.top_ops] == [op.count for op in plain.top_ops]
    assert any("The second step took" in text for text in sampled.warnings)
    assert plain.warnings == ()


def test_steps_that_mostly_evaluate_are_told():
    """A speed run warms up with a validation in each step."""

    def told(calls):
        step = [*INFER * calls, *FORWARD, *BACKWARD, *optimizer()]
        return [
            text for text in forecast(program(step * 3, OPS), load_chip("a100")).warnings if "without gradients" in text
        ]

    assert len(told(4)) == 1
    assert told(1) == []


def test_what_is_played_before_training_is_told():
    """An agent's rollout of 128 calls came before its first update, and its cost was nowhere."""
    steps_alone = [*FORWARD, *BACKWARD, *optimizer()] * 3

    def told(calls):
        result = forecast(program([*INFER * calls, *steps_alone], OPS), load_chip("a100"))
        return [text for text in result.warnings if "Before its first step" in text], result.step_time_s

    assert "128 times without gradients" in told(128)[0][0]
    assert told(1) == ([], pytest.approx(told(128)[1]))


@pytest.mark.parametrize("order", ["LSLS", "LSS", "LL", "SLL"])
def test_longer_steps_that_come_again_are_not_left_out(order):
    short = [*FORWARD, *BACKWARD, *optimizer()]
    words = chain.from_iterable([*INFER * 20 * (one == "L"), *short] for one in order)
    result = forecast(program([*short, *words], OPS), load_chip("a100"))
    assert (len(result.step_times_s) == len(order)) == (order != "LSS")


@pytest.mark.parametrize(
    ("order", "mean"),
    [("SSSLSSSL", True), ("LSSSLSSSLSSS", True), ("SLSSSLSSSLSSS", True), ("SSSLSSS", False), ("SSLLLSS", False)],
)
def test_of_whole_rounds_of_unlike_steps_the_mean_is_told(order, mean):
    """What is done in every fourth step was in no figure whatever --steps was, and operations were 148% of the step."""
    short = [*FORWARD, *BACKWARD, *optimizer()]
    words = chain.from_iterable([*FORWARD * 20 * (one == "L"), *short] for one in order)
    result = forecast(program([*short, *words], OPS), load_chip("a100"))
    times = result.step_times_s
    if mean:
        assert result.step_time_s == pytest.approx(sum(times[-4:]) / 4)
        assert result.uneven == ""
    else:
        assert result.step_time_s in times
    assert sum(result.breakdown_s.values()) == pytest.approx(result.step_time_s)
    assert sum(result.time_by_phase_s.values()) <= result.step_time_s
    assert sum(op.time_s for op in result.all_ops) <= result.step_time_s


@pytest.mark.parametrize(
    ("order", "told"),
    [("SSSLSSSXSSSL", 12), ("XSSSLSSSLSSSL", 12), ("SSSLSSSXSS", 8), ("SSXSSLSSSS", 0), ("SSSSSSXS", 0)],
)
def test_what_is_longer_still_once_in_several_rounds_leaves_them_rounds(order, told):
    """StyleGAN's two regularisers, of each 4th step and of each 16th: neither was in any figure, steps were 43% too short."""
    short = [*FORWARD, *BACKWARD, *optimizer()]
    longer = {"S": 0, "L": 20, "X": 60}
    words = chain.from_iterable([*FORWARD * longer[one], *short] for one in order)
    result = forecast(program([*short, *words], OPS), load_chip("a100"))
    times = result.step_times_s
    assert result.step_time_s == pytest.approx(sum(times[-told:]) / told if told else sorted(times)[len(times) // 2])


def test_where_no_step_is_usual_the_mean_of_all_is_told_in_whatever_order():
    short = [*FORWARD, *BACKWARD, *optimizer()]

    def told(order):
        words = chain.from_iterable([*FORWARD * 20 * (one == "L"), *short] for one in order)
        return forecast(program([*short, *words], OPS), load_chip("a100"))

    one, other = told("SSLL"), told("LLSS")
    assert one.step_time_s == pytest.approx(other.step_time_s) == pytest.approx(sum(one.step_times_s) / 4)
    assert sum(one.breakdown_s.values()) == pytest.approx(one.step_time_s)


def test_tokens_are_those_of_the_steps_that_are_told():
    """The time was of whole rounds, and the tokens still the median step's: their rate was of nothing."""
    small, large = (
        made("aten.embedding.default", t(100, 8), t(1, n, dtype="int64"), out=t(1, n, 8)) for n in (64, 640)
    )
    q = t(1, 2, 64, 8)
    attends = made("aten._scaled_dot_product_flash_attention.default", q, q, q, out=q)
    ops = [*OPS, small, large, attends, mm(4096, 4096, 4096)]
    first = len(OPS)

    def step(kind):
        reads, times = (first, 1) if kind == "S" else (first + 1, 10)
        forward = [mark(M.FORWARD_BEGIN), w(Kind.OP, reads), w(Kind.OP, first + 2), *[w(Kind.OP, first + 3)] * times]
        return [*forward, mark(M.FORWARD_END), *BACKWARD, *optimizer()]

    found = forecast(program(chain.from_iterable(map(step, "SSSSLSSSL")), ops), load_chip("h100"))
    assert found.tokens_per_step == (3 * 64 + 640) / 4
    usual = forecast(program(chain.from_iterable(map(step, "SSSLSSS")), ops), load_chip("h100"))
    assert usual.tokens_per_step == 64


def test_a_prompt_among_calls_is_in_no_token_s_time():
    short, prompt = [*INFER], [mark(M.INFER_BEGIN), *[w(Kind.OP, 0)] * 40, mark(M.INFER_END)]
    words = chain.from_iterable(prompt if number % 4 == 0 else short for number in range(12))
    found = forecast(program(words, OPS), load_chip("a100"))
    assert found.step_time_s == pytest.approx(forecast(program(short * 4, OPS), load_chip("a100")).step_time_s)


@pytest.mark.parametrize(("extra", "left"), [(INFER * 20, 1), (FORWARD * 20, 2)])
def test_of_two_steps_the_first_is_left_out_for_an_evaluation_alone(extra, left):
    step = [*FORWARD, *BACKWARD, *optimizer()]
    result = forecast(program([*step, *extra, *step, *step], OPS), load_chip("a100"))
    assert len(result.step_times_s) == left


def test_a_chip_without_a_measured_product_has_a_wider_error():
    tape = program(chain.from_iterable([FORWARD, BACKWARD, optimizer()] * 3), [mm(8192, 8192, 8192)] * 3)
    known, unknown = (forecast(tape, load_chip(name)) for name in ("a100", "nvidia-h20"))
    assert known.step_time_error < 0.2
    assert unknown.step_time_error > 0.3


@pytest.mark.parametrize(("op", "layers"), [
    (mm(512, 512, 512), "dense"),
    (made("aten.topk.default", t(4096, 128), 8, out=(t(4096, 8), t(4096, 8, dtype="int64"))), "experts"),
    (made("aten.topk.default", t(1, 128256), 8, out=(t(1, 8), t(1, 8, dtype="int64"))), "dense"),  # a token is drawn
    (made("custom.scan", t(64, 64), out=t(64, 64), products=((1, 64, 64, 64),)), "own kernels"),
])  # fmt: skip
def test_layers_are_told_by_what_they_launch(op, layers):
    """Their error is that of published runs with such layers: wider for those that were forecast worse."""
    tape = program(chain.from_iterable([FORWARD, BACKWARD, optimizer()] * 3), [op, mm(4096, 512, 512), add(4096)])
    found = forecast(tape, load_chip("h100"))
    assert found.compared.layers == layers
    if layers != "dense":
        plain = forecast(program(chain.from_iterable([FORWARD, BACKWARD, optimizer()] * 3), OPS), load_chip("h100"))
        assert found.compared.sigma > plain.compared.sigma


def test_what_a_program_is_like_is_told_by_its_products():
    """The bar of a whole training was that of runs of adapters."""
    frozen = [mark(M.BACKWARD_BEGIN), w(Kind.OP, 0), mark(M.BACKWARD_END)]
    trains = program(chain.from_iterable([FORWARD, BACKWARD, optimizer()] * 3), OPS)
    adapts = program(chain.from_iterable([FORWARD, frozen, optimizer()] * 3), OPS)
    assert [has_frozen_weights(one) for one in (trains, adapts)] == [False, True]
    compiled = [w(Kind.COMPILED, 1), *BACKWARD, w(Kind.COMPILED, 0)]
    some = program(chain.from_iterable([compiled, FORWARD, FORWARD, FORWARD, optimizer()] * 3), OPS)
    most = program(chain.from_iterable([FORWARD, compiled, optimizer()] * 3), OPS)
    assert [is_compiled(one) for one in (trains, some, most)] == [False, False, True]
    chip = load_chip("mi300x")
    assert forecast(trains, chip).compared.lacks == ("without frozen weights", "in 16 bit", "on one chip")
    assert forecast(adapts, chip).compared.lacks == ("in 16 bit", "on one chip")


def test_the_best_classes_of_a_metric_are_no_experts():
    """A network with an accuracy of the best five, or a model that had drawn a token, had the error bar of models with experts."""
    best = made("aten.topk.default", t(256, 1000), 5, out=(t(256, 5), t(256, 5, dtype="int64")))
    ops = [*OPS, best]
    step = [FORWARD, [w(Kind.OP, len(OPS))], BACKWARD, optimizer()]
    assert forecast(program(chain.from_iterable(step * 3), ops), load_chip("h100")).compared.layers == "dense"


def test_what_convolves_is_like_no_published_run():
    """Of which all multiply matrices: the bar of a network of convolutions is what its operations' times rest on."""
    x, weight = t(32, 64, 56, 56), t(64, 64, 3, 3)
    conv = made("aten.convolution.default", x, weight, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, out=x)
    tape = program(chain.from_iterable([FORWARD, BACKWARD, optimizer()] * 3), [conv] * 3)
    found = forecast(tape, load_chip("h100"))
    assert found.compared is None
    assert 0.05 < found.step_time_error < 0.5


STEPS = list(chain.from_iterable([FORWARD, BACKWARD, optimizer()] * 3))


def scatter(rows):
    x, at = t(rows, 64, dtype="float32"), t(rows, dtype="int64")
    return made("aten.index_add_.default", x, 0, at, x, mutates=(0,))


def test_a_host_that_is_almost_too_slow_widens_the_bar():
    """Eager decoding: the chip took 9.98 ms, the host nearly as long to issue it, and the bar was that of runs which the chip limits."""

    def error(size):
        found = forecast(program(chain.from_iterable([INFER] * 4), [mm(1, size, size)]), load_chip("h100"))
        return found.breakdown_s["host"] / found.step_time_s, found.step_time_error

    (hidden, near), (none, far) = error(4096), error(20480)
    assert max(hidden, none) < 0.05
    assert near > far + 0.02


def test_a_job_larger_than_any_that_was_compared_has_a_wider_bar():
    """At the same 8% a job of 16,384 MI300X stood beside one of 16,384 H100, of which so many were compared."""
    assert of_size(512, 512, exposed=0.3) == []
    known = errors()
    network, doubling = known["network", ""], known["doubling", "2048"]
    assert of_size(1024, 512, exposed=0.3) == [0.3 * network, 0]
    assert of_size(16384, 32, exposed=0.3) == pytest.approx([0.3 * network, 3 * doubling])
    # of two doublings beyond its own largest
    assert of_size(16384, 4096, exposed=0.0) == pytest.approx([0, 2 * doubling])


def test_a_step_that_mostly_waits_for_its_network_has_a_wider_bar():
    """16,384 chips with 59% of a step in collectives alone had 8%, as runs of that size with 15%."""
    assert of_waiting(0.1) == of_waiting(0.25) == 0
    assert of_waiting(0.59) > 0.3


def test_a_package_of_several_devices_is_told():
    """110 GiB "fit" on an Ascend 910C, of which a program sees two devices of 61."""
    ops = [mm(512, 512, 512), mm(512, 512, 512), add(8)]
    package, die, chip = (
        forecast(program(STEPS, ops), load_chip(name)).warnings for name in ("910c", "910c-die", "h100")
    )
    assert any("Drivers show 2 devices in it" in one and "--on huawei-ascend-910c-die" in one for one in package)
    assert not any("Drivers show" in one for one in (*die, *chip))
    # of no device of it is there a file
    assert any("No file" in one for one in forecast(program(STEPS, ops), load_chip("trainium1")).warnings)


def test_what_takes_most_of_the_time_is_told_by_time():
    """An LSTM's 4 MFLOP of products a time step take longer than a head of more FLOP; so do a graph's scatters, which have none."""
    x, w_in, w_back, bias = t(128, 32, 256), t(2048, 256), t(2048, 512), t(2048)
    lstm = made("aten._cudnn_rnn.default", x, (w_in, w_back, bias, bias), 4, None, None, None, 2, 512, 0, 1, False,
                out=t(128, 32, 512))  # fmt: skip
    head = mm(4096, 4096, 512)
    for ops, most in (([scatter(1_000_000), mm(100_000, 256, 256), add(8)], 0.45), ([lstm, head, add(8)], 0.55)):
        found = forecast(program(STEPS, ops), load_chip("h100"))
        assert found.compared is None
        # 0.34 of what no run was compared of, and the chip's grade is by its kernels alone; the LSTM's launches take the host as long
        assert 0.2 < found.step_time_error < most


def test_the_bar_of_runs_is_for_the_share_that_is_like_them():
    plain, mixed = (forecast(program(STEPS, [mm(8192, 8192, 8192), mm(8192, 8192, 8192), last]), load_chip("h100"))
                    for last in (add(8), scatter(1_000_000)))  # fmt: skip
    assert plain.compared == mixed.compared
    share = 1 - plain.step_time_s / mixed.step_time_s
    assert 0.05 < share < 0.5
    # sqrt((0.08 * (1 - share))**2 + (0.34 * share)**2)
    sigma = ((plain.step_time_error * (1 - share)) ** 2 + (0.34 * share) ** 2) ** 0.5
    assert mixed.step_time_error == pytest.approx(sigma, rel=0.1)


def test_the_first_call_is_told_apart():
    prompt = [mark(Mark.INFER_BEGIN), *[w(Kind.OP, 0)] * 10, mark(Mark.INFER_END)]
    token = [mark(Mark.INFER_BEGIN), w(Kind.OP, 0), mark(Mark.INFER_END)]
    found = forecast(program([*prompt, *token, *token, *token], [mm(8192, 8192, 8192)]), load_chip("h100"))
    assert found.first_step_s == pytest.approx(10 * found.step_time_s, rel=0.01)
    assert forecast(program(token, [mm(8192, 8192, 8192)]), load_chip("h100")).first_step_s is None


def test_operations_whose_shape_each_call_has_anew_are_one():
    """A growing cache is copied for each token in another shape: the largest operation of all stood among the others, in as many parts."""
    caches = [made("aten.cat.default", (t(4, 2**20), t(4, n)), out=t(4, 2**20 + n)) for n in range(1, 6)]
    calls = [(mark(Mark.INFER_BEGIN), w(Kind.OP, 0), *[w(Kind.OP, n)] * 2, mark(Mark.INFER_END)) for n in range(1, 6)]
    found = forecast(program(list(chain.from_iterable(calls)), [mm(512, 512, 512), *caches]), load_chip("h100"))
    assert [(op.name, op.count) for op in found.top_ops] == [("aten.cat", 2), ("aten.mm", 1)]
    assert found.top_ops[0].shape == "of several shapes"


def test_a_prompt_has_a_price_of_its_own():
    """USD per million tokens were of those that are written; the 2 x 512 of the prompt were in no figure."""
    table = t(32000, 1024)
    ops = [
        made("aten.embedding.default", table, t(2, length, dtype="int64"), out=t(2, length, 1024))
        for length in (512, 1)
    ]

    def of(*calls):
        words = [(mark(Mark.INFER_BEGIN), w(Kind.OP, reads), w(Kind.OP, 2), mark(Mark.INFER_END)) for reads in calls]
        return forecast(
            program([word for call in words for word in call], [*ops, mm(8192, 8192, 8192)]), load_chip("h100")
        )

    found = of(0, 1, 1)
    assert (found.tokens_per_step, found.prompt_tokens) == (2, 2 * 512)
    first_usd = found.first_step_s * found.usd_per_hour / 3600
    assert found.usd_per_million_prompt_tokens == pytest.approx(first_usd / 1024 * 1e6)
    alike = of(0, 0, 0)
    assert (alike.reads_prompts, alike.prompt_tokens, alike.usd_per_million_prompt_tokens) == (True, None, None)


def test_a_link_to_the_host_that_nobody_states_is_an_ordinary_one_and_told():
    """Trainium1's copies ran at half of its memory's rate, 227 GB/s."""
    x = t(65536, 1024, dtype="float32")
    copied = made("aten._to_copy.default", t(65536, 1024, dtype="float32", on_chip=False), out=x)
    tape = program(STEPS, [copied, mm(512, 512, 512), add(4096)])
    stated, unknown = (forecast(tape, load_chip(name)) for name in ("h100", "trainium1"))
    assert unknown.step_time_s > x.nbytes / 16e9 > stated.step_time_s
    (told,) = [text for text in unknown.warnings if "link to the host" in text]
    assert told.startswith("aws-trainium1: the rate of its link to the host is unknown.")
    assert told.endswith("priced at 13.6 GB/s: PCIe 3.0 x16, the slowest of the standard's host links.")
    assert not any("link to the host" in text for text in stated.warnings)
    assert unknown.step_time_error > 0.6 > stated.step_time_error > 0.3
    # what copies next to nothing is not bothered with it
    plain = forecast(program(STEPS, OPS), load_chip("trainium1"))
    assert not any("link to the host" in text for text in plain.warnings)


def test_a_link_of_unknown_rate_has_its_wires():
    assert (
        machine(load_chip("cambricon-mlu590").with_figures({"memory.main.bandwidth": 1e12})).host_link_assumed
        == "PCIe 5.0 x16"
    )
    assert machine(load_chip("apple-m4-max")).host_link_assumed == ""
    assert defaults().need("host_link.unknown").value == min(
        wire.link_bytes_per_s for wire in list_wires() if wire.raw["role"] == "host"
    )


def test_what_limits_a_step_has_the_numbers_of_the_table():
    """It said that the host limits a step, 15% of it, beside a table in which launches take five times as much."""
    parts = {"compute": 36e-6, "memory_bound": 301e-6, "exposed_comm": 0.0, "bubble": 0.0, "host": 61e-6}
    said = limit_of(parts, 398e-6, (), 74, host_s=384e-6)
    assert said.startswith("The host: it issues kernels for 384 us of the step, 74 of them.")
    assert "takes 301 us for memory and launches in the meantime and waits 61.0 us" in said
    assert limit_of(parts, 398e-6, (), 74, host_s=200e-6).startswith("Memory: 76% of the step")


def test_a_step_that_sleeps_is_not_told_to_launch_less():
    """A program that waits for 50 ms in each step was said to be held up by its 14 kernels, which a compiler would mend."""
    parts = {"compute": 3.6e-3, "memory_bound": 0.2e-3, "exposed_comm": 0.0, "bubble": 0.0, "host": 46.4e-3}
    said = limit_of(parts, 50.1e-3, (), 14, host_s=80e-6, own_s=50e-3)
    assert said == (
        "The host: the chip waits for it 93% of the step. The program sleeps or works there for 50.0 ms of it without the chip; "
        "its 14 kernels take the host 80.0 us."
    )
    assert "larger batches" in limit_of(parts, 50.1e-3, (), 14, host_s=30e-3, own_s=20e-3)


def test_the_host_issues_a_compiled_region_at_its_launches_alone():
    """A step of 398 us was said to take the host 662."""
    ops = [mm(512, 512, 512)] * 3
    calls = [w(Kind.OP, number) for number in range(3)]
    eager, compiled = (
        price(program(words, ops), load_chip("h100"))
        for words in (calls, [w(Kind.COMPILED, 1), *calls, w(Kind.COMPILED, 0)])
    )
    on = eager.prices.on
    assert issued_s(eager, Window.of(eager, [])) == pytest.approx(
        3 * (on.host_op_s + on.host_launch_s + on.host_product_s)
    )
    assert issued_s(compiled, Window.of(compiled, [])) == pytest.approx(3 * on.host_launch_s)


def test_an_op_on_single_numbers_says_so() -> None:
    assert shape_text(made("aten.mul.Tensor", t(dtype="float32"), 2.0, out=t(dtype="float32"))) == "scalar fp32"


def test_uneven_calls_are_not_told_of_steps():
    """An inference's warning advised --steps, which it has none of; of several targets it named one."""
    tape = program(chain.from_iterable([INFER, INFER * 20, INFER, INFER * 20]), OPS, meta={"argv": ["serve.py"]})
    h100, a100 = (replace(forecast(tape, load_chip(name)), step_kind="call") for name in ("h100", "a100"))
    h100, a100 = (
        replace(one, step_time_s=1.0, step_times_s=times)
        for one, times in ((h100, (1.0, 1.0, 9.0)), (a100, (1.0, 1.0, 1.0)))
    )
    (told,) = uneven(dict(zip(places_of(["h100", "a100"]), (h100, a100), strict=True)))
    assert told.startswith(
        "Calls took 1.00 s to 9.00 s, 3.67 s on average, on h100; much the same, on a100; times are of the median one."
    )
    assert "--calls takes in more" in told
    assert "--steps" not in told


def test_an_evaluation_and_a_checkpoint_in_a_step_have_rows_of_their_own():
    """They were part of the forward and of "other": a step that evaluates had a forward of three times its length."""
    x, held = (t(1 << 24, dtype="float32", on_chip=on_chip) for on_chip in (True, False))
    ops = [mm(4096, 4096, 4096), made("aten._to_copy.default", x, out=held)]
    trained = [
        mark(Mark.FORWARD_BEGIN),
        w(Kind.OP, 0),
        mark(Mark.FORWARD_END),
        mark(Mark.OPTIMIZER_BEGIN),
        mark(Mark.OPTIMIZER_END),
    ]
    evaluated = [mark(Mark.INFER_BEGIN), w(Kind.OP, 0), w(Kind.OP, 0), mark(Mark.INFER_END), w(Kind.OP, 1)]
    found = forecast(program([*trained, *evaluated] * 4, ops), load_chip("h100")).time_by_phase_s
    assert found["no_gradients"] == pytest.approx(2 * found["forward"])
    assert found["host_copies"] > 0
    assert found["other"] == 0
    called = forecast(program(evaluated[:4] * 4, ops), load_chip("h100")).time_by_phase_s
    assert (called["no_gradients"], called["forward"] > 0) == (
        0,
        True,
    )  # of a program that only calls a model it is what it does


@pytest.mark.parametrize(("second", "is_told"), [(0, True), (1, False)], ids=["both compute", "one moves bytes"])
def test_streams_that_want_the_same_are_told(second, is_told):
    """Two long products on two streams are priced as if each were alone: 80 TFLOP/s of a chip of 67."""
    ops = [mm(4096, 4096, 4096, dtype="float32"), add(1 << 28)]
    both = [w(Kind.STREAM, 1), w(Kind.OP, second), w(Kind.STREAM, 0), w(Kind.OP, 0), w(Kind.SYNC)]
    tape = program([w(Kind.SYNC), *FORWARD, *both, *BACKWARD, *optimizer()] * 3, [*ops, *OPS[2:]])
    told = [text for text in forecast(tape, load_chip("h100")).warnings if "several streams" in text]
    assert bool(told) == is_told


def test_what_an_optimizer_multiplies_is_no_work_of_the_model():
    """Muon orthogonalises its updates: 23 times the flop of the model in one program, and as many times its MFU. A closure's are its model's."""
    muon = [w(Kind.OPTIMIZER, 0), mark(Mark.OPTIMIZER_BEGIN), w(Kind.OP, 2), mark(Mark.OPTIMIZER_END)]
    closure = [*muon[:2], w(Kind.OP, 0), *BACKWARD, muon[-1]]
    ops = [mm(512, 512, 512), mm(1024, 512, 512), mm(2048, 512, 512)]
    found = forecast(program([*FORWARD, *BACKWARD, *muon] * 3, ops), load_chip("h100"))
    assert found.model_flop_per_step == 2 * (512 + 1024) * 512**2
    assert found.hfu == pytest.approx(found.mfu * 3584 / 1536)
    assert forecast(program(closure * 3, ops), load_chip("h100")).model_flop_per_step == 2 * (512 + 1024) * 512**2
