"""Published runs that generate text become two calls of a model each, and those become times."""

import json
from pathlib import Path

import pytest

from accuracy import validated
from accuracy.__main__ import main
from accuracy.reading.tables import Unable
from accuracy.recorder import Recorder
from accuracy.rows import join, read
from accuracy.runner import priced
from accuracy.serving import PHASES
from accuracy.serving.page import page
from accuracy.serving.plan import STEPS, plan
from accuracy.serving.result import Result, is_served, once, result_of
from anychip.record.steps import find_steps
from anychip.spec import load_chip

PUBLISHED = Path(__file__).parents[2] / "accuracy" / "published" / "inference.csv"
LLAMA = {
    "id": "x-001", "source_url": "https://example.org", "source_location": "table 1", "chip": "AWS Trainium1", "chips": "16",
    "framework": "Transformers NeuronX 2.18.0", "model": "meta-llama/Llama-2-7b", "params_b": "7", "dtype": "bf16", "tp": "32", "batch": "8",
    "concurrency": "", "input_len": "128", "output_len": "1024", "metric": "output_tokens_per_s", "value": "512", "unit": "tokens/s", "notes": "",
}  # fmt: skip
FIRST = {**LLAMA, "id": "x-002", "metric": "ttft_ms", "value": "50", "unit": "ms"}


def run_of(**changes):
    return join([{**LLAMA, **changes}])[0]


def test_a_run_is_a_call_that_reads_and_calls_that_write():
    (run,) = join([LLAMA, FIRST])
    found = plan(run)
    assert (found.chip, found.replica_chips, found.batch, found.prompt, found.new) == (
        "aws-trainium1",
        16,
        8,
        128,
        1024,
    )
    assert found.measured() == {"whole": 8 * 1024 / 512, "prompt": 0.05}
    assert found.seconds(0.05, 0.01) == {"prompt": 0.05, "token": 0.01, "whole": 0.05 + 1023 * 0.01}
    prompt, token = (" ".join(found.job(phase).argv) for phase in PHASES)
    assert "--seq 128" in prompt
    # what is there is read at the next power of two: 128 tokens at 256, 256 at 512, 512 at 1,024, 128 at 2,048
    assert f"--seen {(128 * 256 + 256 * 512 + 512 * 1024 + 128 * 2048) // 1024}" in token
    assert "--kv-heads 32" in token  # one for each core
    assert plan(run_of(tp="")).replica_chips == 16  # all chips, not all cores
    assert "--seen 640" in " ".join(
        plan(run_of(chip="Intel Gaudi 2", framework="optimum-habana", tp="16")).job("token").argv
    )


def test_a_chip_of_another_form_is_counted():
    row = {"framework": "vLLM", "tp": "1", "chips": "1"}
    near, own = (plan(run_of(chip=chip, **row)).filled for chip in ("A100 64GB", "A100 80GB"))
    assert ("chip" in near, "chip" in own) == (True, False)


VLLM = {"chip": "H100 SXM", "chips": "2", "tp": "1", "framework": "vLLM 0.6", "batch": "8", "unit": ""}


@pytest.mark.parametrize(("metric", "unit", "value", "told"), [
    ("TTFT (ms)", "", "40", {"prompt": 0.04}), ("median time to first token", "s", "0.04", {"prompt": 0.04}),
    ("1st token latency (ms)", "", "40", {"prompt": 0.04}), ("Mean ITL (ms)", "", "8", {"token": 0.008}), ("ms/token", "", "8", {"token": 0.008}),
    ("time per output token", "ms", "8", {"token": 0.008}), ("decode throughput", "tokens/s", "1000", {"token": 8 / 1000}),
    ("Prefill throughput (tok/s)", "", "20480", {"prompt": 8 * 128 / 20480}), ("tokens/s", "", "512", {"whole": 8 * 1024 / 512}),
    ("Throughput (out tok/s/GPU)", "", "256", {"whole": 8 * 1024 / (2 * 256)}), ("tokens_per_s_per_chip", "", "256", {"whole": 8 * 1024 / 512}),
    ("output_tokens_per_s", "tokens/s/GPU", "256", {"whole": 8 * 1024 / 512}), ("TPS/user", "", "100", {"whole": 1024 / 100}),
    ("total token throughput", "tokens/s", "512", {"whole": 8 * (1024 + 128) / 512}), ("Requests/s", "", "2", {"whole": 4}),
    ("e2e latency", "s", "9", {"whole": 9}), ("P99 TTFT (ms)", "", "40", {}),
])  # fmt: skip
def test_a_metric_of_written_text_is_read_however_it_is_called(metric, unit, value, told):
    """A rate of tokens was taken for that of a training where the row has lengths of what is read and written."""
    run = run_of(**{**VLLM, "metric": metric, "unit": unit, "value": value})
    assert is_served(run)
    assert plan(run).measured() == pytest.approx(told)


def test_of_a_server_that_has_one_request_at_a_time_the_first_token_is_the_prompt_s():
    first = {**VLLM, "batch": "", "chips": "1", "metric": "TTFT", "unit": "ms", "value": "40"}
    assert plan(run_of(**{**first, "concurrency": "1"})).measured() == {"prompt": 0.04}
    assert plan(run_of(**{**first, "concurrency": "8"})).measured() == {}


def test_a_whole_rate_is_what_is_compared_where_several_are_printed():
    rows = [
        {**LLAMA, **VLLM, "metric": name, "value": value}
        for name, value in [("total_tokens_per_s", "900"), ("output_tokens_per_s", "512")]
    ]
    (run,) = join(rows)
    assert plan(run).measured() == {"whole": 8 * 1024 / 512}


@pytest.mark.parametrize(("dtype", "options"), [
    ("float16", {"dtype": "bf16"}), ("half", {"dtype": "bf16"}), ("auto", {"dtype": "bf16"}), ("", {"dtype": "bf16"}), ("FP8 (E4M3)", {"dtype": "fp8"}),
    ("bf16 weights, FP8 KV cache", {"dtype": "bf16"}), ("INT8 weight-only", {"dtype": "bf16", "int8": True}), ("Q8_0", {"int8": True}), ("Q4_K_M", {"int4": True}), ("16-bit", {"dtype": "bf16"}),
])  # fmt: skip
def test_words_for_what_weights_are_in(dtype, options):
    assert options.items() <= plan(run_of(**{**VLLM, "dtype": dtype})).options.items()


def test_weights_are_multiplied_in_what_the_chip_has():
    kinds = {
        (chip, dtype): plan(run_of(**{**VLLM, "chip": chip, "dtype": dtype})).options
        for chip, dtype in [("V100", "fp16"), ("A100", "fp8")]
    }
    assert kinds["V100", "fp16"]["dtype"] == "fp16"
    assert (kinds["A100", "fp8"]["dtype"], kinds["A100", "fp8"]["int8"]) == ("bf16", True)
    with pytest.raises(Unable, match="w8a8"):
        plan(run_of(**{**VLLM, "dtype": "w8a8 int8"}))
    named = plan(run_of(**{**VLLM, "dtype": "", "model": "neuralmagic/Llama-2-7b-FP8"}))
    assert (named.options["dtype"], named.filled) == ("fp8", ())
    assert "dtype" in plan(run_of(**{**VLLM, "dtype": ""})).filled


def test_sequences_that_do_not_fill_the_replicas_evenly_are_as_many_as_on_the_fullest():
    assert plan(run_of(**{**VLLM, "batch": "9"})).options["micro_batch"] == 5


def test_of_a_call_alone_nobody_has_to_say_how_many_tokens_are_written():
    found = plan(run_of(**{**VLLM, "output_len": "", "metric": "ttft_ms", "value": "40"}))
    assert (found.prompt, found.new, found.filled) == (128, 1, ())
    with pytest.raises(Unable, match="output_len"):
        plan(run_of(**{**VLLM, "output_len": ""}))


def test_a_benchmark_of_one_sequence_that_says_nothing_else():
    found = plan(
        run_of(**{**VLLM, "chips": "1", "framework": "gpt-fast", "batch": "", "input_len": "", "output_len": ""})
    )
    assert (found.batch, found.prompt, found.new) == (1, 6, 200)
    assert {"batch", "input_len", "output_len"} <= {*found.filled}


@pytest.mark.parametrize(("changes", "reason"), [
    ({"input_len": ""}, "does not say input_len"), ({"batch": ""}, "how many sequences"), ({"model": "Mixtral 8x7B"}, "how many experts"),
    ({"model": "Nobody-7B"}, "nobody wrote down layers"), ({"dtype": "nvfp4"}, "dtype 'nvfp4'"), ({**VLLM, "model": "Mixtral 8x7B", "dtype": "int4"}, "fewer bits"), ({"tp": "6"}, "do not divide"),
    ({"notes": "fused speculative decoding"}, "a second model drafts"), ({"notes": "DO NOT USE"}, "marked DO NOT USE"),
    ({"chip": "Abacus"}, "no file in the standard"),
])  # fmt: skip
def test_what_cannot_be_expressed_has_a_reason(changes, reason):
    with pytest.raises(Unable, match=reason):
        plan(run_of(**changes))


def test_one_run_that_is_printed_twice_counts_once():
    twice = [LLAMA, {**LLAMA, "id": "x-003", "source_location": "table 2"}, {**LLAMA, "id": "x-004", "value": "600"}]
    assert [run.id for run in once(join(twice))] == ["x-001", "x-004"]


def test_published_runs_are_planned_or_have_a_reason():
    planned, reasons = 0, set()
    for run in once(read([PUBLISHED])):
        try:
            planned += bool(plan(run))
        except Unable as error:
            reasons.add(str(error))
    assert planned > 150
    assert all(reasons)


def times_of(recorder, **changes):
    found = plan(run_of(**changes))
    small = {**found.options, "layers": 2}
    jobs = [type(found)(**{**vars(found), "options": small}).job(phase) for phase in PHASES]
    programs = [recorder.program(job) for job in jobs]
    return programs, [priced(program, load_chip(found.chip)).time_s for program in programs]


def test_times_follow_from_the_bytes_of_weights_and_caches(tmp_path):
    """Two layers of Llama 2 7B on Gaudi 2, alone and by closed form: weights and caches over the memory's rate."""
    with Recorder(tmp_path) as recorder:
        gaudi = {"chip": "Intel Gaudi 2", "chips": "1", "tp": "1", "framework": "optimum-habana"}
        programs, (prompt_s, token_s) = times_of(recorder, batch="1", **gaudi)
        weights = 2 * (2 * (4 * 4096**2 + 3 * 4096 * 11008) + 32000 * 4096)
        rate = 0.8 * 2.46e12
        assert token_s == pytest.approx(weights / rate, rel=0.2)  # and some 90 us of small kernels
        assert prompt_s < 1.5 * token_s
        assert len(find_steps(programs[1])) == STEPS - 2  # the replays of one graph: what comes before is its warm-up
        _, (_, many_s) = times_of(recorder, batch="64", input_len="2048", **gaudi)
        caches = 2 * 2 * 64 * (2048 + 512) * 4096 * 2
        assert many_s - token_s == pytest.approx(caches / rate, rel=0.25)
        _, (_, low_s) = times_of(recorder, batch="64", input_len="2048", dtype="fp8", **gaudi)
        assert low_s < 0.62 * many_s


def test_experts_that_no_token_meets_are_not_read(tmp_path):
    """Two of Mixtral's layers on an H100: a sequence alone reads two experts of eight, thirty-two nearly all."""
    mixtral = {**VLLM, "model": "Mixtral-8x7B", "chips": "1", "dtype": "bf16"}
    found = plan(run_of(**{**mixtral, "batch": "1"}))
    prompt, token = (" ".join(found.job(phase).argv) for phase in PHASES)
    assert ("--experts 8" in prompt, "--experts 2" in token, "experts" in found.filled) == (True, True, True)
    # 8 * (1 - (6 / 8)**4) = 5.5
    assert "--experts 5" in " ".join(plan(run_of(**{**mixtral, "batch": "4"})).job("token").argv)
    assert "--expert-ffn 7168" in " ".join(plan(run_of(**{**mixtral, "tp": "2", "chips": "2"})).job("token").argv)
    with Recorder(tmp_path) as recorder:
        (_, (_, one_s)), (_, (_, many_s)) = (times_of(recorder, **{**mixtral, "batch": batch}) for batch in ("1", "32"))
    expert = 3 * 4096 * 14336 * 2
    assert many_s - one_s == pytest.approx(2 * 6 * expert / 2.9e12, rel=0.3)


def test_weights_of_four_bits_are_a_quarter_to_read(tmp_path):
    llama = {**VLLM, "chips": "1", "batch": "1"}
    with Recorder(tmp_path) as recorder:
        (_, (_, wide_s)), (_, (_, narrow_s)) = (
            times_of(recorder, **{**llama, "dtype": dtype}) for dtype in ("bf16", "AWQ 4-bit")
        )
    weights = 2 * 2 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert wide_s - narrow_s == pytest.approx(0.75 * weights / 2.9e12, rel=0.4)


def test_a_page_lists_every_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ANYCHIP_ACCURACY_CACHE", str(tmp_path))
    rows = tmp_path / "rows.csv"
    rows.write_text("id,chip,metric,value\nx,y,ttft_ms,1\n", encoding="utf-8")
    assert main(["--rows", str(rows), "--page", str(tmp_path / "page.md"), "--json", str(tmp_path / "out.json")]) == 1
    assert "| x |" in (tmp_path / "page.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["rows"][0]["reason"]
    assert main(["--rows", str(tmp_path / "none.csv")]) == 2
    capsys.readouterr()


def test_runs_of_both_kinds_share_a_page_and_no_file_of_errors(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ANYCHIP_ACCURACY_CACHE", str(tmp_path))
    rows, page_ = tmp_path / "rows.csv", tmp_path / "page.md"
    rows.write_text("id,chip,metric,value\nx,y,ttft_ms,1\nz,w,step_time_s,1\n", encoding="utf-8")
    assert main(["--rows", str(rows), "--page", str(page_)]) == 1
    titles = [line for line in page_.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
    assert titles == ["# Accuracy: published runs", "# Accuracy: published runs that generate text"]
    assert main(["--rows", str(rows), "--validated", str(tmp_path / "errors.csv")]) == 2
    assert "files of their own" in capsys.readouterr().err


def test_errors_are_of_all_that_is_written():
    (run,) = join([LLAMA, FIRST])
    found = plan(run)
    result = Result(run, found, dict(found.measured()), {"prompt": 0.1, "token": 0.01, "whole": 8.0})
    assert (result.error("whole"), result.error("prompt"), result.error("token")) == (-0.5, 1.0, None)
    assert "-50%" in page([result])
    lines = validated.written(validated.called([result] * 3)).splitlines()
    assert lines[1:] == [
        "aws-trainium1,Transformers NeuronX,dense,,,,,,,3,0.5000,-0.5000,16,",
        "aws-trainium1,Transformers NeuronX,dense,,,,,,of prompts alone,3,1.0000,+1.0000,16,",
    ]
    assert validated.called([result]) == []  # of two or fewer nothing follows


def test_a_row_that_fails_ends_no_table(tmp_path):
    """A chip whose memory nobody states, and columns that are no sizes."""
    with Recorder(tmp_path) as recorder:
        for changes in ({"chip": "Cambricon MLU590"}, {"input_len": "-5"}, {"chips": "-1"}):
            found = result_of(run_of(**changes), recorder)
            assert found.reason
            assert found.forecast == {}


def test_one_command_takes_runs_of_both_kinds(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ANYCHIP_ACCURACY_CACHE", str(tmp_path))
    rows, out = tmp_path / "rows.csv", tmp_path / "out.json"
    rows.write_text(
        "\n".join([",".join(LLAMA), ",".join(LLAMA.values()), ",".join({**LLAMA, "batch": ""}.values())]),
        encoding="utf-8",
    )
    assert main(["--rows", str(rows), "--known", "--json", str(out)]) == 1
    found = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [(one["metric"], one["reason"]) for one in found] == [
        ("whole_s", "not yet recorded"), ("whole_s", "the source does not say how many sequences are worked on at once"),
    ]  # fmt: skip
    assert main(["--rows", str(rows), "--list"]) == 0
    assert "-m accuracy.serving.program" in capsys.readouterr().out
    assert not is_served(join([{**LLAMA, "metric": "step_time_s"}])[0])
