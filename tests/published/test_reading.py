"""Files that somebody else wrote: what is read, what is said, and how the command ends."""

import json
from dataclasses import replace

import pytest

from accuracy.__main__ import main
from accuracy.measures import measured, positive, spelled
from accuracy.plan import plan
from accuracy.rows import BadRows, join, read, tidy
from accuracy.said import repeated, said
from accuracy.training import planned_result
from accuracy.truth_of_runs import step_time_s
from tests.published.runs import LLAMA, run_of


@pytest.mark.parametrize(("text", "value"), [
    ("8", 8.0), ("1,234", 1234.0), ("12,345.6", 12345.6), ("8,5", 8.5), ("41%", 41.0), ("~3,100", 3100.0), ("3.2k", 3200.0), ("3100 ± 20", 3100.0),
    ("8.0 s", 8.0), ("3100 tokens/s/GPU", 3100.0), ("4-8", None), ("fast", None), ("nan", None), ("inf", None), ("-3", None), ("0", None), ("", None),
    ("1.234.567", None), (">3", None), ("54.3B", 54.3e9), ("1.3 million", 1.3e6),
])  # fmt: skip
def test_a_value_is_a_number_however_it_is_written(text, value):
    assert positive(text) == value


@pytest.mark.parametrize(("metric", "unit", "text", "found"), [
    ("tokens/sec/GPU", "", "800", ("tokens_per_s_per_chip", 800)), ("TGS", "", "800", ("tokens_per_s_per_chip", 800)),
    ("throughput", "tokens/s", "800", ("tokens_per_s_per_chip", 100)), ("tokens_per_s", "", "800", ("tokens_per_s_per_chip", 100)),
    ("samples_per_s_per_chip", "", "2", ("samples_per_s", 16)), ("seq/s", "", "2", ("samples_per_s", 2)),
    ("iteration time (ms)", "", "250", ("step_time_s", 0.25)), ("iter_time_ms", "", "250", ("step_time_s", 0.25)), ("step time", "", "250 ms", ("step_time_s", 0.25)),
    ("s/it", "", "4", ("step_time_s", 4)), ("it/s", "", "4", ("step_time_s", 0.25)), ("TFLOP/s/GPU", "", "150", ("tflops_per_chip", 150)),
    ("aggregate PFLOPS", "", "8", ("tflops_per_chip", 1000)), ("MFU (%)", "", "0.9", ("mfu", 0.009)), ("mfu", "", "41%", ("mfu", 0.41)), ("mfu", "", "41", ("mfu", 41)), ("MFU%", "", "41", ("mfu", 0.41)),
    ("step_time_s", "ms", "250", ("step_time_s", 0.25)), ("step_time_s", "s", "250", ("step_time_s", 250)), ("memory_gib", "GB", "80", ("memory_gib", 74.5058)),
    ("mfu", "%", "0.9", ("mfu", 0.009)), ("ttft_ms", "s", "0.05", ("ttft_ms", 50)), ("time_to_train_min", "hours", "2", ("time_to_train_min", 120)),
    ("peak_memory_gb", "", "80", ("memory_gib", 74.5058)), ("HFU", "%", "50", ("hfu", 0.5)), ("GPU-hours", "", "82,432", ("chip_hours", 82432)), ("Throughput (T/s/GPU)", "", "1,776", ("tokens_per_s_per_chip", 1776)), ("tokens / second / TPU-v4 chip", "", "2200", ("tokens_per_s_per_chip", 2200)), ("watts", "", "400", ("watts", 400)),
    ("time", "s", "9", ("time", 9)), ("tokens/s/node", "", "9", ("tokens/s/node", 9)),
    ("samp/s", "", "17", ("samples_per_s", 17)), ("Peak tokens/sec", "", "800", ("tokens_per_s_per_chip", 100)), ("step_avg (ms)", "", "178", ("step_time_s", 0.178)),
    ("Training Time (GPU hours)", "", "7.0M", ("chip_hours", 7e6)), ("H800 GPU hours", "", "172.8K", ("chip_hours", 172800)), ("GPU hours (K)", "", "130", ("chip_hours", 130000)),
    ("Time to train (min)", "", "11", ("time_to_train_min", 11)), ("latency in minutes", "", "11", ("time_to_train_min", 11)), ("Wall clock (h)", "", "8", ("time_to_train_min", 480)),
    ("training hours", "", "8", ("time_to_train_min", 480)), ("weeks", "", "2", ("time_to_train_min", 20160)), ("Exaflop/s", "", "0.008", ("tflops_per_chip", 1000)),
    ("MFU (PaLM)", "", "41", ("mfu", 41)), ("tokens/s (8 GPUs)", "", "800", ("tokens_per_s_per_chip", 100)), ("time (mean, ms)", "", "8", ("time (mean, ms)", 8)),
    ("exaFLOPs", "", "8", ("exaFLOPs", 8)), ("latency (ms)", "", "8", ("latency (ms)", 8)),
])  # fmt: skip
def test_a_metric_is_known_by_what_it_says(metric, unit, text, found):
    name, value = measured(metric, unit, text, 8)
    assert (name, value) == (found[0], pytest.approx(found[1]))


def test_a_rate_of_the_whole_job_needs_the_number_of_its_chips():
    assert measured("tokens/s", "", "800", None) == ("tokens/s", 800)
    assert spelled("Tokens/sec/GPU") == spelled("tokens_per_second_per_gpu") == "tokens per s per chip"


def test_a_rate_of_a_node_needs_the_number_of_its_chips():
    """It was in no table: such runs were refused."""
    row = {"metric": "tokens/s/node", "value": "8,000", "framework": "Megatron-LM"}
    assert run_of(**row, chips_per_node="4").metrics == {"tokens_per_s_per_chip": 2000}
    assert run_of(**row).metrics == {"tokens/s/node": 8000}


def test_an_mfu_of_more_than_all_is_none():
    with pytest.raises(Exception, match="more than all of the peak"):
        step_time_s(plan(run_of(metric="mfu", value="250")))


HEAD = "id{0}Chip{0}chips{0}framework{0}model{0}Seq Len{0}global_batch{0}dtype{0}metric{0}value\n"
ROW = "a{0}H100{0}8{0}FSDP{0}Llama 2 7B{0}4096{0}64{0}bf16{0}step_time_s{0}8.5\n"


@pytest.mark.parametrize(("mark", "coding"), [(",", "utf-8-sig"), (";", "utf-8"), ("\t", "utf-16")])
def test_a_table_of_any_office_is_read(tmp_path, mark, coding):
    path = tmp_path / "t.csv"
    path.write_text((HEAD + "\n" + ROW).format(mark), encoding=coding)
    (run,) = read([path])
    assert (run["chip"], run.whole("seq_len"), run.metrics) == ("H100", 4096, {"step_time_s": 8.5})


@pytest.mark.parametrize(("text", "why"), [
    ("id,chip\nx,y\n", "no column metric, value"), ("", "no column"), ("chip,metric,value,Chip\na,b,1,c\n", "column chip stands there twice"),
    ('chip,metric,value\nH100,"step_time_s,8\nH100,step_time_s,8\n', "never closed"),
])  # fmt: skip
def test_a_file_that_is_none_ends_with_one_line_and_two(tmp_path, capsys, text, why):
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadRows, match=why):
        read([path])
    assert main(["--rows", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_where_nothing_can_be_written_nothing_is_begun(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text((HEAD + ROW).format(","), encoding="utf-8")
    for option in (["--json", str(tmp_path / "no" / "x.json")], ["--page", str(tmp_path)], ["--bounds", str(path)]):
        assert main(["--rows", str(path), "--known", *option]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(("column", "text", "value"), [
    ("chips", "64 GPUs", 64), ("chips", "64 (8 nodes)", 64), ("chips", "1,024 GPUs", 1024), ("chips", "8 (per node)", None), ("global_batch", "4194304 tokens", None),
    ("seq_len", "8k", 8192), ("seq_len", "1M", 1048576), ("vocab", "32K", 32000), ("global_batch", "512 sequences", 512),
    ("pp", "none", 1), ("cp", "n/a", None), ("ep", "-", None), ("ep", "8-way", 8), ("chips", "16 x 8", 128), ("chips", "2x8 GPUs", 16), ("chips", "4 nodes", None), ("micro_batch", "2 per GPU", 2), ("micro_batch", "2/GPU", 2),
])  # fmt: skip
def test_counts_may_say_what_they_count(tmp_path, column, text, value):
    path = tmp_path / "t.csv"
    row = {**LLAMA, column: text}
    cells = ",".join(f'"{value}"' for value in row.values())
    path.write_text(f"{','.join(row)}\n{cells}\n", encoding="utf-8")
    assert read([path])[0].whole(column) == value


@pytest.mark.parametrize(("chip", "found"), [
    ("8*A100-SXM4-80G", ("A100-SXM4-80G", "8")), ("512 H100-80G", ("H100-80G", "512")), ("96xA100", ("A100", "96")), ("4090 D", ("4090 D", "")), ("910B", ("910B", "")),
    ("8 x NVIDIA GB200", ("NVIDIA GB200", "8")), ("16 MI300X", ("MI300X", "16")),
])  # fmt: skip
def test_how_many_chips_may_stand_before_their_name(chip, found):
    """Eight of them were one where a star or a space stood between."""
    row = tidy({**LLAMA, "chip": chip, "chips": ""}, "x")
    assert (row["chip"], row["chips"]) == found
    assert tidy({**LLAMA, "chips": "4 nodes", "chips_per_node": "8"}, "x")["chips"] == "32"


def test_a_comma_too_many_keeps_its_run_out_and_no_other(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text((HEAD + ROW.replace("64", "1,024") + ROW).format(","), encoding="utf-8")
    first, second = map(planned_result, read([path]))
    assert first.reason == "it has more cells than its file has columns: is there a comma outside of quotes?"
    assert second.plan is not None


def test_what_says_nothing_of_either_says_both():
    found = planned_result(
        run_of(model="ours", layers="", hidden="", heads="", params_b="", metric="watts", value="400")
    )
    assert "in no table of public models" in found.reason
    assert "no metric says how long a step takes: watts" in found.reason


def test_what_was_taken_for_what_is_said():
    rows = [LLAMA, {**LLAMA, "id": "x-002", "metric": "tokens_per_s_per_chip", "value": "4096"}]  # 8 s and 16 s a step
    remarks = said(planned_result(join(rows)[0]))
    assert any("read as one run with x-002" in text for text in remarks)
    assert any(
        "metrics disagree: a step takes 8 s by step_time_s, 16 s by tokens_per_s_per_chip" in text for text in remarks
    )
    assert "is in no rule" in said(planned_result(run_of(framework="ours")))[0]
    assert "PCIe card" in said(planned_result(run_of(chip="V100 PCIe 16GB")))[0]
    assert "of the chip's peak" in said(planned_result(run_of(value="0.5")))[0]
    assert "of 16 chips" in said(planned_result(run_of(dp="4")))[0]  # tp 2 x dp 4
    assert said(planned_result(run_of(dp="8"))) == []
    assert "they differ in seq_len" in repeated([run_of(), run_of(seq_len="4096")])[0]


def test_an_interrupted_run_writes_what_it_has(tmp_path, capsys, monkeypatch):
    path, out = tmp_path / "t.csv", tmp_path / "out.json"
    path.write_text((HEAD + ROW + ROW.replace("a{0}H100", "b{0}H200")).format(","), encoding="utf-8")
    monkeypatch.setenv("ANYCHIP_ACCURACY_CACHE", str(tmp_path / "cache"))
    done = []

    def stopped(result, *_):
        if done:
            raise KeyboardInterrupt
        done.append(result.run.id)
        return replace(result, forecast_s=8.0)

    monkeypatch.setattr("accuracy.training.with_forecast", stopped)
    assert main(["--rows", str(path), "--json", str(out)]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "accuracy: interrupted; the same command goes on where it was"
    found = {entry["id"]: entry for entry in json.loads(out.read_text(encoding="utf-8"))["rows"]}
    assert found["a"]["error"] is not None
    assert found["b"]["reason"] == "not reached: the run was interrupted"
